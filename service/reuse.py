"""Which items are equal: a digest of all that a study's result depends on, and what earlier jobs finished under it."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select, tuple_, update
from sqlalchemy.orm import Session

from service.bulk_models import Reuse
from service.models import Artifact, Item, Job
from service.states import ItemState
from service.studies import StudyParameters

SOURCES = {"targets", "start", "starts", "images", "first", "second", "coordinates", "combinations", "radii", "lambdas"}
"""Parameters that an item has resolved."""
WITHOUT_EFFECT = {"preset", "random_coordinates"}
AT_ONCE = 500


class Digests:
    """Of a study's items, by its parameters. Names of models and data sets mean the same for ever."""

    def __init__(self, parameters: StudyParameters) -> None:
        known = parameters.model_dump(mode="json", exclude=SOURCES | WITHOUT_EFFECT)
        self._base = hashlib.sha256(json.dumps(known, sort_keys=True).encode())

    def of(self, target: Mapping[str, Any], start: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
        """32 hexadecimal digits."""
        digest = self._base.copy()
        named = [{key: value for key, value in each.items() if key != "id"} for each in (target, start, settings)]
        digest.update(json.dumps(named, sort_keys=True).encode())
        return digest.hexdigest()[:32]


def finished(session: Session, digests: Collection[str]) -> dict[str, Item]:
    """By digest, the newest finished items that are equal; their jobs are not deleted before this transaction ends."""
    done = (Item.state == ItemState.SUCCEEDED) & Job.deleted_at.is_(None)
    found = select(Item).join(Job, Job.id == Item.job_id).where(Item.digest.in_(digests), done)
    locked = found.order_by(Item.finished_at).with_for_update(read=True, of=Job)
    return {str(item.digest): item for item in session.scalars(locked)}


def take_over(session: Session, job_id: str, taken: Sequence[tuple[int, Item]]) -> None:
    """End items of a job, by index, as equal ones ended; their files are the same objects, which are kept for both."""
    session.execute(
        update(Item),
        [
            {"job_id": job_id, "index": index, "state": ItemState.SUCCEEDED, "metrics": item.metrics,
             "provenance": {**(item.provenance or {}), "reused": {"job": item.job_id, "index": item.index}},
             "epoch": item.epoch, "finished_at": item.finished_at}
            for index, item in taken
        ],
    )  # fmt: skip
    for first in range(0, len(taken), AT_ONCE):
        _point(session, job_id, {(item.job_id, item.index): index for index, item in taken[first : first + AT_ONCE]})
    known = set(session.scalars(select(Reuse.source_id).where(Reuse.job_id == job_id)))
    for source in sorted({item.job_id for _, item in taken} - known):
        session.add(Reuse(job_id=job_id, source_id=source))


def _point(session: Session, job_id: str, indices: Mapping[tuple[str, int], int]) -> None:
    """Artifact rows for the items at `indices`, by the job and index of the items they are taken from."""
    named = tuple_(Artifact.job_id, Artifact.item_index).in_(indices)
    rows = [
        {"job_id": job_id, "item_index": indices[a.job_id, a.item_index], "name": a.name, "key": a.key,
         "media_type": a.media_type, "size": a.size, "sha256": a.sha256, "offset": a.offset}
        for a in session.scalars(select(Artifact).where(named))
    ]  # fmt: skip
    if rows:
        session.execute(insert(Artifact), rows)
