"""Architectures, and the representation R(x) each one gives: the activations of its penultimate layer.

Pixels enter in [0, 1]; normalisation with the data set's mean and standard deviation is the model's first layer.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class _IdentityBackwardReLU(torch.autograd.Function):
    """ReLU forward, identity backward: dead units still pass a gradient to the image."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


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


class Classifier(nn.Module):
    """A residual network for small images: 3x3 stem, one block for each width, global average pooling, linear."""

    mean: Tensor
    std: Tensor

    def __init__(self, stem: int, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(CIFAR_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(CIFAR_STD).view(1, 3, 1, 1))
        self.conv = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(stem)
        inputs = (stem, *widths)
        self.blocks = nn.ModuleList(
            Block(i, o, 1 if n == 0 else 2) for n, (i, o) in enumerate(zip(inputs, widths, strict=False))
        )
        self.linear = nn.Linear(widths[-1], classes)

    def represent(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        """R(x) [N, K] of pixels in [0, 1]; `identity_relu` passes gradients through the last ReLU unchanged."""
        y = F.relu(self.bn(self.conv((x_NCHW - self.mean) / self.std)))
        for i, block in enumerate(self.blocks):
            last = identity_relu and i == len(self.blocks) - 1
            y = _IdentityBackwardReLU.apply(block(y)) if last else F.relu(block(y))
        r_NK: Tensor = y.mean(dim=(2, 3))
        return r_NK

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits [N, classes] of pixels in [0, 1]."""
        logits: Tensor = self.linear(self.represent(x_NCHW))
        return logits


@dataclass(frozen=True)
class Architecture:
    """A network by name: its input is 3 x `size` x `size`, its representation has widths[-1] coordinates."""

    size: int
    stem: int
    widths: tuple[int, ...]
    classes: int

    @property
    def features(self) -> int:
        """k, the dimension of R(x)."""
        return self.widths[-1]


ARCHITECTURES = {"cifar-resnet-small": Architecture(size=32, stem=24, widths=(48, 96, 192), classes=10)}


def build(architecture: str) -> Classifier:
    """A freshly initialised network. Raises KeyError for a name that is not in ARCHITECTURES."""
    a = ARCHITECTURES[architecture]
    return Classifier(a.stem, a.widths, a.classes).to(memory_format=torch.channels_last)


def load(architecture: str, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> Classifier:
    """The network with these weights, frozen, in eval mode. Raises RuntimeError naming missing or unexpected keys."""
    model = build(architecture)
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
