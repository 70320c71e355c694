"""A job's request, to be submitted again with changes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import rendering, responses
from service.bulk_models import Label
from service.changes import merge
from service.drafts import RECIPE
from service.errors import Conflict, InvalidInput, NotFound, field_errors
from service.expansion import KINDS
from service.kinds import registration
from service.kinds.dispatch import JobRequest
from service.models import Job
from service.recipes import RECIPES, Networks
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
    kind, name, body = _sent(session, job_id)
    told = json.dumps([job_id, overrides], sort_keys=True)
    return Clone(_parse(kind, name, merge(body, overrides)), name, hashlib.sha256(told.encode()).hexdigest())


def sent(session: Session, job_id: str) -> responses.SentRequest:
    """The job's request, as a clone without overrides would send it. Raises NotFound and Conflict, as `clone`."""
    kind, name, body = _sent(session, job_id)
    place = {RECIPE: f"recipes/{name}", registration.MODEL: "models", registration.DATASET: "datasets"}
    try:
        differs = _differs_from(name, _parse(kind, name, body))
    except InvalidInput:  # kept by a version that took what this one does not
        differs = {}
    return responses.SentRequest(address=f"/v1/{place.get(kind, 'jobs')}", body=body, differs_from=differs)


def _differs_from(recipe: str, request: Submission) -> dict[str, Any]:
    """What the preset, or else the default, has for each field that the request has otherwise.

    The preset of `recipe` is that of its studies.
    """
    parts = RECIPES[recipe].expand(request).values() if isinstance(request, Networks) else ()
    of_kinds = [KINDS[part["kind"]].PRESETS for part in parts] or [getattr(request, "PRESETS", {})]
    usual: dict[str, Any] = {}
    for presets in of_kinds:
        usual |= presets.get(getattr(request, "preset", ""), {})
    found = {}
    for name, field in type(request).model_fields.items():
        if name in request.model_fields_set and not (field.exclude or field.is_required() or name == "preset"):
            value = usual.get(name, field.get_default(call_default_factory=True))
            if getattr(request, name) not in (None, value):
                found[name] = value
    return found


def _sent(session: Session, job_id: str) -> tuple[str, str, dict[str, Any]]:
    """The kind of a job, the name of its recipe or registration, and its request's body with what it has by now."""
    row = session.get(Job, job_id)
    if row is None or row.deleted_at is not None:
        raise NotFound(f"no job {job_id}")
    if row.parent_id:
        raise Conflict(f"job {job_id} is a part of {row.parent_id}; clone that")
    sent = row.request or (row.parameters["request"] if row.kind == RECIPE else None)
    if sent is None:
        raise Conflict(f"job {job_id} is from before requests were kept; submit it anew")
    labels = session.scalars(select(Label).where(Label.job_id == job_id))
    priority = rendering.NAMES[row.priority]
    now = {
        "priority": None if priority == "normal" else priority, "description": row.description, "metadata": row.meta,
        "labels": {label.key: label.value for label in labels}, "retention_seconds": row.retention_seconds,
    }  # fmt: skip
    now = {name: int(value) if isinstance(value, float) else value for name, value in now.items() if value}
    known = {name: value for name, value in sent.items() if name not in Submission.model_fields}
    name = str(row.parameters["recipe"]) if row.kind == RECIPE else row.kind if row.kind in REGISTRATIONS else ""
    return row.kind, name, known | now


def _parse(kind: str, name: str, body: dict[str, Any]) -> Submission:
    """Raises InvalidInput."""
    types: Any = RECIPES[name].request if kind == RECIPE else REGISTRATIONS.get(kind, JobRequest)
    try:
        request: Submission = TypeAdapter(types).validate_python(body)
    except ValidationError as e:
        raise InvalidInput(*field_errors(e, body)) from e
    return request
