"""A training recipe: what standard (paper, equation 2) and robust (equation 3) training leave open; and the presets."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from workers.engine.augment import AUGMENTATIONS
from workers.engine.constraints import CONSTRAINTS
from workers.engine.schedules import SCHEDULES

PRECISIONS = ("fp32", "bf16")

_PAPER = {
    "norm": "l2", "epsilon": 3.0, "attack_steps": 7, "attack_step_size": 0.5, "random_start": True,
    "epochs": 110, "batch_size": 256, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4,
    "schedule": "step", "lr_factor": 0.1, "ema": 0.0, "augmentation": "imagenet",
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "paper-restricted": {**_PAPER, "lr_drops": (30, 60)},
    "paper-imagenet": {**_PAPER, "lr_drops": (100,)},
    "library": {**_PAPER, "lr_drops": (100,), "weight_decay": 1e-4, "random_start": False},
    "cifar": {**_PAPER, "epsilon": 0.5, "attack_step_size": 0.1, "epochs": 150, "batch_size": 128,
              "lr_drops": (50, 100), "augmentation": "cifar"},
    "cifar-small": {**_PAPER, "epsilon": 1.0, "attack_steps": 2, "attack_step_size": 0.75, "epochs": 24,
                    "batch_size": 128, "lr": 0.2, "momentum": 0.95, "schedule": "one-cycle", "lr_drops": (),
                    "augmentation": "cifar"},
}  # fmt: skip
"""The paper's tables 2 and 3; what the code released with it does by default; CIFAR ResNets; the shipped nets.

A preset is standard training as well: with epsilon 0 its attack is left out.
"""


@dataclass(frozen=True)
class Config:
    """A training recipe. The defaults are those of the preset `cifar-small`.

    Raises ValueError with every field that is wrong and what is allowed.
    """

    architecture: str = "cifar-resnet-small"
    classes: int | None = None
    """None: the architecture's own, as for the three below."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    """Height and width that images are cut to, pixels, by sources that hold images of many sizes."""
    norm: str = "l2"
    epsilon: float = 1.0
    """Radius of the attack, pixel units; 0 is standard training."""
    attack_steps: int = 2
    attack_step_size: float = 0.75
    random_start: bool = True
    epochs: int = 24
    batch_size: int = 128
    """Over all processes together."""
    lr: float = 0.2
    momentum: float = 0.95
    """Under one-cycle its maximum: momentum falls by 0.1 while the learning rate rises, and returns."""
    weight_decay: float = 5e-4
    schedule: str = "one-cycle"
    lr_drops: tuple[int, ...] = ()
    """Epochs after which `step` multiplies the learning rate by `lr_factor`."""
    lr_factor: float = 0.1
    ema: float = 0.0
    """Decay of the weights' moving average a step; 0: none is kept."""
    augmentation: str = "cifar"
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name in ("mean", "std", "lr_drops"):  # lists when the recipe comes from JSON
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else tuple(value))
        if wrong := [f"{name} is {getattr(self, name)!r}; allowed: {rule}" for name, rule in self._broken()]:
            raise ValueError("; ".join(wrong))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Config":
        """A recipe from JSON's types. Raises ValueError for names that no field has, and as the class does."""
        if unknown := sorted(values.keys() - {f.name for f in fields(cls)}):
            raise ValueError(f"unknown fields {', '.join(unknown)}; allowed: {', '.join(f.name for f in fields(cls))}")
        return cls(**values)

    def values(self) -> dict[str, Any]:
        return asdict(self)

    def _broken(self) -> list[tuple[str, str]]:
        """Each field that is wrong, and what it may be."""
        choices: dict[str, Collection[str]] = {
            "norm": CONSTRAINTS, "schedule": SCHEDULES, "augmentation": AUGMENTATIONS, "precision": PRECISIONS,
        }  # fmt: skip
        wrong = [(name, " or ".join(known)) for name, known in choices.items() if getattr(self, name) not in known]
        for name, least in {"epochs": 1, "batch_size": 1, "seed": 0, "attack_steps": 1 if self.epsilon else 0}.items():
            if getattr(self, name) < least:
                wrong.append((name, f"{least} or more"))
        for name in ("epsilon", "attack_step_size", "lr", "weight_decay", "lr_factor"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                wrong.append((name, "finite numbers from 0 up"))
        for name in ("momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                wrong.append((name, "from 0 up, less than 1"))
        if any(b <= a for a, b in zip((0, *self.lr_drops), self.lr_drops, strict=False)):
            wrong.append(("lr_drops", "epochs from 1 up, in increasing order"))
        return wrong
