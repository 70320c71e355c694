"""What clients read: rows turned into responses. Nothing here writes."""

import base64
import binascii
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, or_, select, tuple_
from sqlalchemy.orm import Session

from service import schemas
from service.errors import FieldError, InvalidInput, NotFound
from service.models import Artifact, Epoch, Evaluation, Item, Job, Shard, Transition
from service.states import TERMINAL_ITEM, JobState, ShardState
from service.submissions import RECIPE

LINKS = ("items", "artifacts", "cancel", "pause", "resume", "retry")


def timestamp(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def encode_cursor(*parts: Any) -> str:
    return base64.urlsafe_b64encode("|".join(map(str, parts)).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, count: int) -> list[str]:
    """Raises InvalidInput for anything that `encode_cursor` did not make."""
    try:
        parts = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split("|")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        parts = []
    if len(parts) != count or not all(part.isprintable() for part in parts):
        raise _bad_cursor()
    return parts


def _bad_cursor() -> InvalidInput:
    return InvalidInput(FieldError("cursor", "is not a cursor; allowed: next_cursor of the page before"))


def number(text: str, kind: type[float] | type[int]) -> float:
    """A number out of a cursor. Raises InvalidInput."""
    try:
        number = kind(text)
    except ValueError:
        number = math.inf
    if not abs(number) < 2**62:
        raise _bad_cursor()
    return number


def job(session: Session, job_id: str) -> schemas.Job:
    """Raises NotFound."""
    row = session.get(Job, job_id)
    if row is None:
        raise NotFound(f"no job {job_id}")
    found = _jobs(session, [row])[0]
    if not found.parts and not found.progress.curve:  # nothing runs: what its first shard last reported
        first = select(Shard.progress).where(Shard.job_id == job_id).order_by(Shard.first_item).limit(1)
        found.progress.curve = [(step, distance) for step, distance in (session.scalar(first) or {}).get("curve", [])]
    return found


def several(session: Session, ids: Collection[str]) -> list[schemas.Job]:
    """Those of these jobs that there are."""
    return _jobs(session, session.scalars(select(Job).where(Job.id.in_(ids))).all())


def jobs(
    session: Session, state: JobState | None, limit: int, cursor: str | None, parent: str | None = None,
    top_level: bool = False,
) -> schemas.JobList:  # fmt: skip
    """Newest first; `parent` asks for the parts of a recipe, `top_level` leaves every part out."""
    query = select(Job).order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1)
    if parent is not None:
        query = query.where(Job.parent_id == parent)
    if top_level:
        query = query.where(Job.parent_id.is_(None))
    if state is not None:
        query = query.where(Job.state == state)
    if cursor is not None:
        created_at, job_id = decode_cursor(cursor, 2)
        query = query.where(tuple_(Job.created_at, Job.id) < (number(created_at, float), job_id))
    rows = session.scalars(query).all()
    page = rows[:limit]
    following = encode_cursor(page[-1].created_at, page[-1].id) if len(rows) > limit else None
    return schemas.JobList(jobs=_jobs(session, page), next_cursor=following)


def items(session: Session, job_id: str, limit: int, cursor: str | None) -> schemas.ItemList:
    """In order of index. Raises NotFound."""
    require(session, job_id)
    query = select(Item).where(Item.job_id == job_id).order_by(Item.index).limit(limit + 1)
    if cursor is not None:
        query = query.where(Item.index > number(decode_cursor(cursor, 1)[0], int))
    rows = session.scalars(query).all()
    page = rows[:limit]
    following = encode_cursor(page[-1].index) if len(rows) > limit else None
    return schemas.ItemList(items=_items(session, job_id, page), next_cursor=following)


def item(session: Session, job_id: str, index: int) -> schemas.Item:
    """Raises NotFound."""
    row = session.get(Item, (job_id, index))
    if row is None:
        raise NotFound(f"no item {index} in job {job_id}")
    return _items(session, job_id, [row])[0]


def artifacts(session: Session, job_id: str, limit: int, cursor: str | None) -> schemas.ArtifactList:
    """Everything that a job has stored so far, in order of item and name. Raises NotFound."""
    require(session, job_id)
    order = (Artifact.item_index, Artifact.name)
    query = select(Artifact).where(Artifact.job_id == job_id).order_by(*order).limit(limit + 1)
    if cursor is not None:
        index, name = decode_cursor(cursor, 2)
        query = query.where(tuple_(*order) > (number(index, int), name))
    rows = session.scalars(query).all()
    page = rows[:limit]
    following = encode_cursor(page[-1].item_index, page[-1].name) if len(rows) > limit else None
    listed = [schemas.JobArtifact(item=row.item_index, **_artifact(row).model_dump()) for row in page]
    return schemas.ArtifactList(artifacts=listed, next_cursor=following)


def epochs(session: Session, job_id: str) -> schemas.EpochList:
    """In order. Raises NotFound."""
    require(session, job_id)
    rows = session.scalars(select(Epoch).where(Epoch.job_id == job_id).order_by(Epoch.epoch))
    return schemas.EpochList(
        epochs=[
            schemas.Epoch(epoch=row.epoch, metrics=row.metrics, at=datetime.fromtimestamp(row.at, UTC)) for row in rows
        ]
    )


def evaluations(session: Session, model_digest: str) -> schemas.EvaluationList:
    """Of the network with these weights, newest first."""
    found = select(Evaluation).where(Evaluation.model_digest == model_digest).order_by(Evaluation.at.desc())
    return schemas.EvaluationList(
        evaluations=[
            schemas.Evaluation(
                job=row.job_id,
                dataset=row.dataset,
                at=datetime.fromtimestamp(row.at, UTC),
                summary={name: value for name, value in row.summary.items() if name not in ("classes", "confusion")},
            )
            for row in session.scalars(found.limit(100))
        ]
    )


def artifact(session: Session, job_id: str, index: int, name: str) -> Artifact:
    """Raises NotFound."""
    row = session.get(Artifact, (job_id, index, name))
    if row is None:
        raise NotFound(f"no artifact {name} of item {index} in job {job_id}")
    return row


def require(session: Session, job_id: str) -> None:
    if session.scalar(select(Job.id).where(Job.id == job_id)) is None:
        raise NotFound(f"no job {job_id}")


def _jobs(session: Session, rows: Sequence[Job]) -> list[schemas.Job]:
    parts: dict[str, list[Job]] = defaultdict(list)
    recipes = [row.id for row in rows if row.kind == RECIPE]
    for part in session.scalars(select(Job).where(Job.parent_id.in_(recipes)).order_by(Job.part)):
        parts[str(part.parent_id)].append(part)
    ids = [row.id for row in (*rows, *(part for each in parts.values() for part in each))]
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    grouped = select(Item.job_id, Item.state, func.count()).where(Item.job_id.in_(ids))
    for job_id, state, n in session.execute(grouped.group_by(Item.job_id, Item.state)):
        counts[job_id][state] = n
    transitions: dict[str, list[schemas.Transition]] = defaultdict(list)
    for t in session.scalars(select(Transition).where(Transition.job_id.in_(ids)).order_by(Transition.id)):
        transitions[t.job_id].append(schemas.Transition(state=t.state, at=datetime.fromtimestamp(t.at, UTC)))
    running: dict[str, list[dict[str, Any]]] = defaultdict(list)
    kept = (Shard.state == ShardState.QUEUED) & Shard.checkpoint.is_not(None)  # a later claim goes on from there
    moving = or_(Shard.state == ShardState.RUNNING, kept)
    held = select(Shard.job_id, Shard.state, Shard.progress).where(Shard.job_id.in_(ids), moving)
    for job_id, state, progress in session.execute(held):
        running[job_id].append(progress if state == ShardState.RUNNING or not progress else progress | {"rate": 0})

    def progress_of(row: Job) -> schemas.Progress:
        if row.kind == RECIPE:
            return _sum([progress_of(part) for part in parts[row.id]], row.finished_at is not None)
        return _progress(row, counts[row.id], running[row.id])

    return [_job(row, counts[row.id], transitions[row.id], progress_of(row), parts[row.id]) for row in rows]


def _job(
    row: Job,
    counts: dict[str, int],
    transitions: list[schemas.Transition],
    progress: schemas.Progress,
    parts: Sequence[Job],
) -> schemas.Job:
    url = f"/v1/jobs/{row.id}"
    return schemas.Job(
        id=row.id,
        kind=row.kind,
        parent=row.parent_id,
        parts={str(part.part): part.id for part in parts},
        state=row.state,
        parameters=row.parameters,
        warnings=row.warnings,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        finished_at=timestamp(row.finished_at),
        deadline=timestamp(row.deadline),
        transitions=transitions,
        items=schemas.ItemCounts(total=row.items, **counts),
        progress=progress,
        error=row.error,
        links=schemas.JobLinks(self=url, **{name: f"{url}/{name}" for name in LINKS}),
    )


def _progress(row: Job, counts: dict[str, int], running: Iterable[dict[str, Any]]) -> schemas.Progress:
    steps = row.parameters["steps"] * row.parameters.get("restarts", 1)
    total = row.items * steps
    reports = [r for r in running if r]
    done = steps * sum(counts.get(state, 0) for state in TERMINAL_ITEM) + sum(r["image_steps"] for r in reports)
    done = min(done, total)
    rate = sum(r["rate"] for r in reports) or None
    return schemas.Progress(
        steps_done=done,
        steps_total=total,
        fraction=done / max(total, 1),
        curve=max((r["curve"] for r in reports), key=len, default=[]),
        curve_of=row.parameters.get("curve", "relative_distance"),
        rate=rate,
        eta_seconds=(total - done) / rate if rate else None,
    )


def _sum(parts: Sequence[schemas.Progress], over: bool) -> schemas.Progress:
    """A recipe's progress is that of its parts; drawing them has no steps, and only its end makes the whole."""
    done, total = sum(p.steps_done for p in parts), sum(p.steps_total for p in parts)
    rate = sum(p.rate or 0 for p in parts) or None
    return schemas.Progress(
        steps_done=done, steps_total=total, fraction=1.0 if over else min(done / total, 0.99), curve=[],
        curve_of="", rate=rate, eta_seconds=(total - done) / rate if rate else None,
    )  # fmt: skip


def _items(session: Session, job_id: str, rows: Sequence[Item]) -> list[schemas.Item]:
    stored: dict[int, list[schemas.Artifact]] = defaultdict(list)
    if rows:
        wanted = (Artifact.job_id == job_id) & Artifact.item_index.between(rows[0].index, rows[-1].index)
        for a in session.scalars(select(Artifact).where(wanted).order_by(Artifact.name)):
            stored[a.item_index].append(_artifact(a))
    return [
        schemas.Item(
            index=row.index, state=row.state, target=row.target, start=row.start, settings=row.settings,
            metrics=row.metrics, provenance=row.provenance, error=row.error, finished_at=timestamp(row.finished_at),
            epoch=row.epoch, artifacts=stored[row.index], checkpoint=_checkpoint(row),
        )
        for row in rows
    ]  # fmt: skip


def _checkpoint(row: Item) -> schemas.ItemCheckpoint | None:
    if row.checkpoint is None:
        return None
    kept = {name: row.checkpoint[name] for name in ("step", "size", "sha256")}
    return schemas.ItemCheckpoint(url=f"/v1/jobs/{row.job_id}/items/{row.index}/checkpoint", **kept)


def _artifact(row: Artifact) -> schemas.Artifact:
    # A retry makes a summary anew under its name, but never under the address of what was there before.
    url = f"/v1/jobs/{row.job_id}/items/{row.item_index}/artifacts/{row.name}?v={row.sha256[:16]}"
    return schemas.Artifact(name=row.name, media_type=row.media_type, size=row.size, sha256=row.sha256, url=url)
