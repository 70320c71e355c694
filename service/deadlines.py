"""Until when a job may go on: the field that every submission has, and its check against the database's clock."""

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, Strict
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.db import now
from service.errors import FieldError, InvalidInput
from service.schemas import Request

RFC3339 = re.compile(r"[0-9]{4}(-[0-9]{2}){2}[Tt ][0-9]{2}(:[0-9]{2}){2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})")


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


Deadline = Annotated[datetime, Strict(False), BeforeValidator(_written), AfterValidator(_utc)]


class Submission(Request):
    """What every request for a job has. The deadline is no parameter: it changes no result, and no dump has it."""

    deadline: Deadline | None = Field(
        None, exclude=True, description="RFC 3339 time with zone at which the job ends, whatever is still unfinished"
    )


def seconds(session: Session, request: Submission) -> float | None:
    """The deadline in seconds since the epoch. Raises InvalidInput if it has passed by the database's clock."""
    if request.deadline is None:
        return None
    at = request.deadline.timestamp()
    if at <= session.scalars(select(now())).one():
        raise InvalidInput(FieldError("deadline", "has passed; allowed: a time to come"))
    return at
