"""What every network offers: logits, and the representation R(x), the activations that its last layer reads.

Pixels enter in [0, 1]; normalisation with the data set's mean and standard deviation is the network's first layer.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, cast

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


class LastReLU(nn.Module):
    """The last ReLU of a network, told apart."""

    def forward(self, x: Tensor, identity_relu: bool = False) -> Tensor:
        return last_relu(x, identity_relu)


class Plan(NamedTuple):
    """The layers of a residual network whose R(x) is the mean over positions of what its last block puts out."""

    stem: nn.Conv2d
    pooled: bool
    """Whether a maximum over 3x3 pixels, two apart, follows the stem."""
    blocks: list[tuple[list[nn.Conv2d], nn.Conv2d | None]]
    """Convolutions with a ReLU after each, the last one's after the shortcut is added; the shortcut's, if there is."""


def residual(block: nn.Module, shortcut: str) -> tuple[list[nn.Conv2d], nn.Conv2d | None]:
    """A block's convolutions, and the one of its shortcut; layers by the usual names."""
    convs = [layer for name, layer in block.named_children() if name.startswith("conv")]
    side = [layer for layer in getattr(block, shortcut, None) or () if isinstance(layer, nn.Conv2d)]
    return cast("list[nn.Conv2d]", convs), side[0] if side else None


class Network(nn.Module):
    """A classifier whose subclass says what R(x) is, in `represent`, and how it is read, in `classify`.

    `mean` and `std` [1, 3, 1, 1] are saved with the weights: a checkpoint brings its own normalisation.
    """

    has_last_relu: ClassVar[bool] = False
    """Whether `identity_relu` is offered."""
    trial_size = 32
    """Pixels of a side of a small image that the network takes."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def set_normalisation(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        """Take over a data set's mean and std, one number a channel; None leaves what is there.

        Raises ValueError for what is not three finite numbers, or a std that is not above 0.
        """
        for name, values, buffer in (("mean", mean, self.mean), ("std", std, self.std)):
            if values is None:
                continue
            new = torch.tensor(values, dtype=buffer.dtype)
            if new.shape != (3,) or not new.isfinite().all() or (name == "std" and not (new > 0).all()):
                above = " above 0" if name == "std" else ""
                raise ValueError(f"{name} is {list(values)}; expected three finite numbers{above}, one a channel")
            buffer.copy_(new.view(1, 3, 1, 1))

    def normalise(self, x_NCHW: Tensor) -> Tensor:
        """Pixels in [0, 1] to the range that the first convolution was trained on."""
        return (x_NCHW - self.mean) / self.std

    def represent(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        """R(x) [N, K] of pixels in [0, 1]; `identity_relu` passes gradients through the last ReLU unchanged.

        Raises ValueError if that is asked of a network without `has_last_relu`.
        """
        raise NotImplementedError

    def plan(self) -> Plan | None:
        """The layers, if batch norms after convolutions are the only others; None where the form is another."""
        return None

    def classify(self, r_NK: Tensor) -> Tensor:
        """Logits [N, classes] of a representation."""
        raise NotImplementedError

    def forward(self, x_NCHW: Tensor, identity_relu: bool = False) -> Tensor:
        """Logits [N, classes] of pixels in [0, 1]; `identity_relu` as in `represent`."""
        return self.classify(self.represent(x_NCHW, identity_relu))
