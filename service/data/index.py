"""What a data set holds: where each image lies (Index), or the pixels themselves (Arrays), with labels and classes."""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.errors import FieldError, InvalidInput

Ints = NDArray[np.int64]
UNLABELLED = -1
NAMED = 5
"""So many offenders are named in an error; the others are counted."""


class DatasetError(InvalidInput):
    """A data set is not what its format asks for. `field` is the request's; the message says what was found."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(FieldError(field, message))
        self.field, self.message = field, message


def some(names: Sequence[str]) -> str:
    """The first few names, and how many there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def choose_per_class(labels: Ints, per_class: int | None = None, seed: int = 0) -> Ints:
    """Places of `per_class` images of each class that has any, drawn by `seed`, in order.

    Left out, it is as many as the rarest class has. Raises ValueError if a class has fewer, or nothing has a label.
    """
    classes, counts = np.unique(labels[labels != UNLABELLED], return_counts=True)
    if not len(classes):
        raise ValueError("no image has a label")
    wanted = int(counts.min()) if per_class is None else per_class
    if wanted > counts.min():
        raise ValueError(f"class {classes[counts.argmin()]} has {counts.min()} images, not {wanted}")
    random = np.random.default_rng(seed)
    drawn = [random.choice(np.flatnonzero(labels == c), wanted, replace=False) for c in classes]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Index:
    """Where each of N images lies among F files below `prefix`: `length` bytes from `offset` on in file number `files`.

    A column for each, so that a million images take some 100 MB. `names` are the files' names as UTF-8, one after the
    other, and `ends` where each ends.
    """

    prefix: str
    classes: tuple[str, ...]
    names: NDArray[np.uint8]
    ends: Ints
    sizes: Ints
    files: Ints
    offset: Ints
    length: Ints
    label: NDArray[np.int32]

    @classmethod
    def of(
        cls, prefix: str, classes: Sequence[str], files: Iterable[tuple[str, int]], label: Iterable[int] | Ints,
        spans: NDArray[np.int64] | None = None,
    ) -> "Index":  # fmt: skip
        """An index over (name, size) of files. Each is an image, unless `spans` [N, 3] has (file, offset, length)."""
        encoded = [(name.encode("utf-8", "surrogateescape"), size) for name, size in files]
        sizes = np.array([size for _, size in encoded], np.int64)
        if spans is None:
            spans = np.stack([np.arange(len(sizes)), np.zeros_like(sizes), sizes], axis=1)
        ends = np.cumsum([len(name) for name, _ in encoded], dtype=np.int64)
        names = np.frombuffer(b"".join(name for name, _ in encoded), np.uint8)
        labels = np.asarray(label if isinstance(label, np.ndarray) else list(label), np.int32)
        file, offset, length = np.ascontiguousarray(spans.T)
        return cls(prefix, tuple(classes), names, ends, sizes, file, offset, length, labels)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def labels(self) -> Ints:
        """Integers [N], places in `classes`; -1 where there is no label."""
        return self.label.astype(np.int64)

    def name(self, file: int) -> str:
        """A file's name below the prefix."""
        start = self.ends[file - 1] if file else 0
        return self.names[start : self.ends[file]].tobytes().decode("utf-8", "surrogateescape")

    def where(self, i: int) -> str:
        """The i-th image in words, for messages."""
        file = int(self.files[i])
        return self.name(file) + (f" at byte {self.offset[i]}" if self.length[i] != self.sizes[file] else "")

    def select(self, rows: Ints) -> "Index":
        """The images at these places. The files stay, so that places in them mean the same."""
        return replace(self, **{name: getattr(self, name)[rows] for name in ("files", "offset", "length", "label")})

    @cached_property
    def digest(self) -> str:
        """SHA-256 over classes, names, sizes, places and labels, but not the prefix: a copy elsewhere has the same."""
        lengths, used = np.diff(self.ends, prepend=0), np.zeros(len(self.ends), bool)
        used[self.files] = True
        content = hashlib.sha256(json.dumps([self.classes, int(used.sum()), len(self)]).encode() + b"\n")
        numbers = (np.cumsum(used) - 1)[self.files]
        for column in (lengths[used], self.sizes[used], numbers, self.offset, self.length, self.label):
            content.update(np.ascontiguousarray(column, "<i8").data)
        content.update(self.names[np.repeat(used, lengths)].data)
        return content.hexdigest()

    def save(self) -> bytes:
        """One compressed .npz."""
        out = io.BytesIO()
        text = json.dumps({"prefix": self.prefix, "classes": self.classes}).encode()
        columns = {f.name: getattr(self, f.name) for f in fields(self)[2:]}
        np.savez_compressed(out, about=np.frombuffer(text, np.uint8), **columns)
        return out.getvalue()

    @classmethod
    def load(cls, data: bytes) -> "Index":
        """What `save` wrote. Raises ValueError for anything else that is no .npz of such arrays."""
        with np.load(io.BytesIO(data), allow_pickle=False) as f:
            about = json.loads(f["about"].tobytes())
            return cls(about["prefix"], tuple(about["classes"]), *(f[field.name] for field in fields(cls)[2:]))


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images uint8 [N, H, W, 3] and labels int64 [N] in memory."""

    images: NDArray[np.uint8]
    labels: Ints
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]."""
        pixels: NDArray[np.uint8] = self.images[i]
        return pixels

    def label(self, i: int) -> int:
        return int(self.labels[i])

    def select(self, rows: Ints) -> "Arrays":
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    @cached_property
    def digest(self) -> str:
        """SHA-256 over classes, shape, pixels and labels."""
        content = hashlib.sha256(json.dumps([self.classes, self.images.shape]).encode() + b"\n")
        content.update(np.ascontiguousarray(self.images).data)
        content.update(self.labels.astype("<i8").tobytes())
        return content.hexdigest()

    def save(self) -> bytes:
        """One compressed .npz with `images`, `labels` and `classes`."""
        out = io.BytesIO()
        np.savez_compressed(out, images=self.images, labels=self.labels, classes=np.array(self.classes, np.str_))
        return out.getvalue()
