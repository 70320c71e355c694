"""Manifests: what each line of an uploaded list names, read as a stream, so that no list is too long for memory."""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from service.errors import FieldError, InvalidInput
from service.schemas import DIGEST, NAME

LONGEST_LINE = 65_536
"""Bytes."""
NAMES = ("dataset", "index", "image", "key", "id", "label")
ALLOWED = "allowed: dataset and index, image, or key; with id and label if wanted"
TOO_LONG, TOO_LONG_SAYS = "\x01", f"is longer than {LONGEST_LINE:,} bytes"


Reader: TypeAlias = "io.BufferedReader[Any]"
Found: TypeAlias = tuple[int, dict[str, Any], str | None]
"""The number of a line, what it names, and what is wrong with all of it."""


class Line(NamedTuple):
    """An entry of a manifest, by the number of its line: what it names, or what is wrong with which field."""

    entry: int
    named: dict[str, Any]
    errors: tuple[tuple[str, str], ...] = ()


def lines(pieces: Iterator[bytes], most: int = 10**9) -> Iterator[Line]:
    """Every entry of a manifest, JSON lines or CSV; blank lines are none.

    Raises InvalidInput for more than twice `most` lines, blank ones too, or what `pieces` does.
    """
    file: Reader = io.BufferedReader(_Pieces(pieces), 1 << 20)
    first = file.peek(4)
    if first.startswith(b"\xef\xbb\xbf"):  # a byte order mark, as spreadsheets write it
        file.read(3)
        first = file.peek(1)
    found = _of_json(file, 2 * most) if first[:1] in b"{[\n\r \t" else _of_csv(file, 2 * most)
    for entry, named, error in found:
        yield Line(entry, {}, (("line", error),)) if error else Line(entry, named, tuple(wrong(named)))


def wrong(named: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with what a line names, by field."""
    if unknown := [str(name)[:100] for name in named if name not in NAMES]:
        yield unknown[0], f"is unknown; {ALLOWED}"
    kinds = [name for name in ("index", "image", "key") if name in named]
    if len(kinds) != 1 or ("dataset" in named) != (kinds == ["index"]):
        yield "line", f"names {', '.join(name for name in NAMES[:4] if name in named) or 'no image'}; {ALLOWED}"
    if "index" in named and not (type(named["index"]) is int and 0 <= named["index"] < 2**31):
        yield "index", "is no index; allowed: an integer of 0 or more"
    if "dataset" in named and not (isinstance(named["dataset"], str) and re.fullmatch(NAME, named["dataset"])):
        yield "dataset", "is no name of a data set"
    if "image" in named and not (isinstance(named["image"], str) and re.fullmatch(DIGEST, named["image"])):
        yield "image", "is no image's id; allowed: sha256: and 64 hexadecimal digits, as POST /v1/images answers"
    if "key" in named and (why := _bad_key(named["key"])):
        yield "key", why
    for name in ("id", "label"):
        if name in named and not (
            isinstance(named[name], str) and len(named[name]) <= 200 and named[name].isprintable()
        ):
            yield name, "is no printable text of up to 200 characters"


def _bad_key(key: Any) -> str | None:
    if not isinstance(key, str) or len(key) > 500 or not key.isprintable():
        return "is no key of up to 500 characters"
    if not key.startswith("imports/") or ".." in key.split("/"):
        return "is outside what may be read; allowed: keys that begin with imports/, without .."
    return None


def _of_json(file: Reader, most: int) -> Iterator[Found]:
    for number, line in enumerate(_bounded(file, most), 1):
        if line is None:
            yield number, {}, TOO_LONG_SAYS
        elif line.strip():
            try:
                named = json.loads(line)
            except (ValueError, RecursionError) as e:
                yield number, {}, f"is no JSON ({e})"
            else:
                yield (
                    (number, named, None) if isinstance(named, dict) else (number, {}, f"is no JSON object; {ALLOWED}")
                )


def _of_csv(file: Reader, most: int) -> Iterator[Found]:
    reader = csv.reader(_text(file, most), strict=True)
    header: list[str] | None = None
    while True:
        try:
            row = next(reader, None)
        except csv.Error as e:
            yield reader.line_num, {}, f"is no CSV ({e})"
            if header is None:
                return
            continue
        if row is None:
            return
        if row == [TOO_LONG]:
            yield reader.line_num, {}, TOO_LONG_SAYS
        elif header is None:
            header = [name.strip() for name in row]
            if unknown := [name for name in header if name not in NAMES] or len(set(header)) < len(header):
                yield (
                    reader.line_num,
                    {},
                    f"is the header, and names {unknown if unknown is not True else 'a column twice'}; {ALLOWED}",
                )
                return
        elif row:
            yield reader.line_num, *_cells(header, row)


def _cells(header: list[str], row: list[str]) -> tuple[dict[str, Any], str | None]:
    if len(row) != len(header):
        return {}, f"has {len(row)} cells and the header {len(header)}"
    named: dict[str, Any] = {name: cell for name, cell in zip(header, row, strict=True) if cell}
    if (index := named.get("index")) is not None and index.isdecimal() and len(index) < 11:
        named["index"] = int(index)
    return named, None


def _text(file: Reader, most: int) -> Iterator[str]:
    """The lines of a CSV file as text; an overlong one is one cell, TOO_LONG."""
    for line in _bounded(file, most):
        yield TOO_LONG if line is None else line.decode("utf-8", "backslashreplace")


def _bounded(file: Reader, most: int) -> Iterator[bytes | None]:
    """Each line with its end; None for one that is too long, of which the rest is passed over."""
    count = 0
    while line := file.readline(LONGEST_LINE):
        count += 1
        if count > most:
            raise InvalidInput(FieldError("targets.manifest", f"has over {most:,} lines, more than a job may have"))
        if len(line) < LONGEST_LINE or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
            pass
        yield None


class _Pieces(io.RawIOBase):
    """A stream of pieces as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not len(self._left):
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size
