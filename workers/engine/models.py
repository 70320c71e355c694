"""Architectures by name: how to build one, and how to load its weights."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.engine.network import Network as Network
from workers.engine.network import last_relu
from workers.engine.torchvision_models import VGG, ResNet

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Block(nn.Module):
    """Two 3x3 convolutions beside a projected shortcut; the last ReLU is left to the caller."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        residual: Tensor = self.bn2(self.conv2(y))
        shortcut: Tensor = self.shortcut(x)
        return residual + shortcut


class Classifier(Network):
    """A residual network for small images: 3x3 stem, one block for each width, global average pooling, linear."""

    def __init__(self, stem: int, widths: tuple[int, ...], classes: int) -> None:
        super().__init__(CIFAR_MEAN, CIFAR_STD)
        self.conv = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(stem)
        inputs = (stem, *widths)
        self.blocks = nn.ModuleList(
            Block(i, o, 1 if n == 0 else 2) for n, (i, o) in enumerate(zip(inputs, widths, strict=False))
        )
        self.linear = nn.Linear(widths[-1], classes)

    def represent(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        y = F.relu(self.bn(self.conv(self.normalise(x_NCHW))))
        for i, block in enumerate(self.blocks):
            y = last_relu(block(y), identity_relu and i == len(self.blocks) - 1)
        r_NK: Tensor = y.mean(dim=(2, 3))
        return r_NK

    def classify(self, r_NK: Tensor) -> Tensor:
        logits: Tensor = self.linear(r_NK)
        return logits


@dataclass(frozen=True)
class Architecture:
    """A network by name: its input is 3 x `size` x `size`, R(x) has `features` coordinates.

    `make` takes the number of classes, `classes` unless the weights say otherwise: `head` names their last layer.
    """

    make: Callable[[int], Network]
    head: str
    size: int
    features: int
    classes: int


def _cifar(stem: int, widths: tuple[int, ...]) -> Architecture:
    return Architecture(partial(Classifier, stem, widths), "linear", size=32, features=widths[-1], classes=10)


def _imagenet(make: Callable[[int], Network], head: str, features: int) -> Architecture:
    return Architecture(make, head, size=224, features=features, classes=1000)


ARCHITECTURES = {
    "cifar-resnet-small": _cifar(24, (48, 96, 192)),
    "cifar-resnet-slim": _cifar(16, (32, 64, 128)),
    "resnet18": _imagenet(partial(ResNet, "resnet18"), "net.fc", 512),
    "resnet50": _imagenet(partial(ResNet, "resnet50"), "net.fc", 2048),
    "vgg16": _imagenet(partial(VGG, "vgg16"), "net.classifier.6", 4096),
    "vgg16_bn": _imagenet(partial(VGG, "vgg16_bn"), "net.classifier.6", 4096),
}


def build(architecture: str, classes: int | None = None) -> Network:
    """A freshly initialised network, with the architecture's own number of classes unless given.

    Raises KeyError for a name that is not in ARCHITECTURES.
    """
    a = ARCHITECTURES[architecture]
    return a.make(a.classes if classes is None else classes).to(memory_format=torch.channels_last)


def load(architecture: str, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> Network:
    """The network with these weights, frozen, in eval mode; its classes are counted in their last layer.

    Raises KeyError as `build` does, and RuntimeError naming missing or unexpected keys and other shapes.
    """
    bias = state.get(f"{ARCHITECTURES[architecture].head}.bias")
    model = build(architecture, None if bias is None else bias.numel())
    model.load_state_dict(state, strict=True)
    return model.eval().requires_grad_(False).to(device)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes of the weights: the same for every file format that holds them."""
    h = hashlib.sha256()
    for name in sorted(state):
        t = state[name].detach().cpu().contiguous()
        h.update(f"{name} {tuple(t.shape)} {t.dtype}\n".encode())
        h.update(t.numpy().tobytes())
    return h.hexdigest()
