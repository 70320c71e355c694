"""A chunk of planned items as rows."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import update
from sqlalchemy.orm import Session

from service import reuse
from service.jobs import UNSYNCHRONIZED
from service.kinds.planning import ItemPlan
from service.models import Item, Shard
from service.states import ShardState
from service.submissions import fill


class Written(NamedTuple):
    """How many items and shards a job has by now, and how many items of the last chunk were taken over."""

    items: int
    shards: int
    reused: int


def write(
    session: Session, job_id: str, items: Sequence[ItemPlan], shard_items: int, before: Written, taking: bool
) -> Written:
    """Insert shards and items after those that there are; `taking` over what equal items of earlier jobs are."""
    ids = fill(session, job_id, items, shard_items, first=before.items, shard=before.shards)
    taken = _taken(session, job_id, items, before.items) if taking else []
    if taken:
        reuse.take_over(session, job_id, taken)
        _end_whole_shards(session, ids, {index - before.items for index, _ in taken}, len(items), shard_items)
    return Written(before.items + len(items), before.shards + len(ids), len(taken))


def _taken(session: Session, job_id: str, items: Sequence[ItemPlan], first: int) -> list[tuple[int, Item]]:
    found: dict[str, Item] = {}
    digests = [item.digest for item in items if item.digest]
    for begin in range(0, len(digests), reuse.AT_ONCE):
        found |= reuse.finished(session, job_id, digests[begin : begin + reuse.AT_ONCE])
    return [(first + i, found[item.digest]) for i, item in enumerate(items) if item.digest in found]


def _end_whole_shards(session: Session, ids: Sequence[str], taken: set[int], items: int, shard_items: int) -> None:
    over = [
        shard_id
        for n, shard_id in enumerate(ids)
        if taken.issuperset(range(n * shard_items, min((n + 1) * shard_items, items)))
    ]
    done = update(Shard).where(Shard.id.in_(over)).values(state=ShardState.DONE)
    session.execute(done, execution_options=UNSYNCHRONIZED)
