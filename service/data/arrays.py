"""Data sets that are arrays: .npz files, and CIFAR-10 as torchvision keeps it."""

import hashlib
import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.data.index import UNLABELLED, Arrays, DatasetError
from service.objects import ObjectNotFound, Source

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_FOLDER = "cifar-10-batches-py/"
CIFAR_FILES = {
    "train": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
}
"""The published MD5 of each file."""
MOST_BYTES = 4_000_000_000
"""Of an array that is read into memory, and of its file."""
MOST_CLASSES = 100_000


def class_names(labels: NDArray[np.int64], names: Sequence[str], field: str = "path") -> tuple[str, ...]:
    """The labels' names, or else their numbers. Raises DatasetError if a label is out of bounds; -1 is no label."""
    most = len(names) or MOST_CLASSES
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (UNLABELLED, UNLABELLED)
    if low < UNLABELLED or high >= most:
        raise DatasetError(field, f"has labels from {low} to {high}; allowed: 0 to {most - 1}, or -1 for none")
    return tuple(names) or tuple(map(str, range(high + 1)))


def npz(source: Source, key: str, classes: Sequence[str] = ()) -> Arrays:
    """An .npz file with `images` uint8 [N, H, W, 3] and integer `labels` [N]; `classes` may name them.

    Raises DatasetError for anything else, before an array is read, and StorageError.
    """
    return parse_npz(_read(source, key), classes, key)


def parse_npz(data: bytes, classes: Sequence[str] = (), name: str = "the file") -> Arrays:
    """The bytes of such a file. Raises DatasetError."""
    expected = "expected an .npz file of images uint8 [N, H, W, 3] and integer labels [N]"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = {member.removesuffix(".npy"): _header(archive, member) for member in archive.namelist()}
        images, labels = found.get("images"), found.get("labels")
        if not (
            images and labels and images[1] == np.uint8 and len(images[0]) == 4 and images[0][3] == 3
            and labels[0] == images[0][:1] and np.issubdtype(labels[1], np.integer)
        ):  # fmt: skip
            about = ", ".join(f"{array} {dtype} {list(shape)}" for array, (shape, dtype) in found.items())
            raise DatasetError("path", f"{name}: {expected}; found {about or 'nothing'}")
        if large := [
            array for array, (shape, dtype) in found.items() if math.prod(shape) * dtype.itemsize > MOST_BYTES
        ]:
            raise DatasetError("path", f"{name}: {', '.join(large)}: too large; allowed: {MOST_BYTES:,} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as f:
            pixels, numbers = f["images"], f["labels"].astype(np.int64)
            if not classes and "classes" in found and found["classes"][1].kind == "U":
                classes = [str(c) for c in f["classes"]]
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as e:
        raise DatasetError("path", f"{name}: {expected}; it cannot be read ({e})") from e
    return Arrays(np.ascontiguousarray(pixels), numbers, class_names(numbers, classes))


def _header(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """An array's shape and type, without its content. Raises ValueError."""
    try:
        with archive.open(member) as f:
            version = np.lib.format.read_magic(f)
            if version != (1, 0):
                raise ValueError(f"it is in .npy format {version}, not 1.0")
            shape, _, dtype = np.lib.format.read_array_header_1_0(f)
    except Exception as e:  # zipfile and numpy let through whatever reading a damaged header raises
        raise ValueError(f"{member}: {e}") from e
    return shape, dtype


def cifar10(
    source: Source, prefix: str, split: Literal["train", "test"],
    files: Mapping[str, Mapping[str, str]] = CIFAR_FILES,
) -> Arrays:  # fmt: skip
    """`cifar10_train.npz` or `cifar10_test.npz` under the prefix, or else torchvision's folder of batches there.

    Raises DatasetError if neither is there, or a batch is not, byte for byte, one of `files` (MD5 by name).
    """
    try:
        found = npz(source, key := f"{prefix}cifar10_{split}.npz", CIFAR_CLASSES)
    except ObjectNotFound:
        return _batches(source, f"{prefix}{CIFAR_FOLDER}", files[split])
    if found.images.shape[1:3] != (32, 32):
        raise DatasetError("path", f"{key}: images are {' x '.join(map(str, found.images.shape[1:3]))}, not 32 x 32")
    return found


def _batches(source: Source, folder: str, md5s: Mapping[str, str]) -> Arrays:
    batches, wrong = [], []
    for name, md5 in md5s.items():
        try:
            data = _read(source, folder + name)
        except ObjectNotFound:
            wrong.append(f"{name} is missing")
            continue
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
            wrong.append(f"{name} is not the published file")
        else:
            batches.append(_Batch(io.BytesIO(data), name).read())
    if wrong:
        raise DatasetError("path", f"holds neither cifar10_*.npz nor CIFAR-10 in {folder}: {', '.join(wrong)}")
    pixels = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.concatenate([labels for _, labels in batches])
    return Arrays(np.ascontiguousarray(pixels), labels, CIFAR_CLASSES)


def _read(source: Source, key: str) -> bytes:
    if (size := source.stat(key)) > MOST_BYTES:
        raise DatasetError("path", f"{key} is {size:,} bytes; allowed: {MOST_BYTES:,}")
    return source.get(key)


def _array(*_: Any) -> NDArray[Any]:
    """An array that its pickled state will fill."""
    return np.ndarray.__new__(np.ndarray, (0,), np.uint8)


class _Batch(pickle.Unpickler):
    """A pickled batch, of which nothing but arrays and plain values is made."""

    ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): _array, ("numpy._core.multiarray", "_reconstruct"): _array,
        ("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype,
    }  # fmt: skip

    def __init__(self, file: IO[bytes], name: str) -> None:
        super().__init__(file, encoding="latin1")
        self.name = name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise DatasetError("path", f"{self.name} asks for {module}.{name}, which no batch of CIFAR-10 needs")
        return self.ALLOWED[module, name]

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        batch = self.load()
        return np.asarray(batch["data"], np.uint8), np.asarray(batch["labels"], np.int64)
