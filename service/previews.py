"""What items look like while they are computed, as their workers last told: drawn only for who asks.

A shard's heartbeat tells of an object with the pixels of some of its items (`workers.previews`). It is worth something
while the shard is held under the epoch of the object's key, and where its job is paused, until it is claimed again;
nothing else depends on it.
"""

import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import responses
from service.cursors import at
from service.db import among
from service.errors import NotFound
from service.keys import previews_key
from service.models import Item, Job, Shard
from service.objects import ObjectNotFound, Storage
from service.states import ItemState, JobState, ShardState


class Shown(NamedTuple):
    """The step at which an item was looked at, what its curve shows there, when, and where its pixels lie as bytes."""

    step: int
    value: float | None
    at: float
    key: str
    offset: int
    side: int


def find(session: Session, rows: Sequence[Item]) -> dict[int, Shown]:
    """Those of a job's items that are shown, by index."""
    asked = {row.index: row.shard_id for row in rows if row.state in (ItemState.RUNNING, ItemState.QUEUED)}
    if not asked:
        return {}
    paused = (Shard.state == ShardState.QUEUED) & (Job.state == JobState.PAUSED)
    shown = (Shard.state == ShardState.RUNNING) | paused
    found = {}
    for shard in session.scalars(select(Shard).join(Job).where(among(Shard.id, set(asked.values())), shown)):
        if told := _own(shard.progress, shard.epoch):
            key = previews_key(shard.job_id, shard.id, shard.epoch, told["number"])
            when, side = (shard.heartbeat_at or 0.0) - told["age"], told["side"]
            for place, (index, step, *value) in enumerate(told["items"]):  # a worker from before tells no value
                if index in asked:
                    found[index] = Shown(step, value[0] if value else None, when, key, place * side * side * 3, side)
    return found


def _own(progress: Mapping[str, Any], epoch: int) -> dict[str, Any] | None:
    """What was told under this epoch: what a shard reported may be kept into the next one."""
    told: dict[str, Any] | None = progress.get("previews")
    return told if told and told.get("epoch", epoch) == epoch else None  # a worker from before tells no epoch


def stored(session: Session, job_id: str) -> Iterator[str]:
    """The keys of what may be shown of a job's shards that nobody holds."""
    let_go = (Shard.job_id == job_id) & (Shard.state == ShardState.QUEUED)
    for shard_id, epoch, progress in session.execute(select(Shard.id, Shard.epoch, Shard.progress).where(let_go)):
        if told := _own(progress, epoch):
            yield previews_key(job_id, shard_id, epoch, told["number"])


def response(row: Item, shown: Mapping[int, Shown]) -> responses.ItemPreview | None:
    if (found := shown.get(row.index)) is None:
        return None
    url = f"/v1/jobs/{row.job_id}/items/{row.index}/preview.png?step={found.step}"
    return responses.ItemPreview(step=found.step, value=found.value, at=at(found.at), url=url)


def shown(session: Session, job_id: str, index: int) -> Shown:
    """Raises NotFound."""
    of_job = (Item.job_id == job_id) & (Item.index == index) & Job.deleted_at.is_(None)
    row = session.scalar(select(Item).join(Job).where(of_job))
    if row is None or (found := find(session, [row]).get(index)) is None:
        raise NotFound(f"no preview of item {index} in job {job_id}")
    return found


def picture(storage: Storage, shown: Shown) -> bytes:
    """It as a PNG. Raises NotFound if the object has gone meanwhile, or StorageError."""
    try:
        pixels = storage.get_range(shown.key, shown.offset, shown.side * shown.side * 3)
    except ObjectNotFound as e:
        raise NotFound("the preview is over") from e
    file = io.BytesIO()
    Image.frombytes("RGB", (shown.side, shown.side), pixels).save(file, "PNG", compress_type=zlib.Z_RLE)
    return file.getvalue()
