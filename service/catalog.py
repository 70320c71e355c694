"""The models and data sets that jobs can name, read from the cards under `assets_dir`."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.schemas import DatasetCard, ModelCard


class Dataset:
    """A data set's card and, when asked for, its images and labels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.card = DatasetCard.model_validate_json((folder / "card.json").read_text())

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


class Catalog:
    """Cards by name; read once."""

    def __init__(self, assets: Path) -> None:
        self.assets = assets
        self.models: Mapping[str, ModelCard] = {
            path.parent.name: ModelCard.model_validate_json(path.read_text())
            for path in sorted(assets.glob("models/*/card.json"))
        }
        self.datasets: Mapping[str, Dataset] = {
            path.parent.name: Dataset(path.parent) for path in sorted(assets.glob("datasets/*/card.json"))
        }

    def weights(self, model: str) -> Path:
        """The safetensors file of a model's weights."""
        return self.assets / "models" / model / "model.safetensors"
