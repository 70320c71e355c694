"""What every request for a job has beside what is computed: until when, for whom, how urgent, and for how long kept.

None of it is a parameter: it changes no result, and no dump of a request has it.
"""

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.db import now
from service.errors import FieldError, InvalidInput
from service.schemas import Request

RFC3339 = re.compile(r"[0-9]{4}(-[0-9]{2}){2}[Tt ][0-9]{2}(:[0-9]{2}){2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})")
MOST_LABELS, METADATA_BYTES, METADATA_DEPTH = 32, 16_384, 20
LONGEST_RETENTION = 10 * 366 * 86_400
"""Seconds."""


def _written(value: object) -> object:
    """Numbers, days and times without a zone could be read as times too."""
    if not isinstance(value, str) or not RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with its zone, such as 2030-01-31T12:00:00Z")
    return value


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as e:  # a time in the first or last hours that there are, in its own zone
        raise ValueError("is beyond the calendar") from e


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if _deeper(value, METADATA_DEPTH):
        raise ValueError(f"is nested too deeply; allowed: {METADATA_DEPTH} deep")  # answers could not hold it
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as e:  # a lone surrogate is a ValueError too
        raise ValueError("must be JSON in Unicode, without NaN or infinities") from e
    if len(text) > METADATA_BYTES:
        raise ValueError(f"is {len(text):,} bytes of JSON; allowed: {METADATA_BYTES:,}")
    if b"\\u0000" in text:
        raise ValueError("has a NUL character, which no database keeps")
    return value


def _deeper(value: Any, most: int) -> bool:
    """Whether lists and objects are nested more than `most` deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (most == 0 or any(_deeper(each, most - 1) for each in inner))


Time = Annotated[datetime, Strict(False), BeforeValidator(_written), AfterValidator(_utc)]
LabelKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{0,200}$")]
LabelFilter = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}(=[^\x00-\x1f\x7f]{0,200})?$")]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=MOST_LABELS)]
Metadata = Annotated[dict[str, Any], AfterValidator(_small)]
Description = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]
Retention = Annotated[int, Field(ge=60, le=LONGEST_RETENTION)]
Priority = Literal["low", "normal", "high"]
PRIORITIES: dict[str, int] = {"low": 0, "normal": 1, "high": 2}


class Submission(Request):
    """What every request for a job has."""

    deadline: Time | None = Field(
        None, exclude=True, description="RFC 3339 time with zone at which the job ends, whatever is still unfinished"
    )
    priority: Priority = Field(
        "normal", exclude=True, description="Which jobs are begun first, and whose rows a full batch computes first"
    )
    description: Description | None = Field(None, exclude=True, description="A note of your own; searched by `text`")
    labels: Labels = Field({}, exclude=True, description="Names and values of your own, by which jobs are listed")
    metadata: Metadata = Field(
        {}, exclude=True, description="JSON of your own, up to 16 KiB, nested up to 20 deep, which is only kept"
    )
    retention_seconds: Retention | None = Field(
        None,
        exclude=True,
        description="How long after its end the job is kept, with all results; null: for ever; left out: as the"
        " service's setting of that name says",
    )


def envelope(request: Submission) -> dict[str, Any]:
    """As JSON, what the request has beside its parameters, where it is not the default."""
    fields = {name: field for name, field in type(request).model_fields.items() if field.exclude}
    said = {name: value for name, field in fields.items() if (value := getattr(request, name)) != field.default}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in said.items()}


def seconds(session: Session, request: Submission) -> float | None:
    """The deadline in seconds since the epoch. Raises InvalidInput if it has passed by the database's clock."""
    return to_come(session, request.deadline)


def to_come(session: Session, deadline: datetime | None) -> float | None:
    """A deadline in seconds since the epoch. Raises InvalidInput if it has passed by the database's clock."""
    if deadline is None:
        return None
    at = deadline.timestamp()
    if at <= session.scalars(select(now())).one():
        raise InvalidInput(FieldError("deadline", "has passed; allowed: a time to come"))
    return at
