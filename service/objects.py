"""What a storage does, whatever holds its objects, and how its files are written.

Keys are relative paths of plain characters. A put is atomic: a reader sees the whole object or none.
"""

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

PIECE = 8 << 20
"""Bytes that a stream holds in memory at once."""


class Stored(NamedTuple):
    """What was written."""

    key: str
    size: int
    sha256: str


class ObjectNotFound(KeyError):  # noqa: N818 - what happened, in the words of the field
    """No object has this key."""


class StorageError(RuntimeError):
    """The storage did not do what was asked; the same call may work later."""


class Source(Protocol):
    """A place to read objects from. Its methods raise ObjectNotFound or StorageError."""

    url: str
    """What tells it from other places."""

    def get(self, key: str) -> bytes:
        """The whole object."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on. It is a StorageError if the object ends before."""

    def stream(self, key: str) -> Iterator[bytes]:
        """The whole object in pieces of `PIECE` bytes, of which the last may be shorter."""

    def download(self, key: str, path: Path) -> Stored:
        """Write the object to a file, whole or not at all. Raises OSError if the file cannot be written."""

    def stat(self, key: str) -> int:
        """The object's size in bytes."""

    def entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The keys under a prefix with their sizes, in no order."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys under a prefix, in no order."""

    def check(self) -> None:
        """Whether objects can be read now, and written where they may be."""


class Storage(Source, Protocol):
    """A place to keep objects in."""

    def put(self, key: str, data: bytes, media_type: str) -> Stored:
        """Write one object, replacing what was there. Raises StorageError."""

    def put_file(self, key: str, path: Path, media_type: str) -> Stored:
        """Write one object from a file of any size. Raises StorageError."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none. Raises StorageError."""


def pieces(path: Path, size: int = PIECE) -> Iterator[bytes]:
    """A file's bytes, `size` at a time. Raises OSError."""
    with path.open("rb") as f:
        while piece := f.read(size):
            yield piece


def write(path: Path, data: Iterable[bytes]) -> tuple[int, str]:
    """Replace a file by these pieces, whole or not at all; answers their size and SHA-256. Raises OSError."""
    digest, temporary = hashlib.sha256(), path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as f:
            for piece in data:
                digest.update(piece)
                f.write(piece)
            size = f.tell()
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return size, digest.hexdigest()
