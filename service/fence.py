"""A worker's hold on a shard, which each of its writes carries."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from service.jobs import UNSYNCHRONIZED
from service.models import Shard
from service.states import ShardState


class LeaseLost(RuntimeError):  # noqa: N818 - an event more than a fault
    """Another worker holds the shard, or it is over: drop everything about it."""


@dataclass(frozen=True)
class Lease:
    """A worker's hold on a shard. Only the newest epoch may write."""

    shard_id: str
    job_id: str
    epoch: int


def fence(session: Session, lease: Lease, **values: Any) -> None:
    """Lock the shard's row for this transaction, check that the lease still stands, and write these values to it.

    Raises LeaseLost.
    """
    mine = (Shard.id == lease.shard_id) & (Shard.epoch == lease.epoch) & (Shard.state == ShardState.RUNNING)
    fenced = session.scalars(
        update(Shard).where(mine).values(values or {"epoch": lease.epoch}).returning(Shard.id),
        execution_options=UNSYNCHRONIZED,
    ).one_or_none()
    if fenced is None:
        raise LeaseLost(f"{lease.shard_id} is no longer held under epoch {lease.epoch}")
