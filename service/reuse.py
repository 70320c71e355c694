"""Which items are equal: a digest of all that a study's result depends on, and what earlier jobs finished under it."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import func, insert, select, tuple_, update
from sqlalchemy.orm import Session

from service.access.isolation import EVERYBODY
from service.bulk_models import Reuse
from service.models import Artifact, Item, Job
from service.states import ItemState, JobState
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
        self._by_index = parameters.random_start  # which is drawn for an item's index

    def of(
        self, index: int, target: Mapping[str, Any], start: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> str | None:
        """32 hexadecimal digits; None where the name of an object does not tell what is in it."""
        if any(each["source"] == "object" and "modified" not in each for each in (target, start)):
            return None
        digest = self._base.copy()
        named = [{key: value for key, value in each.items() if key != "id"} for each in (target, start, settings)]
        digest.update(json.dumps([index if self._by_index else None, *named], sort_keys=True).encode())
        return digest.hexdigest()[:32]


def finished(session: Session, job_id: str, digests: Collection[str]) -> dict[str, Item]:
    """By digest, the newest equal item that another job finished; that is not deleted before this transaction ends."""
    there = (Job.id != job_id) & Job.deleted_at.is_(None) & (Job.state != JobState.VALIDATING)
    equal = Item.digest.in_(digests) & (Item.state == ItemState.SUCCEEDED) & there
    newest_first = (Item.finished_at.desc(), Item.job_id, Item.index)
    place = func.row_number().over(partition_by=Item.digest, order_by=newest_first).label("place")
    ranked = select(Item.job_id, Item.index, place).join(Job, Job.id == Item.job_id).where(equal).subquery()
    newest = select(ranked.c.job_id, ranked.c.index).where(ranked.c.place == 1)
    found = select(Item).join(Job, Job.id == Item.job_id).where(tuple_(Item.job_id, Item.index).in_(newest), there)
    locked = found.with_for_update(read=True, key_share=True, of=Job)  # which no worker of that job waits for
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
        execution_options=EVERYBODY,  # which an update of rows by their keys is in any case; they are of this job
    )  # fmt: skip
    for first in range(0, len(taken), AT_ONCE):
        _point(session, job_id, taken[first : first + AT_ONCE])
    known = set(session.scalars(select(Reuse.source_id).where(Reuse.job_id == job_id)))
    for source in sorted({item.job_id for _, item in taken} - known):
        session.add(Reuse(job_id=job_id, source_id=source))


def _point(session: Session, job_id: str, taken: Sequence[tuple[int, Item]]) -> None:
    """Artifact rows for items, by index, as the items have them that they are taken from."""
    of_sources: dict[tuple[str, int], list[Artifact]] = defaultdict(list)
    named = tuple_(Artifact.job_id, Artifact.item_index).in_({(item.job_id, item.index) for _, item in taken})
    for a in session.scalars(select(Artifact).where(named)):
        of_sources[a.job_id, a.item_index].append(a)
    rows = [
        {"job_id": job_id, "item_index": index, "name": a.name, "key": a.key, "media_type": a.media_type,
         "size": a.size, "sha256": a.sha256, "offset": a.offset}
        for index, item in taken
        for a in of_sources[item.job_id, item.index]
    ]  # fmt: skip
    if rows:
        session.execute(insert(Artifact), rows)
