"""A small learnable data set, a recipe for it, and what tests of training compare."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.engine.datasets import Images
from workers.engine.parallel import World
from workers.engine.sources import Memory
from workers.engine.trainer import Trainer
from workers.engine.training_config import Config

SAMPLE = Path(__file__).parents[2] / "service/assets/datasets/cifar10-sample/images.npz"
ROBUST = Config(batch_size=8, epochs=2, epsilon=1.0, attack_steps=1, attack_step_size=0.75)


def images(n: int, seed: int = 0) -> Images:
    """Ten classes, each a flat colour of its own under noise: easy to learn."""
    random = np.random.RandomState(seed)
    labels = torch.from_numpy(random.randint(0, 10, n))
    colours = torch.from_numpy(np.random.RandomState(9).randint(60, 196, (10, 3, 1, 1)))
    pixels = colours[labels] + torch.from_numpy(random.randint(-30, 31, (n, 3, 32, 32)))
    return Images(pixels.to(torch.uint8), labels)


def cifar_folder(folder: Path) -> Path:
    """CIFAR-10 as `load_cifar10` finds it, small: 384 training images and 16 test images."""
    with np.load(SAMPLE) as sample:
        for name, part in (("train", slice(384)), ("test", slice(384, 400))):
            np.savez(folder / f"cifar10_{name}.npz", images=sample["images"][part], labels=sample["labels"][part])
    return folder


def trainer(config: Config = ROBUST, n: int = 32, world: World | None = None) -> Trainer:
    return Trainer(config, Memory(images(n), config.augmentation), world=world)


def read(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def assert_equal_states(a: Any, b: Any) -> None:
    """The same keys and values to the last bit, all the way down."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal_states(x, y)
    else:
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "images_per_second", "data_wait")} for line in history
    ]
