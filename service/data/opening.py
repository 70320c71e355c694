"""A data set opened from its card and location, in the API, a worker, or a process that trains."""

import threading
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.cards import DatasetCard
from service.catalog import Dataset, ShippedDataset
from service.data.arrays import parse_npz
from service.data.cache import Cache
from service.data.index import Arrays, Index, Ints
from service.data.reader import Reader
from service.data.shards import Window
from service.settings import Settings
from service.storage import LocalFolder, Storage


class OpenedDataset:
    """A registered data set. Its index, or its pixels where they were copied, are read when they are first needed.

    Threads share it. Labels are read without the pixels.
    """

    def __init__(self, card: DatasetCard, location: Mapping[str, Any], settings: Settings, storage: Storage) -> None:
        self.card, self.location, self.settings, self.storage = card, location, settings, storage
        self._lock = threading.Lock()
        self._content: Reader | Arrays | None = None
        self._labels: Ints | None = None

    @property
    def content(self) -> Reader | Arrays:
        """Raises ObjectNotFound, StorageError, or ValueError if it is not what was registered."""
        with self._lock:
            if self._content is None:
                self._content = self._open()
            return self._content

    def _open(self) -> Reader | Arrays:
        if key := self.location.get("arrays"):
            found: Index | Arrays = parse_npz(self.storage.get(key), self.card.classes)
        else:
            found = Index.load(self.storage.get(self.location["index"]))
        if found.digest != self.card.digest:
            raise self._changed()
        return found if isinstance(found, Arrays) else self._reader(found)

    def _reader(self, index: Index) -> Reader:
        if self.location["root"] == "bucket":
            remote = self.settings.storage.startswith("s3://")
            cache = Cache(self.settings.cache, self.settings.cache_bytes) if remote else None
            return Reader(self.storage, index, cache)
        if self.settings.datasets_dir is None:
            raise ValueError(f"the data set {self.card.name} lies in a folder, and there is no datasets_dir here")
        return Reader(LocalFolder(self.settings.datasets_dir), index)

    @property
    def labels(self) -> Ints:
        """Raises as `content` does."""
        if (key := self.location.get("arrays")) is None or self._content is not None:
            return self.content.labels
        with self._lock:
            if self._labels is None:
                self._labels = self._labels_alone(key)
            return self._labels

    def _labels_alone(self, key: str) -> Ints:
        """From a file of arrays, of which little else is read."""
        try:
            with np.load(Window(self.storage, key, self.storage.stat(key)), allow_pickle=False) as f:
                labels: Ints = f["labels"].astype(np.int64)
        except (zipfile.BadZipFile, zlib.error) as e:
            raise self._changed() from e
        if labels.shape != (self.card.size,):
            raise self._changed()
        return labels

    def _changed(self) -> ValueError:
        return ValueError(f"the data set {self.card.name} is not the one that was registered")

    @property
    def images(self) -> NDArray[np.uint8] | None:
        """uint8 [N, H, W, 3], if they are in memory."""
        return self.content.images if isinstance(self.content, Arrays) else None

    def image(self, index: int) -> NDArray[np.uint8]:
        return self.content.image(index)


def open_dataset(card: DatasetCard, location: Mapping[str, Any], settings: Settings, storage: Storage) -> Dataset:
    """The data set that another process, or a row of the database, knows as `card` and `location`."""
    if location["root"] == "assets":
        return ShippedDataset(settings.assets_dir / "datasets" / card.name)
    return OpenedDataset(card, location, settings, storage)
