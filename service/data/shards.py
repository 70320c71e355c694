"""WebDataset: tar files whose members are grouped into samples by name, read in place and never unpacked."""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.data.arrays import class_names
from service.data.index import UNLABELLED, DatasetError, Index, some
from service.objects import Source

IMAGES = ("png", "jpg", "jpeg", "webp")
WINDOW = 4 << 20
"""Bytes that are read ahead; what lies between two of them is skipped."""
THREADS = 8
MOST_SHARDS = 100_000
MOST_LABEL_BYTES = 1_000_000
BRACES = re.compile(r"\{([^{}]*)\}")


class Member(NamedTuple):
    """A file in a tar: `size` bytes from `offset` on."""

    offset: int
    size: int


def chosen(names: Sequence[str], pattern: str) -> list[str]:
    """The names that a pattern with *, ? and braces means. Raises DatasetError if one of them is not there."""
    known, found, lacking = set(names), set[str](), []
    for one in expand(pattern):
        matching = {name for name in names if fnmatchcase(name, one)} if set("*?[") & set(one) else {one} & known
        found |= matching
        if not matching:
            lacking.append(one)
    if lacking:
        raise DatasetError("shards", f"{len(lacking)} name no file under the path: {some(lacking)}")
    return sorted(found)


def expand(pattern: str) -> list[str]:
    """A pattern without braces for each choice in them: {a,b}, or {000..123} with its zeros. Raises DatasetError."""
    done, todo = dict[str, None](), [pattern]
    while todo:
        one = todo.pop()
        if match := BRACES.search(one):
            todo += [one[: match.start()] + choice + one[match.end() :] for choice in reversed(_choices(match[1]))]
        else:
            done[one] = None
        if len(done) + len(todo) > MOST_SHARDS:
            raise DatasetError("shards", f"means more than {MOST_SHARDS:,} names")
    return list(done)


def _choices(inside: str) -> list[str]:
    if (span := re.fullmatch(r"(\d+)\.\.(\d+)", inside)) is None:
        return inside.split(",")
    first, last, width = int(span[1]), int(span[2]), len(span[1])
    if not first <= last < first + MOST_SHARDS:
        raise DatasetError("shards", f"has {{{inside}}}; allowed: 1 to {MOST_SHARDS:,} numbers that rise")
    return [f"{number:0{width}}" for number in range(first, last + 1)]


def scan(source: Source, prefix: str, sizes: Mapping[str, int], classes: Sequence[str] = ()) -> Index:
    """The samples of shards, given their sizes by name, in the order of the names and within each as it stands.

    Every sample has one image and either all have a label, in .cls or as `label` in .json, or none has.
    """
    names = list(sizes)
    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(lambda i: _samples(source, prefix + names[i], sizes[names[i]], i), range(len(names))))
    found = np.concatenate([np.zeros((0, 4), np.int64), *parts])
    label = found[:, 3]
    lacking = found[label == UNLABELLED]
    if 0 < len(lacking) < len(found):
        bare = some([f"{names[shard]} at byte {offset}" for shard, offset, *_ in lacking])
        raise DatasetError("path", f"has {len(lacking):,} samples without a label among others with one; allowed: "
                                   f"a .cls, or a .json with a label, in each or in none; without: {bare}")  # fmt: skip
    known = class_names(label, classes, "classes" if classes else "path")
    return Index.of(prefix, known, sizes.items(), label, found[:, :3])


def _samples(source: Source, key: str, size: int, shard: int) -> NDArray[np.int64]:
    """(shard, offset, size, label) of each sample's image, [N, 4]."""
    rows: list[tuple[int, ...]] = []
    file = Window(source, key, size)
    sample: dict[str, Member] = {}
    last = None
    for name, suffix, member in _members(file, key):
        if name != last:
            rows += _row(file, key, last, sample)
            last, sample = name, {}
        if suffix in sample:
            raise DatasetError("path", f"{key}: {name}.{suffix} is there twice")
        sample[suffix] = member
    rows += _row(file, key, last, sample)
    return np.array([(shard, *row) for row in rows], np.int64).reshape(-1, 4)


def _members(file: "Window", key: str) -> Iterator[tuple[str, str, Member]]:
    """Name up to its first dot, the rest in small letters, and place of each plain file in a tar."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                name = info.name
                if info.size < 0:
                    raise DatasetError("path", f"{key}: {name} has a negative size")
                if name.startswith("/") or ".." in name.split("/"):
                    raise DatasetError("path", f"{key}: a member's name is not a path below its folder: {name!r}")
                if info.isdir() or (name.startswith("__") and name.endswith("__")):
                    continue
                if not info.isreg() or info.issparse():
                    raise DatasetError("path", f"{key}: {name} is not a plain file")
                folder, slash, base = name.rpartition("/")
                stem, dot, suffix = base.partition(".")
                if stem and dot:
                    yield folder + slash + stem, suffix.lower(), Member(info.offset_data, info.size)
            if file.at(tar.offset, tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError(f"no header at byte {tar.offset}")
    except tarfile.TarError as e:
        raise DatasetError("path", f"{key} is not a whole, uncompressed tar file: {e}") from e


def _row(file: "Window", key: str, name: str | None, sample: Mapping[str, Member]) -> list[tuple[int, ...]]:
    if name is None:
        return []
    images = [suffix for suffix in sample if suffix in IMAGES]
    if len(images) != 1:
        raise DatasetError("path", f"{key}: sample {name} has {len(images)} images ({', '.join(sorted(sample))}); "
                                   f"allowed: one of {', '.join(IMAGES)}")  # fmt: skip
    return [(*sample[images[0]], _label(file, key, name, sample))]


def _label(file: "Window", key: str, name: str, sample: Mapping[str, Member]) -> int:
    """The number in .cls, or `label` in .json; -1 if there is neither."""
    suffix = next((s for s in ("cls", "json") if s in sample), None)
    if suffix is None:
        return UNLABELLED
    offset, size = sample[suffix]
    try:
        if size > MOST_LABEL_BYTES:
            raise ValueError(f"{size:,} bytes")
        text = file.at(offset, size).decode()
        if suffix == "cls":
            label = int(text)
        else:
            content = json.loads(text)
            if not isinstance(content, dict) or "label" not in content:
                return UNLABELLED
            label = content["label"]
        if type(label) is not int or not 0 <= label < 2**31:
            raise ValueError(f"{label!r}")
    except (ValueError, RecursionError) as e:
        raise DatasetError("path", f"{key}: {name}.{suffix} holds no label: {e}; allowed: a whole number from 0") from e
    return label


class Window(io.RawIOBase):
    """An object as a file that can seek, of which one piece is in memory."""

    def __init__(self, source: Source, key: str, size: int) -> None:
        super().__init__()
        self._source, self._key, self._size = source, key, size
        self._position, self._start, self._piece = 0, 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        size = left if size < 0 else min(size, left)
        begin = self._position - self._start
        if not 0 <= begin <= begin + size <= len(self._piece):
            length = min(max(size, WINDOW), left)
            self._start, self._piece = self._position, self._source.get_range(self._key, self._position, length)
            begin = 0
        self._position += size
        return self._piece[begin : begin + size]

    def at(self, offset: int, size: int) -> bytes:
        """Bytes of the object, without moving the position."""
        before = self.tell()
        self.seek(offset)
        data = self.read(size)
        self.seek(before)
        return data
