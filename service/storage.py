"""Object storage: local files or S3. Every key's name is made here.

Keys are relative paths of plain characters. A put is atomic: a reader sees the whole object or none.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.metrics import measured
from service.objects import (
    Entry,
    Link,
    ObjectNotFound,
    OtherContent,
    Source,
    Storage,
    StorageError,
    Stored,
    file_errors,
    new_in_folder,
    pieces,
    read_file,
    remove_empty,
    same,
    sync,
    whole,
    write,
)
from service.s3 import S3Storage
from service.settings import Settings

__all__ = [
    "Link", "LocalFolder", "LocalStorage", "ObjectNotFound", "OtherContent", "S3Storage", "Source", "Storage",
    "StorageError", "Stored", "artifact_key", "image_key", "open_storage", "read_file",
]  # fmt: skip

UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}")
"""The name of a file that `write` has not renamed yet."""
PROBE = bytes(4096)


def image_key(image_id: str) -> str:
    return f"images/{image_id.removeprefix('sha256:')}"


def artifact_key(job_id: str, index: int, epoch: int, name: str) -> str:
    """An item's artifact. The epoch keeps a worker that lost its lease from overwriting its successor's object."""
    return f"jobs/{job_id}/items/{index}/{epoch}/{name}"


@measured(StorageError, get="read", get_range="read", download="download", stat="stat")
class LocalFolder:
    """Files under one folder, to be read. Links that stay inside are followed; hidden files are not listed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.url = self.folder.as_uri()

    def _path(self, key: str) -> Path:
        path = self.folder / key
        if not key or key.startswith("/") or ".." in Path(key).parts or "\0" in key:
            raise StorageError(f"not a key: {key!r}")
        self._inside(path, key)
        return path

    def _inside(self, path: Path, key: str) -> str:
        real = os.path.realpath(path)
        if not Path(real).is_relative_to(self.folder):
            raise StorageError(f"{key} is a link that leaves the folder")
        return real

    def get(self, key: str) -> bytes:
        with file_errors(key):
            return self._path(key).read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with file_errors(key), self._path(key).open("rb") as f:
            f.seek(start)
            return whole(key, start, length, f.read(length))

    def stream(self, key: str) -> Iterator[bytes]:
        with file_errors(key):
            yield from pieces(self._path(key))

    def download(self, key: str, path: Path) -> Stored:
        return Stored(key, *write(path, self.stream(key)))

    def stat(self, key: str) -> int:
        path = self._path(key)
        with file_errors(key):
            size = path.stat().st_size
        if not path.is_file():
            raise ObjectNotFound(key)
        return size

    def entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        return ((entry.key, entry.size) for entry in self.dated(prefix))

    def dated(self, prefix: str) -> Iterator[Entry]:
        folder = prefix.rpartition("/")[0]
        path = self._path(folder) if folder else self.folder
        with suppress(ObjectNotFound), file_errors(prefix):
            yield from self._walk(path, f"{folder}/" if folder else "", prefix, frozenset())

    def _walk(self, folder: Path, name: str, prefix: str, above: frozenset[str]) -> Iterator[Entry]:
        """One folder at a time is open on the way down, so memory does not grow with the number of files."""
        real = self._inside(folder, name)
        if real in above:
            raise StorageError(f"{name} is a link to a folder that it lies in")
        with os.scandir(folder) as found:
            for entry in found:
                key = name + entry.name
                if not key.startswith(prefix):
                    continue
                if entry.is_symlink():
                    self._inside(Path(entry.path), key)
                with suppress(FileNotFoundError):  # it was deleted meanwhile
                    if entry.is_dir():
                        yield from self._walk(Path(entry.path), f"{key}/", prefix, above | {real})
                    elif entry.is_file() and not entry.name.startswith("."):
                        about = entry.stat()
                        yield Entry(key, about.st_size, about.st_mtime)

    def keys(self, prefix: str) -> Iterator[str]:
        return (key for key, _ in self.entries(prefix))

    def check(self) -> None:
        if not os.access(self.folder, os.R_OK | os.X_OK):
            raise StorageError(f"{self.folder} cannot be read")


@measured(StorageError, _put="write", copy="copy", delete="delete", check="check")
class LocalStorage(LocalFolder):
    """Files under one folder, which is made."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)

    def put(self, key: str, data: bytes, media_type: str) -> Stored:
        return self._put(key, [data], media_type)

    def put_file(self, key: str, path: Path, media_type: str) -> Stored:
        return self._put(key, pieces(path), media_type)

    def _put(self, key: str, data: Iterable[bytes], media_type: str) -> Stored:  # noqa: ARG002 - the database keeps it
        path = self._path(key)
        with file_errors(key, "write"):
            stored = Stored(key, *write(path, data, new_in_folder))
            with suppress(FileNotFoundError):  # it was deleted meanwhile, and its folder with it
                sync(path.parent)  # before a row points to it: after a loss of power there is none whose object is gone
            return stored

    def copy(self, source: str, target: str, size: int, sha256: str) -> None:
        self._put(target, same(self.stream(source), size, sha256), "")

    def upload_link(self, *_: Any, **__: Any) -> None:
        return None

    def download_link(self, *_: Any, **__: Any) -> None:
        return None

    def delete(self, key: str) -> None:
        with file_errors(key, "delete"):
            path = self._path(key)
            path.unlink(missing_ok=True)
            remove_empty(path.parent, self.folder)

    def discard_unfinished(self, prefix: str, before: float, dry_run: bool = False) -> int:
        found = 0
        for folder, _, names in os.walk(self._path(prefix)):
            for path in (Path(folder) / name for name in names if UNFINISHED.fullmatch(name)):
                with file_errors(path.name, "delete"), suppress(FileNotFoundError):  # it was renamed meanwhile
                    if path.stat().st_mtime < before:
                        found += 1
                        if not dry_run:
                            path.unlink()
        return found

    def check(self) -> None:
        super().check()
        probe = self.folder / ".probe"
        with file_errors("a probe", "write"):  # whether a full or damaged disk takes data, only writing tells
            write(probe, [PROBE])
            probe.unlink(missing_ok=True)


def open_storage(settings: Settings) -> Storage:
    """The storage that `storage_url` names."""
    if settings.storage.startswith("s3://"):
        return S3Storage(settings.storage.removeprefix("s3://").strip("/"), settings)
    return LocalStorage(Path(settings.storage.removeprefix("file://")))
