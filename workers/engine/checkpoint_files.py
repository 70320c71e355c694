"""Files of tensors, read without running anything that is in them: safetensors, and what torch.save writes.

Whatever is wrong with a file is a CheckpointError. What a file may make this process allocate is bounded by its size.
"""

import json
import warnings
import zipfile
from io import BufferedReader, BytesIO
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workers.engine import pickles

LARGEST_HEADER = 16 << 20
"""Bytes of a safetensors header, or of the pickle in a zip archive: hundreds of times what large networks need."""

SAFETENSORS_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
"""How files begin that torch.save wrote before they were archives: with a number, and that of the version."""
MOST_DIMENSIONS = 8
LONGEST_ERROR = 10_000


class CheckpointError(ValueError):
    """What is wrong with a checkpoint, in a sentence for the one who sent it; cut if it is endless."""

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= LONGEST_ERROR else f"{message[:LONGEST_ERROR]}...")


class Entry(NamedTuple):
    """A tensor in a safetensors file: bytes [begin, end) after the header."""

    name: str
    dtype: torch.dtype
    shape: list[int]
    begin: int
    end: int


class _Ignored:
    """Stands in for NumPy's scalars and arrays, such as a logged accuracy: nothing of them is needed or run."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


_NUMPY = [
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
]


def load(path: Path) -> tuple[str, Any]:
    """What is in the file: ("safetensors", tensors by name), or ("torch", whatever was saved, in CPU memory).

    Raises CheckpointError for anything else, and for a pickle that names more than tensors and plain values.
    """
    try:
        if not path.is_file():
            raise CheckpointError(f"{path.name} is not a file")
        with path.open("rb") as file:
            start, size = file.read(9), path.stat().st_size
            header = int.from_bytes(start[:8], "little")
            if start[8:] == b"{" and not start.startswith(b"PK"):
                return "safetensors", _safetensors(file, header, size)
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from error
    if start.startswith(b"PK"):
        _check_archive(path, size)
    elif not start.startswith(b"\x80"):
        raise CheckpointError("not a checkpoint: neither safetensors nor written by torch.save")
    is_archive = start.startswith(b"PK")
    _check_pickles(path, size, is_archive)
    return "torch", _unpickle(path, mmap=is_archive)


def _safetensors(file: BufferedReader, header_size: int, size: int) -> dict[str, Tensor]:
    if header_size > min(size - 8, LARGEST_HEADER):
        raise CheckpointError(
            f"safetensors header of {header_size} bytes in a file of {size}; at most {LARGEST_HEADER}"
        )
    file.seek(8)
    entries = _entries(file.read(header_size), size - 8 - header_size)
    tensors = {}
    for entry in entries:
        tensor = torch.empty(entry.shape, dtype=torch.uint8 if entry.dtype is torch.bool else entry.dtype)
        file.seek(8 + header_size + entry.begin)
        if file.readinto(tensor.view(-1).view(torch.uint8).numpy().data) != entry.end - entry.begin:
            raise CheckpointError(f"safetensors: the file ends within {entry.name}")
        tensors[entry.name] = tensor.bool() if entry.dtype is torch.bool else tensor
    return tensors


def _entries(header: bytes, data_size: int) -> list[Entry]:
    """In the order of their bytes, which they cover without gap or overlap."""
    try:
        table = json.loads(header.decode(), object_pairs_hook=_without_duplicates)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"safetensors: the header is not JSON: {error}") from error
    if not isinstance(table, dict):
        raise CheckpointError("safetensors: the header is not an object")
    table.pop("__metadata__", None)
    entries = sorted((_entry(name, value) for name, value in table.items()), key=lambda e: (e.begin, e.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise CheckpointError(f"safetensors: {entry.name} begins at byte {entry.begin}, expected {position}")
        position = entry.end
    if position != data_size:
        raise CheckpointError(f"safetensors: tensors of {position} bytes, in a file with {data_size}")
    return entries


def _entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"safetensors: {name} needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SAFETENSORS_TYPES:
        raise CheckpointError(f"safetensors: {name} has dtype {dtype!r}; allowed: {', '.join(SAFETENSORS_TYPES)}")
    whole = all(isinstance(v, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in v) for v in (shape, offsets))
    if not whole or len(shape) > MOST_DIMENSIONS or len(offsets) != 2 or prod(n or 1 for n in shape) >= 1 << 48:
        raise CheckpointError(f"safetensors: {name} has shape {shape!r} and data_offsets {offsets!r}")
    if offsets[1] - offsets[0] != prod(shape) * SAFETENSORS_TYPES[dtype].itemsize:
        raise CheckpointError(f"safetensors: {name} is {dtype} {shape}, which {offsets} does not hold")
    return Entry(name, SAFETENSORS_TYPES[dtype], shape, *offsets)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CheckpointError("safetensors: the header names something twice")
    return found


def _check_archive(path: Path, size: int) -> None:
    """torch.save stores its records as they are: with compressed ones a small file could fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except Exception as error:  # a damaged directory makes zipfile raise more kinds than it documents
        raise CheckpointError(f"not a checkpoint: a damaged zip archive ({error})") from error
    if any(r.compress_type != zipfile.ZIP_STORED or r.compress_size != r.file_size for r in records):
        raise CheckpointError("not a checkpoint: the archive is compressed, and torch.save never compresses")
    if sum(r.file_size for r in records) > size:
        raise CheckpointError("not a checkpoint: the archive's records overlap")
    if any(r.filename.endswith(".pkl") and r.file_size > LARGEST_HEADER for r in records):
        raise CheckpointError(f"the archive's pickle is longer than {LARGEST_HEADER} bytes: these are not only tensors")


def _check_pickles(path: Path, size: int, is_archive: bool) -> None:
    """Those that torch.load will read, as it finds them."""
    try:
        if is_archive:
            # With its own eyes: another reader of archives might find another record by this name.
            pickles.check(BytesIO(torch.PyTorchFileReader(str(path)).get_record("data.pkl")), _NUMPY, size)
            return
        with path.open("rb") as file:
            head = BytesIO(file.read(LARGEST_HEADER))
        if head.read(len(LEGACY)) != LEGACY:
            head.seek(0)
            pickles.check(head, _NUMPY, size)  # above all, for what it names
            raise CheckpointError("a pickle that torch.save did not write")
        for _ in range(2):  # the system, and what was saved
            pickles.check(head, _NUMPY, size)
        pickles.check_texts(head)  # the keys of the storages behind them
    except pickles.Unknown as error:
        raise CheckpointError(
            f"the pickle names {error}, which could run code: it was not loaded. Where the file is trusted, save its "
            "tensors alone: torch.save(checkpoint['model'], path), or safetensors"
        ) from error
    except Exception as error:  # a damaged pickle makes its reader raise anything, from KeyError to MemoryError
        raise CheckpointError(f"not a checkpoint that is safe to load: {error or repr(error)}") from error


def _unpickle(path: Path, mmap: bool) -> Any:
    """Mapped if it is an archive: then a storage cannot reach past the file, whatever length the pickle gives it."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(_Ignored, name) for name in _NUMPY]):
            warnings.simplefilter("ignore")
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged pickle makes the unpickler raise anything, from KeyError to MemoryError
        lines = str(error).splitlines()
        raise CheckpointError(
            f"not a checkpoint that torch.load reads: {lines[0] if lines else repr(error)}"
        ) from error
