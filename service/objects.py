"""What a storage does, whatever holds its objects, and how its files are written.

Keys are relative paths of plain characters. A put is atomic: a reader sees the whole object or none.
"""

import errno
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

PIECE = 8 << 20
"""Bytes that a stream holds in memory at once."""
TRIES = 100
"""Times that a folder is made for a file, where others remove it as empty."""


class Stored(NamedTuple):
    """What was written."""

    key: str
    size: int
    sha256: str


class Part(NamedTuple):
    """A file within an object: its `size` bytes from `offset` on, and their digest."""

    key: str
    size: int
    sha256: str
    offset: int


class Entry(NamedTuple):
    """An object in a listing; `modified` is in seconds since the epoch, on the storage's clock."""

    key: str
    size: int
    modified: float


class Link(NamedTuple):
    """A request that whoever has it may send until it expires: where to, and the headers that must go with it."""

    url: str
    headers: dict[str, str]


class ObjectNotFound(KeyError):  # noqa: N818 - what happened, in the words of the field
    """No object has this key."""

    def __str__(self) -> str:
        return f"no object {self.args[0]}"


class StorageError(RuntimeError):
    """The storage did not do what was asked; the same call may work later."""


class OtherContent(ValueError):  # noqa: N818 - what was found
    """An object is not what it was said to be."""


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

    def copy(self, source: str, target: str, size: int, sha256: str) -> None:
        """Copy an object of this size and digest, reading it once and holding little of it.

        Raises OtherContent, and writes nothing, if it is another; ObjectNotFound; StorageError.
        """

    def upload_link(self, key: str, size: int, sha256: str, media_type: str, seconds: int) -> Link | None:
        """A PUT of exactly these bytes, for a client that cannot sign; None where objects come by the API alone."""

    def download_link(self, key: str, name: str, media_type: str, seconds: int) -> Link | None:
        """A GET of the object, as a file of this name and type; None where objects go by the API alone."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none. Raises StorageError."""

    def dated(self, prefix: str) -> Iterator[Entry]:
        """The objects under a prefix, in no order. Raises StorageError."""

    def discard_unfinished(self, prefix: str, before: float, dry_run: bool = False) -> int:
        """Remove what puts under a prefix left that began before this time and never ended; answers how many.

        Raises StorageError.
        """


def new(path: Path) -> BinaryIO:
    """A file to write. Raises OSError."""
    return path.open("wb")


def new_in_folder(path: Path) -> BinaryIO:
    """The same in a folder that is made, and made again should somebody remove it as empty before the file is in it."""
    for _ in range(TRIES):
        with suppress(FileNotFoundError):
            make_folder(path.parent)
            return new(path)
    raise FileNotFoundError(errno.ENOENT, "its folder is removed again and again", str(path))


def remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder under the root, and those above it, as far as they are empty."""
    with suppress(OSError):  # it is not empty, or somebody else was first
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def pieces(path: Path, size: int = PIECE) -> Iterator[bytes]:
    """A file's bytes, `size` at a time. Raises OSError."""
    with path.open("rb") as f:
        while piece := f.read(size):
            yield piece


def write(path: Path, data: Iterable[bytes], opened: Callable[[Path], BinaryIO] = new) -> tuple[int, str]:
    """Replace a file by these pieces, whole or not at all; answers their size and SHA-256. Raises OSError."""
    digest, temporary = hashlib.sha256(), path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with opened(temporary) as f:
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


def sync(folder: Path) -> None:
    """Make what was last renamed, made or removed in a folder outlast a loss of power. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, to stay after a loss of power. Raises OSError."""
    if not folder.is_dir():
        make_folder(folder.parent)
        with suppress(FileExistsError):  # somebody else made it; a file of that name is met by who writes below it
            folder.mkdir()
        sync(folder.parent)


@contextmanager
def file_errors(key: str, doing: str = "read") -> Iterator[None]:
    """A file's errors as the storage's."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as e:
        if doing == "read":
            raise ObjectNotFound(key) from e
        raise StorageError(f"cannot {doing} {key}: {e}") from e
    except OSError as e:
        raise StorageError(f"cannot {doing} {key}: {e}") from e


def same(data: Iterable[bytes], size: int, sha256: str) -> Iterator[bytes]:
    """These bytes. Raises OtherContent after the last of them if their size or digest is another."""
    found, digest = 0, hashlib.sha256()
    for piece in data:
        found += len(piece)
        digest.update(piece)
        yield piece
    if found != size:
        raise OtherContent(f"has {found:,} bytes; announced were {size:,}")
    if digest.hexdigest() != sha256:
        raise OtherContent(f"has the SHA-256 digest {digest.hexdigest()}; announced was {sha256}")


def whole(key: str, start: int, length: int, data: bytes) -> bytes:
    """The data of a range, if it is all of it. Raises StorageError."""
    if len(data) != length:
        raise StorageError(f"cannot read {key}: it has {len(data)} of the {length} bytes from {start} on")
    return data


def read_file(source: Source, key: str, offset: int | None, size: int) -> bytes:
    """What a row points to, be it an object or a part of one. Raises ObjectNotFound or StorageError."""
    return source.get(key) if offset is None else source.get_range(key, offset, size)


def read_pieces(source: Source, key: str, start: int, length: int) -> Iterator[bytes]:
    """A part of an object, `PIECE` bytes at a time. Raises ObjectNotFound or StorageError."""
    for begin in range(start, start + length, PIECE):
        yield source.get_range(key, begin, min(PIECE, start + length - begin))
