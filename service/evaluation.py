"""Evaluations, and rankings of a data set's images, as job requests: forward passes and attacks over many images."""

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from service.images import Resize
from service.requests import Submission
from service.schemas import Finite, JobParameters, Name, Request, Seed
from service.studies import Directions, Layer


class AttackRequest(Request):
    """An attack within the evaluation's radius. `apgd-t` aims at the 9 likeliest other classes, one after the other."""

    kind: Literal["pgd", "apgd-ce", "apgd-t"] = "pgd"
    steps: int = Field(20, ge=1, le=10_000)
    restarts: int = Field(1, ge=1, le=100, description="The worst of them counts, image by image")
    step_size: Finite | None = Field(
        None, gt=0, le=1e4, description="Pixels in [0, 1], for pgd; left out: 2.5 eps / steps"
    )

    @model_validator(mode="after")
    def _step(self) -> "AttackRequest":
        if self.step_size is not None and self.kind != "pgd":
            raise ValueError(f"{self.kind} chooses its own step_size: leave it out")
        return self


_PGD = [AttackRequest(steps=20), AttackRequest(steps=100)]
_STRONG = [*_PGD, AttackRequest(kind="apgd-ce", steps=100), AttackRequest(kind="apgd-t", steps=100)]


class Evaluated(Submission):
    """Which images to evaluate networks on, and under which attacks."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"norm": "l2", "eps": 3.0, "attacks": _PGD},
        "cifar": {"norm": "l2", "eps": 0.5, "attacks": _PGD},
        "strong": {"norm": "l2", "eps": 0.5, "attacks": _STRONG},
    }

    dataset: Name
    preset: Literal["paper", "cifar", "strong"] = "paper"
    norm: Literal["l2", "linf"] | None = None
    eps: Finite | None = Field(None, gt=0, le=1e4, description="Radius of the attacks, pixels in [0, 1]")
    attacks: list[AttackRequest] | None = Field(
        None, max_length=20, description="[]: clean accuracy alone; left out: the preset's"
    )
    controls: bool = Field(
        True, description="Also noise, and a radius that reaches gray: what exposes a network that hides its gradients"
    )
    images: int | None = Field(None, ge=1, description="So many images, drawn by the seed; left out: all")
    resize: Resize = Field("imagenet", description="What to do with images of another size than the model's")
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: Seed = 0


class Evaluation(Evaluated):
    """Clean accuracy and accuracy under attack, with intervals and a table by class."""

    kind: Literal["evaluation"]
    model: Name


class ActivatingImages(Layer, Directions):
    """The images of a whole data set that activate each direction most and least, by forward passes alone."""

    kind: Literal["activating_images"]
    dataset: Name
    k: int = Field(5, ge=1, le=64, description="So many images at either end")


def selection(size: int, images: int, seed: int) -> list[int]:
    """Places of so many images of a data set of `size`, or of all if it has fewer, drawn by the seed, in order."""
    return sorted(np.random.default_rng(seed).permutation(size)[:images].tolist())


class DatasetParameters(JobParameters):
    """Of a job over a data set's images; each item is a run of them in the order of `selection`."""

    model: str
    model_digest: str
    dataset: str
    dataset_digest: str
    resize: Resize
    seed: int
    images: int

    def selection(self, size: int) -> list[int]:
        """The chosen images of a data set of `size`, in order of index."""
        return selection(size, self.images, self.seed)


class EvaluationParameters(DatasetParameters):
    """What attacks need. `class_of` is the network's class for each class of the data set."""

    preset: str
    norm: Literal["l2", "linf"]
    eps: float
    attacks: list[AttackRequest]
    controls: bool
    precision: Literal["fp32", "bf16"]
    class_of: list[int]


class ActivatingParameters(DatasetParameters):
    """What a ranking needs: the layer, and one list of (coordinate, weight) for each direction."""

    layer: str
    pool: Literal["mean", "flatten"]
    k: int
    directions: list[dict[str, Any]]
