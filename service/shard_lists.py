"""Who computes what of a job: its shards, with the claims on them."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import queries
from service.cursors import page, timestamp
from service.models import Shard
from service.states import ShardState


class ShardStatus(BaseModel):
    """A run of a job's items, which one worker computes at a time."""

    number: int
    state: ShardState
    first_item: int
    items: int
    last: bool = Field(description="Made of all the other items, once they are over")
    epoch: int = Field(description="How often it was claimed")
    attempts: int = Field(description="Those that ended in an error since it last got on")
    crashes: int = Field(description="Workers that fell silent since it last got on")
    worker: str | None = Field(description="Who claimed it last, and holds it while it is running")
    heartbeat_at: datetime | None
    lease_expires_at: datetime | None
    not_before: datetime | None = Field(description="When it may be claimed again after an attempt that failed")
    steps_done: int = Field(description="Image-steps, as the last claim reported them")
    rate: float | None = Field(description="Image-steps a second; null unless it is running")
    checkpoint: bool = Field(description="Whether a later claim can go on where an earlier one stood")


class ShardList(BaseModel):
    shards: list[ShardStatus]
    next_cursor: str | None


def find(session: Session, job_id: str, states: Sequence[ShardState], limit: int, cursor: str | None) -> ShardList:
    """In order of their first items; with `states` only those in one of them. Raises NotFound, or InvalidInput."""
    queries.require(session, job_id)
    query = select(Shard).where(Shard.job_id == job_id)
    if states:
        query = query.where(Shard.state.in_(states))
    rows, following = page(session, query, limit, cursor, Shard.first_item, Shard.id)
    return ShardList(shards=[_status(row) for row in rows], next_cursor=following)


def _status(row: Shard) -> ShardStatus:
    running = row.state == ShardState.RUNNING
    return ShardStatus(
        number=int(row.id.rpartition(".")[2]), state=ShardState(row.state), first_item=row.first_item,
        items=row.item_count, last=row.last, epoch=row.epoch, attempts=row.attempts, crashes=row.crashes,
        worker=row.worker, heartbeat_at=timestamp(row.heartbeat_at), lease_expires_at=timestamp(row.lease_expires_at),
        not_before=timestamp(row.not_before), steps_done=row.progress.get("image_steps", 0),
        rate=row.progress.get("rate") if running else None, checkpoint=row.checkpoint is not None,
    )  # fmt: skip
