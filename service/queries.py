"""What clients read: rows turned into responses. Nothing here writes."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, defer

from service import item_lists, previews, rendering, responses
from service.bulk_models import Label
from service.cursors import at, page, timestamp
from service.db import among
from service.errors import NotFound
from service.item_lists import Wanted
from service.models import Artifact, Epoch, Evaluation, Item, Job
from service.states import JobState


class Filter(NamedTuple):
    """Which jobs a list has: all that is given must hold. Times are in seconds since the epoch.

    `labels` are "key=value" or "key"; `parent` asks for the parts of a recipe, `top_level` leaves every part out.
    """

    states: Sequence[JobState] = ()
    kind: str | None = None
    labels: Sequence[str] = ()
    created_after: float | None = None
    created_before: float | None = None
    text: str | None = None
    parent: str | None = None
    top_level: bool = False

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """What must hold of a row."""
        yield Job.deleted_at.is_(None)
        if self.states:
            yield Job.state.in_(self.states)
        if self.kind is not None:
            yield Job.kind == self.kind
        for label in self.labels:
            key, has_value, value = label.partition("=")
            named = select(Label.job_id).where(Label.job_id == Job.id, Label.key == key)
            yield (named.where(Label.value == value) if has_value else named).exists()
        if self.created_after is not None:
            yield Job.created_at > self.created_after
        if self.created_before is not None:
            yield Job.created_at < self.created_before
        if self.text is not None:
            yield Job.text.contains(self.text.lower(), autoescape=True)
        if self.parent is not None:
            yield Job.parent_id == self.parent
        if self.top_level:
            yield Job.parent_id.is_(None)


def job(session: Session, job_id: str) -> responses.Job:
    """Raises NotFound."""
    if not (found := whole(session, [job_id])):
        raise NotFound(f"no job {job_id}")
    return found[0]


def whole(session: Session, ids: Collection[str]) -> list[responses.Job]:
    """Those of these jobs that there are."""
    rows = session.scalars(select(Job).where(among(Job.id, ids), Job.deleted_at.is_(None))).all()
    return rendering.wholly(session, rows)


def jobs(session: Session, only: Filter, limit: int, cursor: str | None = None) -> responses.JobList:
    """Newest first. Raises InvalidInput for a cursor that is none."""
    query = select(Job).where(*only.conditions()).options(defer(Job.parameters))
    rows, following = page(session, query, limit, cursor, Job.created_at, Job.id, newest=True)
    return responses.JobList(jobs=rendering.briefly(session, rows), next_cursor=following)


def items(session: Session, job_id: str, limit: int, wanted: Wanted, counted: bool = False) -> responses.ItemList:
    """Those that are wanted, and if `counted`, how many there are of them. Raises NotFound, or InvalidInput."""
    require(session, job_id)
    rows, following = item_lists.find(session, job_id, wanted, limit)
    total = item_lists.count(session, job_id, wanted) if counted else None
    return responses.ItemList(items=_items(session, job_id, rows), next_cursor=following, total=total)


def item(session: Session, job_id: str, index: int) -> responses.Item:
    """Raises NotFound."""
    require(session, job_id)
    row = session.get(Item, (job_id, index))
    if row is None:
        raise NotFound(f"no item {index} in job {job_id}")
    return _items(session, job_id, [row])[0]


def artifacts(session: Session, job_id: str, limit: int, cursor: str | None) -> responses.ArtifactList:
    """Everything that a job has stored so far, in order of item and name. Raises NotFound."""
    require(session, job_id)
    query = select(Artifact).where(Artifact.job_id == job_id)
    rows, following = page(session, query, limit, cursor, Artifact.item_index, Artifact.name)
    listed = [responses.JobArtifact(item=row.item_index, **_artifact(row).model_dump()) for row in rows]
    return responses.ArtifactList(artifacts=listed, next_cursor=following)


def epochs(session: Session, job_id: str) -> responses.EpochList:
    """In order. Raises NotFound."""
    require(session, job_id)
    rows = session.scalars(select(Epoch).where(Epoch.job_id == job_id).order_by(Epoch.epoch))
    return responses.EpochList(
        epochs=[responses.Epoch(epoch=row.epoch, metrics=row.metrics, at=at(row.at)) for row in rows]
    )


def evaluations(session: Session, model_digest: str) -> responses.EvaluationList:
    """Of the network with these weights, newest first."""
    deleted = select(Job.id).where(Job.deleted_at.is_not(None))
    measured = (Evaluation.model_digest == model_digest) & Evaluation.job_id.not_in(deleted)
    found = select(Evaluation).where(measured).order_by(Evaluation.at.desc())
    return responses.EvaluationList(
        evaluations=[
            responses.ModelEvaluation(
                job=row.job_id,
                dataset=row.dataset,
                at=at(row.at),
                summary={name: value for name, value in row.summary.items() if name not in ("classes", "confusion")},
            )
            for row in session.scalars(found.limit(100))
        ]
    )


def artifact(session: Session, job_id: str, index: int, name: str) -> Artifact:
    """Raises NotFound."""
    require(session, job_id)
    row = session.get(Artifact, (job_id, index, name))
    if row is None:
        raise NotFound(f"no artifact {name} of item {index} in job {job_id}")
    return row


def require(session: Session, job_id: str) -> None:
    """Raises NotFound for a job that never was, or was deleted."""
    if session.scalar(select(Job.id).where(Job.id == job_id, Job.deleted_at.is_(None))) is None:
        raise NotFound(f"no job {job_id}")


def _items(session: Session, job_id: str, rows: Sequence[Item]) -> list[responses.Item]:
    stored: dict[int, list[responses.Artifact]] = defaultdict(list)
    shown = previews.find(session, rows)
    if rows:
        wanted = (Artifact.job_id == job_id) & Artifact.item_index.in_([row.index for row in rows])
        for a in session.scalars(select(Artifact).where(wanted).order_by(Artifact.name)):
            stored[a.item_index].append(_artifact(a))
    return [
        responses.Item(
            index=row.index, state=row.state, target=row.target, start=row.start, settings=row.settings,
            metrics=row.metrics, provenance=row.provenance, error=row.error, finished_at=timestamp(row.finished_at),
            epoch=row.epoch, artifacts=stored[row.index], checkpoint=_checkpoint(row),
            preview=previews.response(row, shown),
        )
        for row in rows
    ]  # fmt: skip


def _checkpoint(row: Item) -> responses.ItemCheckpoint | None:
    if row.checkpoint is None:
        return None
    kept = {name: row.checkpoint[name] for name in ("step", "size", "sha256")}
    return responses.ItemCheckpoint(url=f"/v1/jobs/{row.job_id}/items/{row.index}/checkpoint", **kept)


def _artifact(row: Artifact) -> responses.Artifact:
    # A retry makes a summary anew under its name, but never under the address of what was there before.
    url = f"/v1/jobs/{row.job_id}/items/{row.item_index}/artifacts/{row.name}?v={row.sha256[:16]}"
    return responses.Artifact(name=row.name, media_type=row.media_type, size=row.size, sha256=row.sha256, url=url)
