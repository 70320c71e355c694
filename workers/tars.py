"""Items' files as one tar in the layout of WebDataset: `0000012.json`, `0000012.result.png` and so on are a sample."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.models import Item
from service.objects import Part
from service.saving import Result

MOST_BYTES = 64_000_000
"""Of a tar of several items; one item's files may be more."""


@dataclass(frozen=True)
class Computed:
    """An item's result before it is stored: metrics, how it came about, its files (with media types) by name."""

    item: Item
    metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]
    files: Mapping[str, tuple[bytes, str]]

    @property
    def size(self) -> int:
        return sum(len(data) for data, _ in self.files.values())


class Tar:
    """A tar that grows in memory under the key that it will have."""

    def __init__(self, key: str) -> None:
        self.key, self.results = key, list[Result]()
        self._file = io.BytesIO()

    def __len__(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def add(self, computed: Computed) -> None:
        item = computed.item
        self._member(item.index, "json", json.dumps(described(computed)).encode())
        placed = {
            name: (self._member(item.index, name, data), media_type)
            for name, (data, media_type) in computed.files.items()
        }
        self.results.append(Result(item.index, computed.metrics, computed.provenance, placed))

    def _member(self, index: int, name: str, data: bytes) -> Part:
        info = tarfile.TarInfo(f"{sample(index)}.{name}")
        info.size = len(data)
        self._file.write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self._file.tell()
        self._file.write(data)
        self._file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return Part(self.key, len(data), hashlib.sha256(data).hexdigest(), offset)

    def closed(self) -> bytes:
        """The whole file."""
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))
        return self._file.getvalue()


def sample(index: int) -> str:
    """What WebDataset calls an item."""
    return f"{index:07d}"


def described(computed: Computed) -> dict[str, Any]:
    """What a sample's `.json` holds, without nulls: a reader that guesses types from the first samples would fail later
    where some have a value and others null."""
    item = computed.item
    names = {name: item.target.get(name) or "" for name in ("id", "label")}
    return {
        "index": item.index, **names, "target": _given(item.target), "start": _given(item.start),
        "settings": _given(item.settings), "metrics": _given(computed.metrics),
        "provenance": _given(computed.provenance),
    }  # fmt: skip


def _given(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _given(each) for name, each in value.items() if each is not None}
    return value
