"""What of a job may be changed once it is there, by a merge patch (RFC 7396): what it has beside its parameters."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy import delete, null, select, update
from sqlalchemy.orm import Session

from service import jobs, requests
from service.bulk_models import Label
from service.drafts import OF_PARTS, searched
from service.errors import Conflict, FieldError, InvalidInput
from service.jobs import UNSYNCHRONIZED
from service.models import Job, Shard
from service.requests import PRIORITIES, Description, LabelKey, Labels, LabelValue, Metadata, Priority, Retention, Time
from service.schemas import Request
from service.states import ShardState


class Patch(Request):
    """What is left out stays; null removes, also one by one among labels and metadata."""

    description: Description | None = None
    labels: dict[LabelKey, LabelValue | None] | None = None
    metadata: dict[str, Any] | None = None
    priority: Priority | None = Field(None, description="null: normal. At once, also for what is queued already")
    deadline: Time | None = Field(None, description="RFC 3339 time with zone, to come")
    retention_seconds: Retention | None = None


def merge(value: Any, patch: Any) -> Any:
    """A JSON value with a merge patch applied."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(value) if isinstance(value, Mapping) else {}
    for key, change in patch.items():
        if change is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), change)
    return merged


def apply(session: Session, job_id: str, patch: Patch) -> None:
    """Change a job, and its parts, where they have something from it; `to_send` answers the shards that move queues.

    Raises NotFound, InvalidInput, or Conflict for what a part has from its recipe.
    """
    parts, _ = jobs.lock_all(session, job_id)
    row, said = session.get_one(Job, job_id), patch.model_fields_set
    if row.parent_id and (theirs := said & {*OF_PARTS, "retention_seconds"}):
        raise Conflict(f"job {job_id} has its {', '.join(sorted(theirs))} from {row.parent_id}, which it is a part of")
    values: dict[str, Any] = {name: getattr(patch, name) for name in said & {"description", "retention_seconds"}}
    if "metadata" in said:
        merged = _valid("metadata", Metadata, merge(row.meta, patch.metadata or {}) if patch.metadata else {})
        values["meta"] = merged or null()
    if "priority" in said:
        values["priority"] = PRIORITIES[patch.priority or "normal"]
    if "deadline" in said:
        values["deadline"] = requests.to_come(session, patch.deadline)
    labels = _labels(session, job_id)
    if "labels" in said:
        labels = _valid("labels", Labels, merge(labels, patch.labels) if patch.labels else {})
        _relabel(session, job_id, labels)
    description = values.get("description", row.description)
    values["text"] = searched(job_id, row.kind, row.parameters, description, labels)
    before = row.priority
    session.execute(update(Job).where(Job.id == job_id).values(values), execution_options=UNSYNCHRONIZED)
    if shared := {name: value for name, value in values.items() if name in OF_PARTS}:
        session.execute(update(Job).where(Job.id.in_(parts)).values(shared), execution_options=UNSYNCHRONIZED)
    if values.get("priority", before) != before:
        for each in (*parts, job_id):
            queued = (Shard.job_id == each) & (Shard.state == ShardState.QUEUED)
            session.execute(update(Shard).where(queued).values(sent_at=None), execution_options=UNSYNCHRONIZED)


def _labels(session: Session, job_id: str) -> dict[str, str]:
    return {row.key: row.value for row in session.scalars(select(Label).where(Label.job_id == job_id))}


def _relabel(session: Session, job_id: str, labels: Mapping[str, str]) -> None:
    session.execute(delete(Label).where(Label.job_id == job_id), execution_options=UNSYNCHRONIZED)
    session.expunge_all()  # the rows that were read
    session.add_all(Label(job_id=job_id, key=key, value=value) for key, value in labels.items())


def _valid(field: str, kind: Any, value: Any) -> Any:
    """The merged value, if it is still within bounds. Raises InvalidInput."""
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as e:
        raise InvalidInput(FieldError(field, e.errors()[0]["msg"].removeprefix("Value error, "))) from e
