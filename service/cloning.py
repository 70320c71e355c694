"""A job's request, to be submitted again with changes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import rendering
from service.bulk_models import Label
from service.changes import merge
from service.drafts import RECIPE
from service.errors import Conflict, InvalidInput, NotFound, field_errors
from service.kinds import registration
from service.kinds.dispatch import JobRequest
from service.models import Job
from service.recipes import RECIPES
from service.registration import DatasetRegistration, ModelRegistration
from service.requests import Submission

REGISTRATIONS = {registration.MODEL: ModelRegistration, registration.DATASET: DatasetRegistration}


class Clone(NamedTuple):
    """A request, the name that tells its digest from others': a recipe's or a registration's, and the digest."""

    request: Submission
    name: str
    digest: str


def clone(session: Session, job_id: str, overrides: Mapping[str, Any]) -> Clone:
    """The job's request with a merge patch applied, for the same recipe. Its deadline, a moment, is left out.

    Raises NotFound, InvalidInput, or Conflict for a part of a recipe, and a job from before requests were kept.
    """
    row = session.get(Job, job_id)
    if row is None or row.deleted_at is not None:
        raise NotFound(f"no job {job_id}")
    if row.parent_id:
        raise Conflict(f"job {job_id} is a part of {row.parent_id}; clone that")
    sent = row.request or (row.parameters["request"] if row.kind == RECIPE else None)
    if sent is None:
        raise Conflict(f"job {job_id} is from before requests were kept; submit it anew")
    labels = session.scalars(select(Label).where(Label.job_id == job_id))
    now = {
        "priority": rendering.NAMES[row.priority], "description": row.description, "metadata": row.meta,
        "labels": {label.key: label.value for label in labels}, "retention_seconds": row.retention_seconds,
    }  # fmt: skip
    now = {name: int(value) if isinstance(value, float) else value for name, value in now.items() if value}
    known = {name: value for name, value in sent.items() if name not in Submission.model_fields}
    name = str(row.parameters["recipe"]) if row.kind == RECIPE else row.kind if row.kind in REGISTRATIONS else ""
    request = _parse(row.kind, name, merge(known | now, overrides))
    told = json.dumps([job_id, overrides], sort_keys=True)
    return Clone(request, name, hashlib.sha256(told.encode()).hexdigest())


def _parse(kind: str, name: str, body: dict[str, Any]) -> Submission:
    """Raises InvalidInput."""
    types: Any = RECIPES[name].request if kind == RECIPE else REGISTRATIONS.get(kind, JobRequest)
    try:
        request: Submission = TypeAdapter(types).validate_python(body)
    except ValidationError as e:
        raise InvalidInput(*field_errors(e, body)) from e
    return request
