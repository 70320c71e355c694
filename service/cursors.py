"""Where a page ends, as clients pass it on, and times as they read them."""

import base64
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.errors import FieldError, InvalidInput

T = TypeVar("T")
Column = InstrumentedAttribute[Any]


def at(seconds: float) -> datetime:
    """Seconds since the epoch as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def timestamp(seconds: float | None) -> datetime | None:
    return None if seconds is None else at(seconds)


def page(
    session: Session, rows: Select[T], limit: int, cursor: str | None, *order: Column, newest: bool = False
) -> tuple[Sequence[T], str | None]:
    """Rows of one entity in the order of these columns, or against it, and the cursor of those that follow, if any do.

    Raises InvalidInput for anything but a cursor of these columns.
    """
    if cursor is not None:
        ended, here = decoded(cursor, [column.type.python_type for column in order]), tuple_(*order)
        rows = rows.where(here < ended if newest else here > ended)
    found = session.scalars(rows.order_by(*(c.desc() if newest else c for c in order)).limit(limit + 1)).all()
    last = found[limit - 1] if len(found) > limit else None
    return found[:limit], None if last is None else encode_cursor(*(getattr(last, column.key) for column in order))


def encode_cursor(*parts: Any) -> str:
    return base64.urlsafe_b64encode("|".join(map(str, parts)).encode()).decode().rstrip("=")


def decoded(cursor: str, kinds: Sequence[type[Any]]) -> tuple[Any, ...]:
    """What `encode_cursor` was given, each of its kind. Raises InvalidInput for anything else."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        ended = tuple(kind(part) for kind, part in zip(kinds, text.split("|", len(kinds) - 1), strict=True))
        bounds = {int: 2**62, float: math.inf}
        if "\0" in text or not all(abs(part) < bounds[type(part)] for part in ended if not isinstance(part, str)):
            raise ValueError("out of range")
    except ValueError as e:  # also of what is no text
        raise InvalidInput(FieldError("cursor", "is not a cursor; allowed: next_cursor of the page before")) from e
    return ended
