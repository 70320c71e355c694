"""Augmentation. What an image undergoes depends on its generator alone, so that no order of work can change it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Picture = Image.Image | np.ndarray
"""A decoded image, or uint8 [H, W, 3]."""

PADDING = 4
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Moves(NamedTuple):
    """A crop of each padded image by its corner, int64 [N] from 0 to twice the padding, and whether it is mirrored."""

    top: Tensor
    left: Tensor
    flip: Tensor


def draw_moves(n: int, generator: torch.Generator) -> Moves:
    top, left = torch.randint(0, 2 * PADDING + 1, (2, n), generator=generator)
    return Moves(top, left, torch.randint(0, 2, (n,), generator=generator).bool())


def crop_and_flip(pixels: Tensor, moves: Moves) -> Tensor:
    """Each image of uint8 [N, 3, H, W], padded by zeros, cut back to its size and perhaps mirrored."""
    n, _, h, w = pixels.shape
    windows = F.pad(pixels, [PADDING] * 4).unfold(2, h, 1).unfold(3, w, 1)  # [N, 3, 9, 9, H, W], a view
    cut = windows[torch.arange(n), :, moves.top, moves.left]
    return torch.where(moves.flip[:, None, None, None], cut.flip(3), cut)


def centre(image: Picture, size: int, random: np.random.Generator | None = None) -> np.ndarray:  # noqa: ARG001
    """The middle 7/8 of the shorter side's square, scaled to size x size (256 to 224, as ImageNet is tested).

    An image that has this size already is left as it is.
    """
    image = _picture(image)
    if image.size == (size, size):
        return np.asarray(image)
    side = min(image.size) * 7 / 8
    left, top = ((length - side) / 2 for length in image.size)
    return _scale(image, size, (left, top, left + side, top + side))


def cifar(image: Picture, size: int, random: np.random.Generator) -> np.ndarray:
    """`crop_and_flip` of one image, after `centre`."""
    pixels = torch.tensor(centre(image, size)).permute(2, 0, 1)[None]
    top, left = random.integers(0, 2 * PADDING + 1, 2)
    moves = Moves(torch.tensor([top]), torch.tensor([left]), torch.tensor([bool(random.integers(2))]))
    return crop_and_flip(pixels, moves)[0].permute(1, 2, 0).numpy()


def imagenet(image: Picture, size: int, random: np.random.Generator) -> np.ndarray:
    """A random part of 8 to 100% of the area, 3:4 to 4:3, scaled; perhaps mirrored; brightness, contrast, saturation.

    The last three in random order, each by a factor of 0.9 to 1.1.
    """
    image = _picture(image)
    pixels = _scale(image, size, _part(*image.size, random))
    if random.integers(2):
        pixels = pixels[:, ::-1]
    return _jitter(pixels.astype(np.float32), random, 0.1).round().astype(np.uint8)


def _part(width: int, height: int, random: np.random.Generator) -> tuple[float, float, float, float]:
    """A rectangle as imagenet() says; after ten that do not fit, the greatest one in the middle that does."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = random.uniform(0, width - w), random.uniform(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, height * 4 / 3), min(height, width * 4 / 3)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def _jitter(pixels: np.ndarray, random: np.random.Generator, strength: float) -> np.ndarray:
    """float32 [H, W, 3] from 0 to 255, blended with black, with its mean luminance and with its gray image in turn."""
    against: list[Callable[[np.ndarray], np.ndarray | float]] = [
        lambda _: 0.0, lambda x: float((x @ LUMA).mean()), lambda x: (x @ LUMA)[..., None],
    ]  # fmt: skip
    for i in random.permutation(3):
        factor = np.float32(random.uniform(1 - strength, 1 + strength))
        pixels = (factor * pixels + (1 - factor) * against[i](pixels)).clip(0, 255)
    return pixels


def _picture(image: Picture) -> Image.Image:
    return (Image.fromarray(image) if isinstance(image, np.ndarray) else image).convert("RGB")


def _scale(image: Image.Image, size: int, box: tuple[float, float, float, float]) -> np.ndarray:
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


AUGMENTATIONS: dict[str, Callable[[Picture, int, np.random.Generator], np.ndarray]] = {
    "none": centre, "cifar": cifar, "imagenet": imagenet,
}  # fmt: skip
"""Image, size, randomness -> uint8 [size, size, 3]."""
