"""Sends what is in the outbox, at least once, from any number of processes.

A delivery is claimed by moving its time forward, so that what a killed process had claimed is sent later. One is under
way for each webhook and process: a slow target holds up nobody but itself.
"""

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpcore2
import structlog
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service import metrics
from service.bulk_models import Delivery, Webhook
from service.db import Database, now
from service.settings import Settings
from service.webhooks import signing, targets
from service.webhooks.posting import Answer, post
from service.webhooks.registry import CHUNK, PENDING, clear, disable, give_up, valid
from service.webhooks.sealing import unsealed

log = structlog.get_logger()
SCHEDULE = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds before each attempt, since the one before. A delivery whose last attempt fails is given up."""
JITTER = 0.2  # of a pause, at most: what failed together does not come back together
CLAIM = 60.0  # seconds until what a killed process was sending is sent by another
KEPT = 30 * 86_400.0
THREADS = 16
TICK, PURGE = 1.0, 3600.0
TURN = 10.0  # seconds for which one webhook may keep a thread
LONGEST_REST = 60.0
GONE = 410


@dataclass(frozen=True)
class Claimed:
    """A delivery that is this process's to send until its claim runs out."""

    id: str
    webhook_id: str
    url: str
    body: str
    at: int
    secrets: Sequence[str] = field(repr=False)


def due(session: Session) -> Sequence[str]:
    """The webhooks for which something waits to be sent now."""
    at = session.scalars(select(now())).one()  # once: a clock that moves on within a statement uses no index
    waits = (Delivery.webhook_id == Webhook.id) & PENDING & (Delivery.next_at <= at)
    return session.scalars(select(Webhook.id).where(select(Delivery.id).where(waits).exists())).all()


def claim(session: Session, webhook_id: str, settings: Settings) -> Claimed | None:
    """Take the delivery to a webhook that has waited longest, if there is one and no other process has it."""
    at = session.scalars(select(now())).one()
    hook = session.get(Webhook, webhook_id)
    if hook is not None and hook.disabled_at is not None:  # as this event was written
        give_up(session, webhook_id)
        return None
    waits = (Delivery.webhook_id == webhook_id) & PENDING & (Delivery.next_at <= at)
    oldest = select(Delivery).where(waits).order_by(Delivery.next_at).limit(1).with_for_update(skip_locked=True)
    row = session.scalars(oldest).one_or_none()
    if hook is None or row is None:
        return None
    secrets = [text for s in valid(hook, at) if (text := unsealed(s["secret"], settings))]
    if not secrets:
        disable(session, webhook_id, "its secret was sealed under another ROBUSTREPS_SECRET_KEY: rotate it")
        return None
    row.next_at = at + CLAIM
    return Claimed(row.id, hook.id, hook.url, row.body, int(at), secrets)


def record(session: Session, claimed: Claimed, answer: Answer) -> None:
    """How an attempt ended. The webhook may be gone by now, or the delivery have arrived from another process."""
    if answer.status == GONE:
        disable(session, claimed.webhook_id, "it answered 410 (Gone)")
    row = session.get(Delivery, claimed.id, with_for_update=True)
    if row is None or (answer.error and row.delivered_at):
        return
    at = session.scalars(select(now())).one()
    row.attempts, row.status, row.error = row.attempts + 1, answer.status, answer.error
    if answer.error is None:
        row.delivered_at, row.failed_at = at, None  # it may have been given up meanwhile
    elif answer.status == GONE or row.attempts >= len(SCHEDULE):
        row.failed_at = at
    else:
        row.next_at = at + SCHEDULE[row.attempts] * random.uniform(1, 1 + JITTER)


def purge(session: Session, most: int) -> int:
    """Remove old deliveries; answers how many, at most `most`."""
    return clear(session, Delivery.created_at < session.scalars(select(now())).one() - KEPT, most)


class Sender:
    """A thread that looks for what is due every second, and a small pool that sends it."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self.db, self.settings = db, settings
        self._tls = httpcore2.default_ssl_context()
        self._stop, self._pool = threading.Event(), ThreadPoolExecutor(THREADS, "webhooks")
        self._busy: set[str] = set()
        self._rests: dict[str, tuple[int, float]] = {}  # failures in a row, and until when to leave it alone
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """What is under way ends first, which takes posting.SECONDS at most."""
        self._stop.set()
        self._thread.join(5)
        self._pool.shutdown(cancel_futures=True)

    def _run(self) -> None:
        purged = -PURGE
        while not self._stop.wait(TICK):
            try:
                self.begin()
                if time.monotonic() - purged > PURGE:
                    with self.db.transaction() as session:
                        if purge(session, CHUNK) < CHUNK:  # otherwise at the next tick
                            purged = time.monotonic()
            except OperationalError as e:
                log.warning("webhooks wait for the database", reason=str(e))
            except Exception:  # nothing else sends what waits, so nothing may end this thread
                log.exception("looking for deliveries failed; trying again")

    def begin(self) -> None:
        """Hand every webhook that has something due, and is not busy or at rest, to the pool."""
        with self.db.reading() as session:
            found = due(session)
        for webhook_id in found:
            if webhook_id not in self._busy and self._rests.get(webhook_id, (0, 0.0))[1] <= time.monotonic():
                self._busy.add(webhook_id)
                self._pool.submit(self._serve, webhook_id)

    def _serve(self, webhook_id: str) -> None:
        """Send what is due to a webhook, one after the other, until one fails or its turn is over."""
        end = time.monotonic() + TURN
        try:
            while not self._stop.is_set() and time.monotonic() < end and self._send_one(webhook_id):
                pass
        except OperationalError as e:  # what was sent but not recorded is sent again
            log.warning("a delivery waits for the database", webhook=webhook_id, reason=str(e))
        except Exception:
            log.exception("sending failed; trying again", webhook=webhook_id)
            self._rest(webhook_id)
        finally:
            self._busy.discard(webhook_id)

    def _send_one(self, webhook_id: str) -> bool:
        """Whether to go on with the next one."""
        with self.db.transaction() as session:
            claimed = claim(session, webhook_id, self.settings)
        if claimed is None:
            return False
        begun, answer = time.monotonic(), self._send(claimed)
        with self.db.transaction() as session:
            record(session, claimed, answer)
        said = {"webhook": webhook_id, "delivery": claimed.id, "status": answer.status}
        took = round(time.monotonic() - begun, 3)
        metrics.DELIVERY.observe(took)
        metrics.DELIVERIES.labels("failed" if answer.error else "delivered").inc()
        if answer.error is None:
            self._rests.pop(webhook_id, None)
            log.info("delivered", **said, seconds=took)
            return True
        log.warning("not delivered", **said, seconds=took, reason=answer.error)
        self._rest(webhook_id)
        return False

    def _rest(self, webhook_id: str) -> None:
        """A target that fails is asked less often, whatever waits for it, so that its timeouts fill no pool."""
        failures = self._rests.get(webhook_id, (0, 0.0))[0] + 1
        self._rests[webhook_id] = failures, time.monotonic() + min(2.0 ** min(failures, 10), LONGEST_REST)

    def _send(self, claimed: Claimed) -> Answer:
        try:
            url = targets.parse(claimed.url, self.settings)
            addresses = targets.resolve(url, self.settings)
        except targets.Refused as e:
            return Answer(None, f"refused: the address {e}")
        except (OSError, UnicodeError) as e:
            return Answer(None, f"the name cannot be resolved: {e}")
        headers = signing.headers(claimed.secrets, claimed.id, claimed.at, claimed.body)
        return post(url, addresses, headers, claimed.body, self._tls)
