"""Backpressure: how many items may wait, in all and from one client. More are refused until some jobs are over."""

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from service.errors import FieldError, InvalidInput, TooManyQueued
from service.models import Job, Shard
from service.settings import Settings
from service.states import TERMINAL_JOB, JobState, ShardState

GOING = [state for state in JobState if state not in TERMINAL_JOB]
SHORTEST, LONGEST, UNKNOWN = 5, 300, 30
"""Seconds after which to try again: at least, at most, and where nothing tells."""


def check(session: Session, settings: Settings, client: str | None, items: int) -> None:
    """Raises TooManyQueued if `items` more are beyond a limit, InvalidInput if they always will be.

    A job that is not over counts with all its items, so that only jobs are read, never their items. Submissions of the
    same moment do not see each other, so together they may go beyond a limit.
    """
    own = func.sum(case((Job.client == client, Job.items), else_=0))
    queued = session.execute(select(func.sum(Job.items), own).where(Job.state.in_(GOING))).one()
    _check(session, "the service", settings.max_queued_items, int(queued[0] or 0), items)
    if client is not None:
        _check(session, "one client", settings.max_queued_items_per_client, int(queued[1] or 0), items, client)


def _check(session: Session, whose: str, most: int, queued: int, items: int, client: str | None = None) -> None:
    if items > most:
        raise InvalidInput(FieldError("body", f"asks for {items:,} items; allowed for {whose}: {most:,}"))
    if queued + items > most:
        detail = f"{queued:,} items are queued and {items:,} more asked for; allowed for {whose}: {most:,}"
        raise TooManyQueued(detail, _pause(session, queued + items - most, client))


def _pause(session: Session, items: int, client: str | None) -> int:
    """Seconds until so many items may be over, by what the workers that hold shards last reported of their speed."""
    steps = Job.parameters["steps"].as_integer() * func.coalesce(Job.parameters["restarts"].as_integer(), 1)
    speed = select(func.sum(Shard.progress["rate"].as_float() / steps)).join(Job, Job.id == Shard.job_id)
    running = speed.where(Shard.state == ShardState.RUNNING)
    rate = session.scalar(running if client is None else running.where(Job.client == client))
    return min(max(round(items / rate), SHORTEST), LONGEST) if rate else UNKNOWN
