"""What a worker writes of a shard's items while it holds it: results, failures, checkpoints, epochs of training.

As in `leases`, each function is one short transaction in the session it is given, and may be committed twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from service.bulk_models import ResultShard
from service.db import now
from service.fence import Lease, LeaseLost, fence
from service.joblog import LONGEST, Event, note
from service.models import Artifact, Epoch, Item, Shard
from service.objects import Part, Stored
from service.states import ItemState

PROGRESS = {"attempts": 0, "crashes": 0}
"""Work that moves on is not what fails attempts or kills workers: both are counted anew."""


@dataclass(frozen=True)
class Result:
    """An item that succeeded: its metrics, how it came about, its stored files (with media types) by name."""

    index: int
    metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]
    artifacts: Mapping[str, tuple[Stored | Part, str]]


def save_item(
    session: Session,
    lease: Lease,
    index: int,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    artifacts: Mapping[str, tuple[Stored, str]],
) -> bool:
    """An item succeeded. False if this lease has saved it already. Raises LeaseLost."""
    return bool(save_items(session, lease, [Result(index, metrics, provenance, artifacts)]))


def save_items(session: Session, lease: Lease, results: Sequence[Result], tar: Stored | None = None) -> int:
    """Items succeeded whose files lie in `tar`, or in objects of their own: all of them are saved, or none.

    Answers how many of them this lease had not saved already. Raises LeaseLost.
    """
    going = _still_going(session, lease, [result.index for result in results], ItemState.SUCCEEDED, PROGRESS)
    ended = [result for result in results if result.index in going]
    if not ended:
        return 0
    connection = session.connection()  # which sends many rows at once
    connection.execute(
        update(Item)
        .where(Item.job_id == lease.job_id, Item.index == bindparam("of"))
        .values(state=ItemState.SUCCEEDED, finished_at=now(), epoch=lease.epoch, metrics=bindparam("measured"),
                provenance=bindparam("came_about")),
        [{"of": r.index, "measured": dict(r.metrics), "came_about": dict(r.provenance)} for r in ended],
    )  # fmt: skip
    files = [
        {"job_id": lease.job_id, "item_index": r.index, "name": name, "media_type": media_type, "offset": None,
         **stored._asdict()}
        for r in ended
        for name, (stored, media_type) in r.artifacts.items()
    ]  # fmt: skip
    if files:
        connection.execute(insert(Artifact), files)
    if tar is not None:
        first = min(result.index for result in ended)
        session.add(ResultShard(job_id=lease.job_id, first_item=first, items=len(ended), **tar._asdict()))
    return len(ended)


def error_of(title: str, detail: str) -> dict[str, str]:
    """What an item has of its failure. Postgres finds nothing in JSON that holds a NUL, as the end of a stderr may."""
    return {"title": title.replace("\0", "\ufffd"), "detail": detail.replace("\0", "\ufffd")}


def fail_item(session: Session, lease: Lease, index: int, title: str, detail: str) -> None:
    """An item cannot be computed; its neighbours go on. Raises LeaseLost."""
    if _still_going(session, lease, [index], ItemState.FAILED, {}):
        error = error_of(title, detail)
        values = {"state": ItemState.FAILED, "finished_at": now(), "epoch": lease.epoch, "error": error}
        session.connection().execute(
            update(Item).where(Item.job_id == lease.job_id, Item.index == index).values(values)
        )
        note(session, lease, Event.ITEM_FAILED, item=index, title=title, detail=detail[:LONGEST])


def save_checkpoint(session: Session, lease: Lease, stored: Stored) -> str | None:
    """Point to where a later claim goes on with the shard; answers the key that nothing points to any more.

    Raises LeaseLost.
    """
    fence(session, lease, **PROGRESS)
    shard = session.get_one(Shard, lease.shard_id)
    before, shard.checkpoint = shard.checkpoint, stored._asdict()
    note(session, lease, Event.CHECKPOINTED, size=stored.size)
    # One from before this claim may be that of other shards too: when a shard is split, each part goes on from it.
    of_this_claim = before is not None and _folder(before["key"]) == _folder(stored.key)
    return _replaced(before, stored) if of_this_claim else None


def save_item_checkpoint(session: Session, lease: Lease, index: int, stored: Stored, step: int) -> str | None:
    """The same for one item, whose work has come to `step`. Raises LeaseLost."""
    fence(session, lease, **PROGRESS)
    item = session.get_one(Item, (lease.job_id, index))
    before, item.checkpoint = item.checkpoint, {**stored._asdict(), "step": step}
    note(session, lease, Event.CHECKPOINTED, item=index, step=step, size=stored.size)
    return _replaced(before, stored)


def record_epoch(session: Session, lease: Lease, epoch: int, metrics: Mapping[str, Any]) -> None:
    """What training measured after an epoch; an epoch that is trained again after a crash is recorded anew."""
    fence(session, lease)
    session.merge(Epoch(job_id=lease.job_id, epoch=epoch, metrics=dict(metrics), at=session.scalar(select(now()))))


def _replaced(before: Mapping[str, Any] | None, stored: Stored) -> str | None:
    return str(before["key"]) if before and before["key"] != stored.key else None


def _folder(key: str) -> str:
    return key.rpartition("/")[0]


def _still_going(
    session: Session, lease: Lease, indices: Sequence[int], state: ItemState, of_shard: Mapping[str, Any]
) -> set[int]:
    """Those items that may end now; not those that this lease has ended so, even if they were reopened since.

    Their rows are locked. Raises LeaseLost if one of them is over otherwise, or not the shard's.
    """
    fence(session, lease, **of_shard)
    mine = (Item.job_id == lease.job_id) & Item.index.in_(indices) & (Item.shard_id == lease.shard_id)
    found = select(Item.index, Item.state, Item.epoch).where(mine).order_by(Item.index).with_for_update()
    rows = session.execute(found).all()
    going = {index for index, now_in, _ in rows if now_in == ItemState.RUNNING}
    known = {i for i, now_in, epoch in rows if now_in == ItemState.QUEUED or (now_in, epoch) == (state, lease.epoch)}
    if over := set(indices) - going - known:
        raise LeaseLost(f"items {sorted(over)} of {lease.shard_id} are already over, or not its own")
    return going
