"""A bounded copy of remote objects on this machine's disk, shared by its threads and processes.

An entry is one file: the object's bytes and after them a CRC-32 of each block, so that a read checks just what it
reads. The time of an entry's last use is the file's own. A file that is being fetched has its full size from the
start and its fetcher holds a lock on it: what is counted is never less than what is there, a second request waits
instead of fetching again, and what a killed process leaves behind has no lock and is removed.
"""

import fcntl
import hashlib
import os
import stat
import time
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from service.objects import Source, StorageError

BLOCK = 1 << 16
PART = ".part"
SLACK = 20
"""Making room frees this fraction of the limit as well, so that not every fetch looks through all entries."""


class ChangedError(ValueError):
    """An object is not the size that was asked for: it has been replaced."""


class _DamagedError(StorageError):
    """An entry is not what was written."""


class _FullError(Exception):
    """Files that are being fetched take up the limit."""


class Cache:
    """Objects in `folder`, of `max_bytes` together, file sizes added up. The least recently used go first.

    Opening it removes what killed processes left, and whatever is over the limit. Every process on the machine may
    open the same folder. A pickled cache opens it again.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder.absolute(), max_bytes
        (self.folder / "entries").mkdir(parents=True, exist_ok=True)
        with self._ledger() as ledger:
            _note(ledger, self._evict(0))

    def __reduce__(self) -> tuple[Any, ...]:
        return Cache, (self.folder, self.max_bytes)

    def read(self, source: Source, key: str, size: int, start: int, length: int) -> bytes:
        """`length` bytes from `start` on of an object of `size` bytes, which is fetched whole if it is not here.

        One that is larger than the limit is read in place. Raises ObjectNotFound, StorageError, ChangedError, or
        OSError if the folder cannot be written.
        """
        if _on_disk(size) > self.max_bytes or not length:
            return source.get_range(key, start, length)
        name = hashlib.sha256(f"{source.url}\0{key}\0{size}".encode("utf-8", "surrogateescape")).hexdigest()
        path = self.folder / "entries" / name[:2] / name
        with suppress(FileNotFoundError, _DamagedError):
            return _read(path, size, start, length)
        unfinished = path.with_suffix(PART)
        with _locked(unfinished) as part:
            try:
                data = _read(path, size, start, length)  # another may have fetched it while this one waited
                unfinished.unlink()
                return data
            except _DamagedError:
                self._remove(path)
            except FileNotFoundError:
                pass
            try:
                self._fetch(source, key, size, part)
                with self._ledger():  # so that nobody who counts misses both names
                    unfinished.rename(path)
                return _span(part, size, start, length)
            except _FullError:
                self._remove(unfinished)
                return source.get_range(key, start, length)
            except BaseException:
                self._remove(unfinished)
                raise

    def _fetch(self, source: Source, key: str, size: int, part: int) -> None:
        """Fill the locked file, which has its full size from the start."""
        with self._ledger() as ledger:
            self._make_room(ledger, _on_disk(size))
            os.ftruncate(part, _on_disk(size))
        written, crcs = 0, array("I")
        for piece in source.stream(key):
            if written + len(piece) > size:
                raise ChangedError(f"{key} is larger than the {size} bytes it had")
            _write(part, piece, written)
            crcs.extend(zlib.crc32(piece[at : at + BLOCK]) for at in range(0, len(piece), BLOCK))
            written += len(piece)
        if written < size:
            raise ChangedError(f"{key} has {written} bytes, not the {size} it had")
        _write(part, crcs.tobytes(), size)

    def _remove(self, path: Path) -> None:
        with self._ledger() as ledger, suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            _note(ledger, _total(ledger) - size)

    @contextmanager
    def _ledger(self) -> Iterator[int]:
        """The folder's own lock, in the file that says how many bytes are counted."""
        with _locked(self.folder / "total") as fd:
            yield fd

    def _make_room(self, ledger: int, wanted: int) -> None:
        """Count `wanted` bytes more, removing the least recently used entries if they would exceed the limit."""
        total = _total(ledger)
        if total + wanted > self.max_bytes:
            total = self._evict(wanted)
        if total + wanted > self.max_bytes:
            raise _FullError
        _note(ledger, total + wanted)

    def _evict(self, wanted: int) -> int:
        """Remove dead parts, and then entries as far as needed; answers the bytes that remain."""
        total, entries = 0, []
        for path, about in _files(self.folder / "entries"):
            if path.endswith(PART):
                total += 0 if _abandoned(path) else about.st_size
            else:
                total += about.st_size
                entries.append((about.st_mtime_ns, about.st_size, path))
        if total + wanted <= self.max_bytes:
            return total
        for _, size, path in sorted(entries):
            Path(path).unlink(missing_ok=True)
            total -= size
            if total + wanted <= self.max_bytes - self.max_bytes // SLACK:
                break
        return total


def _on_disk(size: int) -> int:
    return size + 4 * -(-size // BLOCK)


def _total(ledger: int) -> int:
    return int(os.pread(ledger, 32, 0) or b"0")


def _note(ledger: int, total: int) -> None:
    os.pwrite(ledger, b"%032d" % max(0, total), 0)


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _read(path: Path, size: int, start: int, length: int) -> bytes:
    """Part of an entry, which is now the most recently used. Raises FileNotFoundError or _DamagedError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        data = _span(fd, size, start, length)
        now = time.time_ns()
        os.utime(fd, ns=(now, now))
        return data
    finally:
        os.close(fd)


def _span(fd: int, size: int, start: int, length: int) -> bytes:
    """Part of the object, from whole blocks that match their checksums. Raises _DamagedError."""
    if start < 0 or length < 0 or start + length > size:
        raise ValueError(f"bytes {start} to {start + length} of {size}")
    first, last = start // BLOCK, -(-(start + length) // BLOCK)
    begin, end = first * BLOCK, min(last * BLOCK, size)
    data = os.pread(fd, end - begin, begin)
    crcs = array("I", os.pread(fd, 4 * (last - first), size + 4 * first))
    blocks = [data[at : at + BLOCK] for at in range(0, end - begin, BLOCK)]
    if len(data) != end - begin or [zlib.crc32(block) for block in blocks] != crcs.tolist():
        raise _DamagedError
    return data[start - begin : start - begin + length]


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The open file at `path`, made if need be, for one thread of one process at a time."""
    path.parent.mkdir(exist_ok=True)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _same(fd, path):  # else it was renamed or removed while this one waited
                yield fd
                return
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough if a fork has the file open too
            os.close(fd)


def _same(fd: int, path: Path | str) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path))  # noqa: PTH116 - a plain string, a million times
    return False


def _abandoned(part: str) -> bool:
    """Remove a part that nobody is fetching into any more; whether there was none, or it is gone now."""
    try:
        fd = os.open(part, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _same(fd, part):  # else another part has its name by now
            Path(part).unlink()
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file two levels down."""
    with os.scandir(folder) as folders:
        for below in folders:
            with os.scandir(below.path) as files:
                for entry in files:
                    with suppress(FileNotFoundError):
                        about = entry.stat()
                        if stat.S_ISREG(about.st_mode):
                            yield entry.path, about
