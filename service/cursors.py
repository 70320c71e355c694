"""Where a page ends, as clients pass it on, and times as they read them."""

import base64
import binascii
import math
from datetime import UTC, datetime
from typing import Any

from service.errors import FieldError, InvalidInput


def at(seconds: float) -> datetime:
    """Seconds since the epoch as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def timestamp(seconds: float | None) -> datetime | None:
    return None if seconds is None else at(seconds)


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
