"""Backpressure: how many items may wait, in all and from one client. More are refused until some jobs are over."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.access.isolation import EVERYBODY
from service.access.models import Tenant
from service.bulk_models import Manifest
from service.db import KEPT, kept
from service.errors import FieldError, InvalidInput, QuotaExceeded, TooManyQueued
from service.models import Artifact, Holding, Image, Job, Shard, Upload
from service.settings import Settings
from service.states import TERMINAL_JOB, JobState, ShardState
from service.waiting import image_steps

GOING = [state for state in JobState if state not in TERMINAL_JOB]
SHORTEST, LONGEST, UNKNOWN = 5, 300, 30
"""Seconds after which to try again: at least, at most, and where nothing tells."""
FEW, OLD = 500, 1.0
"""Beyond so many jobs that are not over, they are counted once in so many seconds."""
QUEUED, STORED = "queued_items", "stored_bytes"
STORED_OLD = 15.0
QUOTAS_OLD = 5.0
"""Seconds after which a changed quota counts."""
Queued = dict[str | None, tuple[int, int]]
"""Items and jobs that are not over, by client."""


def queued(session: Session) -> Queued:
    """What counts now or, of many jobs, counted a moment ago, with what this process has `add`ed since."""
    of_clients = select(Job.client, func.sum(Job.items), func.count()).where(Job.state.in_(GOING)).group_by(Job.client)

    def read() -> Queued:
        return {of: (int(items), jobs) for of, items, jobs in session.execute(of_clients, execution_options=EVERYBODY)}

    def seconds(found: Queued) -> float:
        return OLD if sum(jobs for _, jobs in found.values()) > FEW else 0

    return kept(session, "limits", read, seconds)


def check(
    session: Session, settings: Settings, client: str | None, items: int, counted: Queued | None = None
) -> None:  # fmt: skip
    """Raises TooManyQueued, or QuotaExceeded, if `items` more are beyond a limit, InvalidInput if they always will be.

    A job that is not over counts with all its items, so that only jobs are read, never their items. Processes do not
    see each other's submissions of the same moment, so together they may go beyond a limit; so may those of the last
    second, once there are so many jobs that counting them would hold every submission up.
    """
    counted = queued(session) if counted is None else counted
    _check(session, "the service", settings.max_queued_items, sum(n for n, _ in counted.values()), items)
    if client is not None:
        own = counted.get(client, (0, 0))[0]
        most, whose = settings.max_queued_items_per_client, "one client"
        if settings.auth == "on":
            most, whose = quota(session, client, QUEUED, most), f"tenant {client}, quota {QUEUED}"
        _check(session, whose, most, own, items, client)
        room(session, settings, client)


def quota(session: Session, tenant: str, name: str, most: int) -> int:
    """A tenant's own, or `most`."""
    of_tenant = select(Tenant.quotas).where(Tenant.id == tenant)
    quotas = kept(session, ("quotas", tenant), lambda: session.scalar(of_tenant) or {}, lambda _: QUOTAS_OLD)
    return int(quotas.get(name, most))


def room(session: Session, settings: Settings, tenant: str, size: int = 0) -> None:
    """Raises QuotaExceeded if so many bytes more are beyond what a tenant may have stored.

    What jobs will store is not known when they are submitted; so one that has room left may go beyond it.
    """
    if settings.auth == "off" or not (most := quota(session, tenant, STORED, settings.max_stored_bytes_per_client)):
        return
    held = stored(session, tenant)
    if held + size > most or (not size and held >= most):
        more = f" and {size:,} more would be" if size else ""
        detail = f"{held:,} bytes are stored{more}; allowed for tenant {tenant}, quota {STORED}: {most:,}"
        raise QuotaExceeded(f"{detail}. Delete jobs, whose files go soon after")
    known = session.info[KEPT]
    until, _ = known[STORED, tenant]
    known[STORED, tenant] = (until, held + size)


def stored(session: Session, tenant: str) -> int:
    """Bytes of what a tenant posted and of its jobs' files, counted some seconds ago, and what `room` let in since."""

    def read() -> int:
        files = select(func.sum(Artifact.size)).join(Job, Job.id == Artifact.job_id)
        sums = [files.where(Job.tenant == tenant, Job.purged_at.is_(None))]
        for table in (Image, Upload, Manifest):
            held = (Holding.id == table.id) & (Holding.tenant == tenant) & (Holding.kind == table.__tablename__)
            sums.append(select(func.sum(table.size)).join(Holding, held))
        return sum(int(session.scalar(each, execution_options=EVERYBODY) or 0) for each in sums)

    return kept(session, (STORED, tenant), read, lambda _: STORED_OLD)


def add(counted: Queued, client: str | None, items: int) -> None:
    """Count a job that has just been taken."""
    queued, jobs = counted.get(client, (0, 0))
    counted[client] = (queued + items, jobs + 1)


def _check(session: Session, whose: str, most: int, queued: int, items: int, client: str | None = None) -> None:
    if items > most:
        raise InvalidInput(FieldError("body", f"asks for {items:,} items; allowed for {whose}: {most:,}"))
    if queued + items > most:
        detail = f"{queued:,} items are queued and {items:,} more asked for; allowed for {whose}: {most:,}"
        raise TooManyQueued(detail, _pause(session, queued + items - most, client))


def _pause(session: Session, items: int, client: str | None) -> int:
    """Seconds until so many items may be over, by what the workers that hold shards last reported of their speed."""
    speed = select(func.sum(Shard.progress["rate"].as_float() / func.nullif(image_steps(), 0))).join(
        Job, Job.id == Shard.job_id
    )
    running = speed.where(Shard.state == ShardState.RUNNING)
    own = running if client is None else running.where(Job.client == client)
    rate = session.scalar(own, execution_options=EVERYBODY)
    return min(max(round(items / rate), SHORTEST), LONGEST) if rate else UNKNOWN
