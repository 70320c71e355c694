"""Backpressure: how many items may wait, in all and from one client. More are refused until some jobs are over."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.access.isolation import EVERYBODY
from service.access.models import Tenant
from service.db import kept
from service.errors import FieldError, InvalidInput, TooManyQueued
from service.models import Job, Shard
from service.settings import Settings
from service.states import TERMINAL_JOB, JobState, ShardState
from service.waiting import image_steps

GOING = [state for state in JobState if state not in TERMINAL_JOB]
SHORTEST, LONGEST, UNKNOWN = 5, 300, 30
"""Seconds after which to try again: at least, at most, and where nothing tells."""
FEW, OLD = 500, 1.0
"""Beyond so many jobs that are not over, they are counted once in so many seconds."""
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
    """Raises TooManyQueued if `items` more are beyond a limit, InvalidInput if they always will be.

    A job that is not over counts with all its items, so that only jobs are read, never their items. Processes do not
    see each other's submissions of the same moment, so together they may go beyond a limit; so may those of the last
    second, once there are so many jobs that counting them would hold every submission up.
    """
    counted = queued(session) if counted is None else counted
    _check(session, "the service", settings.max_queued_items, sum(n for n, _ in counted.values()), items)
    if client is not None:
        own = counted.get(client, (0, 0))[0]
        whose, most = _of_client(session, settings, client)
        _check(session, whose, most, own, items, client)


def _of_client(session: Session, settings: Settings, client: str) -> tuple[str, int]:
    """Who it is, and how many items may wait; a tenant, where keys are asked for, may have its own quota."""
    most = settings.max_queued_items_per_client
    if settings.auth == "off":
        return "one client", most
    of_tenant = select(Tenant.quotas).where(Tenant.id == client)
    quotas = kept(session, ("quotas", client), lambda: session.scalar(of_tenant) or {}, lambda _: QUOTAS_OLD)
    return f"tenant {client}, quota queued_items", quotas.get("queued_items", most)


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
