"""Where training images come from: memory, or files decoded and augmented ahead of the device."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from workers.engine.augment import AUGMENTATIONS, Picture, crop_and_flip, draw_moves
from workers.engine.datasets import Images
from workers.engine.seeding import generator

A = TypeVar("A")
B = TypeVar("B")


class Source(Protocol):
    """Labelled images by number; `labels` int64 [N]."""

    labels: Tensor

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, seed: int, epoch: int) -> Tensor:
        """Augmented pixels [n, 3, H, W] on the CPU, uint8 or float in [0, 1], by index, seed and epoch alone.

        Called from several threads at once.
        """
        ...


class Memory:
    """Images in memory; `augmentation` is none or cifar."""

    def __init__(self, images: Images, augmentation: str) -> None:
        if augmentation not in ("none", "cifar"):
            raise ValueError(f"augmentation is {augmentation!r}; allowed for images in memory: none or cifar")
        self.images, self.labels, self.augmentation = images, images.labels, augmentation

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor, seed: int, epoch: int) -> Tensor:
        pixels = self.images.pixels[indices]
        if self.augmentation == "none":
            return pixels
        moves = draw_moves(len(self), generator(seed, 1, epoch))  # every image's, however few are asked for
        return crop_and_flip(pixels, type(moves)(*(move[indices] for move in moves)))


class Decoded:
    """Images that `read` decodes by index, in `workers` threads, each cut to `size` by the augmentation.

    `read` is called from several threads at once; decoding and scaling release the interpreter's lock.
    """

    def __init__(
        self, read: Callable[[int], Picture], labels: Tensor, augmentation: str, size: int, workers: int = 8
    ) -> None:
        if augmentation not in AUGMENTATIONS:
            raise ValueError(f"augmentation is {augmentation!r}; allowed: {', '.join(AUGMENTATIONS)}")
        self.read, self.labels, self.size = read, labels, size
        self.augment, self.pool = AUGMENTATIONS[augmentation], ThreadPoolExecutor(workers, "decode")

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, seed: int, epoch: int) -> Tensor:
        def load(index: int) -> np.ndarray:
            return self.augment(self.read(index), self.size, np.random.default_rng((seed, 1, epoch, index)))

        pixels_NHWC = np.stack(list(self.pool.map(load, indices.tolist())))
        return torch.from_numpy(pixels_NHWC).permute(0, 3, 1, 2)


def ahead(make: Callable[[A], B], items: Iterable[A], depth: int = 3) -> Generator[B, None, None]:
    """`make` of every item, in order, made by two threads while the caller is busy; at most `depth` wait for it."""
    pool, waiting = ThreadPoolExecutor(2, "ahead"), deque[Future[B]]()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
