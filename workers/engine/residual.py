"""R(x) of a frozen residual network on a GPU, where a step's time is passes over memory more than it is products.

Bias, shortcut and ReLU are a convolution's last touch here, no passes of their own. So, on the way back, are the sum of
a block's two gradients and the ReLU's mask: whatever reads a ReLU's output masks the gradient that it hands back, and
what ends in a ReLU trusts that of the gradient that it gets.
"""

import warnings
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.engine.network import Network
from workers.engine.pgd import Function

try:
    from workers.engine import kernels
except ImportError:  # Triton comes with PyTorch's CUDA builds alone
    kernels = None  # type: ignore[assignment]

aten: Any = torch.ops.aten
SPREAD, AROUND = 16, 3
"""Channels of 2 x 2 pixels of 3 as one of 12, made as many as GPUs multiply well; pixels of padding around them."""


class Conv(NamedTuple):
    """A convolution of a frozen network; a shortcut's bias is part of the one that it is added to."""

    weight: Tensor
    bias: Tensor | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def relu(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        """max(W x + bias + more, 0)."""
        if not x.is_cuda:
            y = F.conv2d(x, self.weight, self.bias, *self[2:])
            return F.relu(y if more is None else y + more)
        if more is None:
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, *self[2:])
        return torch.cudnn_convolution_add_relu(x, self.weight, more, 1.0, self.bias, *self[2:])

    def back(self, g: Tensor, x: Tensor, more: Tensor | None = None, masks: bool = True) -> Tensor:
        """W^T g + more, and 0 where x, which the convolution read and a ReLU had put out, is not above 0."""
        rest = self.weight.shape[2:], self.stride, self.padding, self.groups
        if _by_triton(g) and rest == ((1, 1), [1, 1], [0, 0], 1) and kernels.multiplies(self.weight):
            return kernels.product(g, self.weight, more, x if masks else None)
        mask = [True, False, False]
        found: Tensor = aten.convolution_backward(
            g, x, self.weight, None, *self[2:5], False, [0, 0], self.groups, mask
        )[0]
        if not masks:
            return found if more is None else found + more
        return _masked(found, more, x)


class Block(NamedTuple):
    """Convolutions one after another, each with its ReLU; the last adds the block's input, or a shortcut's output."""

    convs: list[Conv]
    shortcut: Conv | None


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block, masks: bool) -> Tensor:
        *convs, last = block.convs
        kept = [x]
        for conv in convs:
            kept.append(conv.relu(kept[-1]))
        ctx.save_for_backward(*kept)
        ctx.block, ctx.masks = block, masks
        shortcut = block.shortcut
        return last.relu(kept[-1], x if shortcut is None else F.conv2d(x, shortcut.weight, None, *shortcut[2:]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (g,), (x, *inner), (convs, shortcut) = grads, ctx.saved_tensors, ctx.block
        g = h = g.contiguous(memory_format=torch.channels_last)
        for conv, y in zip(convs[:0:-1], inner[::-1], strict=True):
            h = conv.back(h, y)
        return convs[0].back(h, x, g if shortcut is None else shortcut.back(g, x, masks=False), ctx.masks), None, None


class _Stem(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: Conv) -> Tensor:
        ctx.save_for_backward(x)
        ctx.conv = conv
        return conv.relu(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.conv.back(grads[0], ctx.saved_tensors[0], masks=False), None


class _Spread(torch.autograd.Function):
    """Normalised pixels [N, 3, H, W] as [N, SPREAD, H / 2 + 3, W / 2 + 3]: 2 x 2 in one, with zeros around them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.std = std
        if _indexed(x):
            return kernels.spread(x.contiguous(memory_format=torch.channels_last), mean, std, AROUND, dtype)
        y = F.pixel_unshuffle(F.pad((x - mean) / std, [AROUND] * 4), 2)
        y = F.pad(y, (0, 0, 0, 0, 0, SPREAD - y.shape[1]))
        return y.to(dtype, memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (g,) = grads
        if _indexed(g):
            return kernels.gather(g.contiguous(memory_format=torch.channels_last), ctx.std, AROUND), None, None, None
        inner = F.pixel_shuffle(g[:, :12].float(), 2)[:, :, AROUND:-AROUND, AROUND:-AROUND]
        return inner / ctx.std, None, None, None


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if _indexed(x):
            y, at = kernels.pool(x)
        else:
            y, at = F.max_pool2d(x, 3, 2, 1, return_indices=True)
        ctx.save_for_backward(x, at)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (g,), (x, at) = grads, ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last)
        if _indexed(x):
            return kernels.unpool(g, at, x)
        found = aten.max_pool2d_with_indices_backward(g, x, [3, 3], [2, 2], [1, 1], [1, 1], False, at)
        return _masked(found, None, x)


@cache
def triton_works() -> bool:
    """Whether Triton can launch a kernel here: it compiles the launch by a C compiler, which a system may lack."""
    x = torch.ones(2, device="cuda")
    try:
        return kernels is not None and bool((kernels.masked(x, None, x) == x).all())
    except Exception as e:  # whatever a compiler, or what calls it, raises
        warnings.warn(f"Triton compiles nothing here, going on with cuDNN's kernels alone: {e}", stacklevel=2)
        return False


def _by_triton(x: Tensor) -> bool:
    return x.is_cuda and triton_works()


def _indexed(x: Tensor) -> bool:
    """Whether a kernel that counts elements in 32 bits takes it."""
    return _by_triton(x) and x.numel() < 2**31


def _masked(g: Tensor, more: Tensor | None, x: Tensor) -> Tensor:
    if _by_triton(g):
        return kernels.masked(g, more, x)
    return torch.where(x > 0, g if more is None else g + more, 0)


def represent(net: Network, identity_relu: bool, dtype: torch.dtype) -> Function | None:
    """x [N, 3, H, W] -> R [N, K] of a frozen network with folded batch norms; None for one that is not of this form.

    As `net.represent`, but for rounding. `dtype` is that of its convolutions.
    """
    plan = net.plan()
    if plan is None or any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        return None
    stem, pooled, parts = plan
    first, spreads = _conv(stem), (stem.kernel_size, stem.stride, stem.padding) == ((7, 7), (2, 2), (3, 3))
    spread = _spread(first) if spreads else first
    blocks = [_block(*part) for part in parts]

    def run(x_NCHW: Tensor) -> Tensor:
        if spreads and x_NCHW.shape[2] % 2 == x_NCHW.shape[3] % 2 == 0:
            y = _Stem.apply(_Spread.apply(x_NCHW, net.mean, net.std, dtype), spread)
        else:
            x = net.normalise(x_NCHW).to(dtype, memory_format=torch.channels_last)
            y = _Stem.apply(x, first)
        y = _Pool.apply(y) if pooled else y
        for i, block in enumerate(blocks):
            y = _Block.apply(y, block, i > 0 or not pooled)
        y = y if identity_relu else F.relu(y)
        return y.mean(dim=(2, 3), dtype=torch.float32)

    return run


def _conv(conv: nn.Conv2d) -> Conv:
    assert isinstance(conv.padding, tuple)
    weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
    bias = None if conv.bias is None else conv.bias.detach()
    return Conv(weight, bias, [*conv.stride], [*conv.padding], [*conv.dilation], conv.groups)


def _block(convs: list[nn.Conv2d], shortcut: nn.Conv2d | None) -> Block:
    *most, last = map(_conv, convs)
    side = None if shortcut is None else _conv(shortcut)
    if side and side.bias is not None and last.bias is not None:
        last, side = last._replace(bias=last.bias + side.bias), side._replace(bias=None)
    return Block([*most, last], side)


def _spread(conv: Conv) -> Conv:
    """A 7x7 convolution of every other pixel as a 4x4 one of what `_Spread` puts out."""
    outputs = len(conv.weight)
    weight = F.pad(conv.weight, (0, 1, 0, 1)).reshape(outputs, 3, 4, 2, 4, 2)
    weight = weight.permute(0, 1, 3, 5, 2, 4).reshape(outputs, 12, 4, 4)
    weight = F.pad(weight, (0, 0, 0, 0, 0, SPREAD - weight.shape[1])).contiguous(memory_format=torch.channels_last)
    return conv._replace(weight=weight, stride=[1, 1], padding=[0, 0])
