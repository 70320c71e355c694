"""What every network offers: logits, and the representation R(x), the activations that its last layer reads.

Pixels enter in [0, 1]; normalisation with the data set's mean and standard deviation is the network's first layer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _IdentityBackwardReLU(torch.autograd.Function):
    """ReLU forward, identity backward: dead units still pass a gradient to the image."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def last_relu(x: Tensor, identity_relu: bool) -> Tensor:
    """max(x, 0) of any shape; with `identity_relu`, its gradient is passed to `x` unchanged."""
    y: Tensor = _IdentityBackwardReLU.apply(x) if identity_relu else F.relu(x)
    return y


class Network(nn.Module):
    """A classifier whose subclass says what R(x) is, in `represent`, and how it is read, in `classify`.

    `mean` and `std` [1, 3, 1, 1] are saved with the weights: a checkpoint brings its own normalisation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def normalise(self, x_NCHW: Tensor) -> Tensor:
        """Pixels in [0, 1] to the range that the first convolution was trained on."""
        return (x_NCHW - self.mean) / self.std

    def represent(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        """R(x) [N, K] of pixels in [0, 1]; `identity_relu` passes gradients through the last ReLU unchanged."""
        raise NotImplementedError

    def classify(self, r_NK: Tensor) -> Tensor:
        """Logits [N, classes] of a representation."""
        raise NotImplementedError

    def forward(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        """Logits [N, classes] of pixels in [0, 1]; `identity_relu` as in `represent`."""
        return self.classify(self.represent(x_NCHW, identity_relu))
