"""A smoke test of a loaded network on a sample of its data: above all, are pixels normalised as it was trained?

Each alternative normalisation is tried on the same images. A wrong one costs a network some of its accuracy, often
only some of it: so they are compared example by example. Every one is an affine map of each channel, so it is named by
the mean and std that the network would need.
"""

from dataclasses import dataclass
from math import comb
from typing import NamedTuple

import torch
from torch import Tensor

from workers.engine import layers
from workers.engine.cifar_models import CIFAR_MEAN, CIFAR_STD
from workers.engine.network import Network
from workers.engine.statistics import wilson
from workers.engine.torchvision_models import HALF, IMAGENET_MEAN, IMAGENET_STD

Channels = tuple[float, ...]

LEAST_GAIN, LARGEST_P = 0.05, 0.01
"""An alternative must win by this share of the images, and by a sign test with this p-value."""
DIVERSE = 20
"""Images of which some network that works is expected to tell two apart."""


class Alternative(NamedTuple):
    """Another normalisation: the share of images right, and the one-sided p-value of a sign test that it is better.

    `mean` and `std` are in the order red, green, blue; `bgr` is whether the channels are reversed after them.
    """

    name: str
    mean: Channels
    std: Channels
    bgr: bool
    accuracy: float
    p: float


@dataclass(frozen=True)
class Report:
    """What a network is, and how it does on the sample; `error` says what must change before it is used.

    Accuracies are None, and `alternatives` empty, without labels. `layers` are shapes by name.
    """

    features: int
    classes: int
    parameters: int
    layers: dict[str, list[int]]
    predicted_classes: int
    accuracy: float | None
    alternatives: tuple[Alternative, ...]
    error: str | None


@torch.no_grad()
def inspect(network: Network, images_NCHW: Tensor, labels_N: Tensor | None = None, batch: int = 100) -> Report:
    """Run a network in eval mode on images in [0, 1], on its own device, as it is and normalised otherwise.

    Raises ValueError for no images, images outside [0, 1] or not square, labels of another number, or a network in
    train mode.
    """
    _check(network, images_NCHW, labels_N)
    shapes = layers.shapes(network, images_NCHW.shape[-1])
    logits = _logits(network, images_NCHW, batch)
    (features,), classes, predicted = shapes["penultimate"], logits.shape[1], logits.argmax(dim=1)
    alternatives, accuracy, error = tuple[Alternative, ...](), None, None
    if not logits.isfinite().all():
        error = f"logits of {int((~logits.isfinite()).any(dim=1).sum())} of {len(logits)} images are not finite"
    elif labels_N is not None and not 0 <= int(labels_N.min()) <= int(labels_N.max()) < classes:
        error = (
            f"labels go from {int(labels_N.min())} to {int(labels_N.max())}; the network tells {classes} classes apart"
        )
    elif labels_N is not None:
        right = predicted == labels_N.to(predicted)
        accuracy = right.double().mean().item()
        alternatives = tuple(_try(network, images_NCHW, labels_N, right, batch))
        error = _verdict(accuracy, alternatives, len(logits), classes)
    several = labels_N is None or bool((labels_N != labels_N[0]).any())
    distinct = len(set(predicted.tolist()))
    if error is None and len(logits) >= DIVERSE and several and distinct == 1:
        error = f"all {len(logits)} images are put into class {int(predicted[0])}"
    parameters = sum(p.numel() for p in network.parameters())
    return Report(features, classes, parameters, shapes, distinct, accuracy, alternatives, error)


def sign_test(wins: int, losses: int) -> float:
    """P(wins or more of wins + losses) by chance: one-sided, exact, ties left out. 1 if there is neither."""
    n = wins + losses
    return float(sum(comb(n, k) for k in range(wins, n + 1)) / 2**n)


def _check(network: Network, images: Tensor, labels: Tensor | None) -> None:
    if network.training:
        raise ValueError("the network is in train mode; expected eval mode")
    if images.dim() != 4 or not len(images) or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images are {list(images.shape)}; expected one or more, [N, 3, size, size]")
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images go from {images.min():.3g} to {images.max():.3g}; expected pixels in [0, 1]")
    if labels is not None and labels.shape != images.shape[:1]:
        raise ValueError(f"labels are {list(labels.shape)}; expected one for each of {len(images)} images")


def _logits(network: Network, images: Tensor, batch: int) -> Tensor:
    return torch.cat([network(x.to(network.mean)) for x in torch.split(images, batch)])


def _candidates(network: Network) -> list[tuple[str, Channels, Channels, bool]]:
    mean, std = (tuple(t.flatten().tolist()) for t in (network.mean, network.std))
    zero, byte = (0.0,) * 3, (1 / 255,) * 3
    twice = tuple(m + s * m for m, s in zip(mean, std, strict=True)), tuple(s * s for s in std)
    candidates = [
        ("its own constants, BGR", mean, std, True),
        ("no normalisation", zero, (1.0,) * 3, False),
        ("normalised twice", *twice, False),
        ("ImageNet's constants", IMAGENET_MEAN, IMAGENET_STD, False),
        ("CIFAR-10's constants", CIFAR_MEAN, CIFAR_STD, False),
        ("pixels in [-1, 1]", HALF, HALF, False),
        ("pixels in [0, 255]", zero, byte, False),
        ("pixels in [0, 255] less ImageNet's mean", IMAGENET_MEAN, byte, False),
        ("pixels in [0, 255] less ImageNet's mean, BGR", IMAGENET_MEAN, byte, True),
    ]
    own = torch.tensor([mean, std])
    return [c for c in candidates if c[3] or not torch.allclose(torch.tensor(c[1:3]), own)]


def _try(network: Network, images: Tensor, labels: Tensor, right: Tensor, batch: int) -> list[Alternative]:
    """Every alternative, by images that the network's own normalisation takes to the alternative's range."""
    tried, x_NCHW = [], images.to(network.mean)
    for name, mean, std, bgr in _candidates(network):
        m, s = (torch.tensor(v).view(1, 3, 1, 1).to(network.mean) for v in (mean, std))
        wanted = (x_NCHW - m) / s
        x = (wanted.flip(1) if bgr else wanted) * network.std + network.mean
        also = _logits(network, x, batch).argmax(dim=1) == labels.to(right.device)
        p = sign_test(int((also & ~right).sum()), int((right & ~also).sum()))
        tried.append(Alternative(name, mean, std, bgr, also.double().mean().item(), p))
    return tried


def _verdict(accuracy: float, alternatives: tuple[Alternative, ...], n: int, classes: int) -> str | None:
    """The best of those that are clearly better, if any is: also than chance, which beats classes in another order."""
    better = [
        a for a in alternatives
        if a.p < LARGEST_P and a.accuracy - accuracy >= LEAST_GAIN
        and wilson(round(a.accuracy * n), n, 1 - LARGEST_P).low > 1 / classes
    ]  # fmt: skip
    if not better:
        return None
    best = max(better, key=lambda a: (a.accuracy, not a.bgr))
    reverse = ", its first layer's input channels reversed" if best.bgr else ""
    mean, std = (f"[{', '.join(f'{v:.4g}' for v in values)}]" for values in (best.mean, best.std))
    return (
        f"normalised wrongly: {accuracy:.1%} right as it is, {best.accuracy:.1%} with mean {mean} and std {std}"
        f"{reverse} ({best.name}; sign test p = {best.p:.1g})"
    )
