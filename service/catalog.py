"""The models and data sets that jobs can name: the shipped ones, from cards under `assets_dir`, and the registered."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.cards import Architecture, DatasetCard, ModelCard
from service.db import Database
from service.models import RegisteredDataset, RegisteredModel


class Dataset(Protocol):
    """A data set's card and, when asked for, its images and labels."""

    @property
    def card(self) -> DatasetCard: ...

    @property
    def location(self) -> Mapping[str, Any]:
        """Where it lies; with the card, all that another process needs to open it."""

    @property
    def labels(self) -> Any:
        """Integers [N], places in the card's classes; -1 where there is no label."""

    def image(self, index: int) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]. Raises OSError, ValueError, ObjectNotFound or StorageError."""


def label_of(dataset: Dataset, index: int) -> str | None:
    """The class of an image by name; None where it has no label."""
    place = int(dataset.labels[index]) if dataset.card.classes else -1
    return dataset.card.classes[place] if place >= 0 else None


class ShippedDataset:
    """A folder with card.json and images.npz."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.card = DatasetCard.model_validate_json((folder / "card.json").read_text())
        self.location = {"root": "assets"}

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """uint8 [N, H, W, 3]."""
        with np.load(self.folder / "images.npz", allow_pickle=False) as f:
            images: NDArray[np.uint8] = f["images"]
        return images

    @cached_property
    def labels(self) -> list[int]:
        with np.load(self.folder / "images.npz", allow_pickle=False) as f:
            return [int(label) for label in f["labels"]]

    def image(self, index: int) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = self.images[index]
        return pixels


Open = Callable[[DatasetCard, Mapping[str, Any]], Dataset]
"""A registered data set's card and location to the data set itself."""


def _architectures() -> dict[str, Architecture]:
    """What workers can build, which the service knows from a file that they write: it imports none of their code."""
    table = json.loads(Path(__file__).with_name("architectures.json").read_text())
    return {name: Architecture.model_validate(each) for name, each in table.items()}


class Catalog:
    """Cards by name. `refresh` takes in what has been registered since."""

    def __init__(self, assets: Path, opener: Open | None = None) -> None:
        self.assets, self._open = assets, opener
        self.architectures: Mapping[str, Architecture] = _architectures()
        self.models: Mapping[str, ModelCard] = {
            path.parent.name: ModelCard.model_validate_json(path.read_text())
            for path in sorted(assets.glob("models/*/card.json"))
        }
        self.datasets: Mapping[str, Dataset] = {
            path.parent.name: ShippedDataset(path.parent) for path in sorted(assets.glob("datasets/*/card.json"))
        }
        self._shipped = self.models, self.datasets
        self._of: dict[str, Catalog] = {}
        self._begin()

    def _begin(self) -> None:
        self.models, self.datasets = self._shipped
        self.stored: Mapping[str, str] = {}
        """The keys of registered models' weights, by digest."""
        self._seen: Any = None
        self._lock, self._asking, self._asked = threading.Lock(), threading.Lock(), 0.0

    def of(self, tenant: str) -> "Catalog":
        """What is shipped, and what sessions of this tenant see beside it."""
        with self._lock:
            if tenant not in self._of:
                self._of[tenant] = copy(self)
                self._of[tenant]._begin()
            return self._of[tenant]

    def latest(self, db: Database) -> "Catalog":
        """Itself, refreshed since this call began; once for all who call at a time."""
        asked = time.monotonic()
        with self._asking:
            if self._asked < asked:
                self._asked = time.monotonic()
                with db.reading() as session:
                    self.refresh(session)
        return self

    def refresh(self, session: Session) -> "Catalog":
        """Itself, with everything that is registered by now. A name means the same for ever, so none is forgotten:
        the session may see less than another thread's, which was here before."""
        tables = (RegisteredModel, RegisteredDataset)
        last = [select(of).scalar_subquery() for t in tables for of in (func.count(t.name), func.max(t.created_at))]
        seen = tuple(session.execute(select(*last)).one())
        if seen == self._seen:
            return self
        models = session.scalars(select(RegisteredModel).order_by(RegisteredModel.name)).all()
        datasets = session.scalars(select(RegisteredDataset).order_by(RegisteredDataset.name)).all()
        with self._lock:  # not around the queries: they may wait for a thread that waits here
            self.stored = {row.digest: row.key for row in models} | dict(self.stored)
            new = {row.name: ModelCard.model_validate(row.card) for row in models if row.name not in self.models}
            self.models = dict(self.models) | new
            opened = {row.name: self._dataset(row) for row in datasets if row.name not in self.datasets}
            self.datasets = dict(self.datasets) | opened
            self._seen = seen
        return self

    def _dataset(self, row: RegisteredDataset) -> Dataset:
        if self._open is None:
            raise ValueError("this catalog cannot open registered data sets")
        return self._open(DatasetCard.model_validate(row.card), row.location)

    def weights(self, model: str) -> Path:
        """The safetensors file of a shipped model's weights."""
        return self.assets / "models" / model / "model.safetensors"
