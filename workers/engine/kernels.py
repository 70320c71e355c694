"""Triton kernels of a residual network's vector-Jacobian product, for what cuDNN does not do in one pass over memory.

Activations are [N, H, W, C] in memory (channels_last); sums are made in fp32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 1024
"""Of an image's activations, in one program of a pointwise kernel."""
DEPTH = 64
"""How much of a product's sum is made at a time: the same for every size, so that sums keep their order."""
TALL = 32768
"""Rows of a product from which on it is bound by memory, and tiles are tall."""


def spread(x: Tensor, mean: Tensor, std: Tensor, around: int, dtype: torch.dtype) -> Tensor:
    """(x - mean) / std of pixels [N, 3, H, W], with `around` zeros on every side, 2 x 2 of them as one of 16 channels.

    Channel 4 c + 2 i + j is colour c of row i and column j; four are empty. H and W are even.
    """
    n, _, height, width = x.shape
    below, across = height // 2 + around, width // 2 + around
    out = torch.empty((n, 16, below, across), dtype=dtype, device=x.device, memory_format=torch.channels_last)
    grid = (triton.cdiv(out.numel(), ELEMENTS),)
    _spread[grid](x, mean, std, out, out.numel(), height, width, below, across, around, ELEMENTS)
    return out


def gather(g: Tensor, std: Tensor, around: int) -> Tensor:
    """The gradient [N, 3, H, W], float32, of the pixels that `spread` took."""
    n, _, below, across = g.shape
    height, width = 2 * (below - around), 2 * (across - around)
    out = torch.empty((n, 3, height, width), device=g.device, memory_format=torch.channels_last)
    grid = (triton.cdiv(out.numel(), ELEMENTS),)
    _gather[grid](g, std, out, out.numel(), height, width, below, across, around, ELEMENTS)
    return out


def masked(g: Tensor, more: Tensor | None, y: Tensor) -> Tensor:
    """g + more where y > 0, else 0: the gradient before a ReLU whose output y is, of what comes from two sides."""
    out = torch.empty_like(g)
    n = g.numel()
    _masked[(triton.cdiv(n, ELEMENTS),)](g, g if more is None else more, y, out, n, more is not None, ELEMENTS)
    return out


def multiplies(weight: Tensor) -> bool:
    """Whether `product` takes a 1x1 convolution: in bf16, and of so many channels [O, I, 1, 1] that tiles fit."""
    outputs, inputs = weight.shape[:2]
    return weight.dtype == torch.bfloat16 and outputs % DEPTH == 0 and inputs % 64 == 0


def product(g: Tensor, weight: Tensor, more: Tensor | None, y: Tensor | None) -> Tensor:
    """The gradient [N, I, H, W] of a 1x1 convolution's input: weight [O, I, 1, 1] times g [N, O, H, W], plus `more`,
    and 0 where y is not above 0. `multiplies(weight)` must hold."""
    n, outputs, height, width = g.shape
    inputs = weight.shape[1]
    out = torch.empty((n, inputs, height, width), dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
    m = n * height * width
    rows, columns, stages = (64, 128, 4) if m < TALL and inputs % 128 == 0 else (128, 64, 3)
    grid = (triton.cdiv(m, rows) * (inputs // columns),)
    _product[grid](
        g, weight, out if more is None else more, out if y is None else y, out, m, inputs, outputs,
        more is not None, y is not None, rows, columns, DEPTH, num_warps=4, num_stages=stages,
    )  # fmt: skip
    return out


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each 3x3 window, two pixels apart, and its place in the window, 0 to 8: the first if several."""
    n, channels, height, width = x.shape
    shape = n, channels, (height + 1) // 2, (width + 1) // 2
    out, at = (
        torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)
        for dtype in (x.dtype, torch.int8)
    )
    grid = (triton.cdiv(out.numel(), ELEMENTS),)
    _pool[grid](x, out, at, out.numel(), channels, height, width, *shape[2:], ELEMENTS)
    return out, at


def unpool(g: Tensor, at: Tensor, y: Tensor) -> Tensor:
    """The gradient of what `pool` read, y, and of the ReLU that y comes from: 0 where y is not above 0."""
    out = torch.empty_like(y)
    channels, height, width = y.shape[1:]
    grid = (triton.cdiv(y.numel(), ELEMENTS),)
    _unpool[grid](g, at, y, out, y.numel(), channels, height, width, *g.shape[2:], ELEMENTS)
    return out


@triton.jit
def _masked(g, more, y, out, n, has_more: tl.constexpr, size: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = i < n
    total = tl.load(g + i, mask=inside).to(tl.float32)
    if has_more:
        total += tl.load(more + i, mask=inside).to(tl.float32)
    total = tl.where(tl.load(y + i, mask=inside) > 0, total, 0.0)
    tl.store(out + i, total, mask=inside)


@triton.jit
def _product(
    g, weight, more, y, out, m, inputs, outputs,
    has_more: tl.constexpr, has_y: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr,
):  # fmt: skip
    tiles = inputs // columns
    row = (tl.program_id(0) // tiles).to(tl.int64) * rows + tl.arange(0, rows)
    column = (tl.program_id(0) % tiles) * columns + tl.arange(0, columns)
    k = tl.arange(0, depth)
    inside = (row < m)[:, None]
    left = g + row[:, None] * outputs + k[None, :]
    right = weight + k[:, None] * inputs + column[None, :]
    total = tl.zeros((rows, columns), dtype=tl.float32)
    for _ in range(0, outputs, depth):
        total = tl.dot(tl.load(left, mask=inside, other=0.0), tl.load(right), total)
        left += depth
        right += depth * inputs
    i = row[:, None] * inputs + column[None, :]
    if has_more:
        total += tl.load(more + i, mask=inside, other=0.0).to(tl.float32)
    if has_y:
        total = tl.where(tl.load(y + i, mask=inside, other=0.0) > 0, total, 0.0)
    tl.store(out + i, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _pool(
    x, out, at, n, channels: tl.constexpr, height: tl.constexpr, width: tl.constexpr,
    below: tl.constexpr, across: tl.constexpr, size: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * size + tl.arange(0, size)
    inside = i < n
    channel, place = i % channels, i // channels
    image, up, left = place // (across * below), (place // across) % below * 2 - 1, place % across * 2 - 1
    most = tl.full((size,), float("-inf"), tl.float32)
    where = tl.zeros((size,), tl.int32)
    for window in tl.static_range(9):
        h, w = up + window // 3, left + window % 3
        real = inside & (h >= 0) & (h < height) & (w >= 0) & (w < width)
        value = tl.load(x + ((image * height + h) * width + w) * channels + channel, mask=real, other=float("-inf"))
        value = value.to(tl.float32)
        larger = (value > most) | (value != value)  # NaN is the largest, as elsewhere
        most, where = tl.where(larger, value, most), tl.where(larger, window, where)
    tl.store(out + i, most, mask=inside)
    tl.store(at + i, where.to(tl.int8), mask=inside)


@triton.jit
def _unpool(
    g, at, y, out, n, channels: tl.constexpr, height: tl.constexpr, width: tl.constexpr,
    below: tl.constexpr, across: tl.constexpr, size: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * size + tl.arange(0, size)
    inside = i < n
    channel, place = i % channels, i // channels
    image, h, w = place // (width * height), (place // width) % height + 1, place % width + 1
    total = tl.zeros((size,), tl.float32)
    for which in tl.static_range(4):  # of the two rows and columns of windows that may hold a pixel
        up, left = h // 2 - which // 2, w // 2 - which % 2
        window = (h - 2 * up) * 3 + w - 2 * left
        real = inside & (h - 2 * up < 3) & (w - 2 * left < 3) & (up >= 0) & (left >= 0) & (up < below) & (left < across)
        j = ((image * below + up) * across + left) * channels + channel
        chosen = tl.load(at + j, mask=real, other=-1) == window
        total += tl.where(chosen, tl.load(g + j, mask=real & chosen, other=0.0).to(tl.float32), 0.0)
    tl.store(out + i, tl.where(tl.load(y + i, mask=inside) > 0, total, 0.0), mask=inside)


@triton.jit
def _spread(
    x, mean, std, out, n, height: tl.constexpr, width: tl.constexpr,
    below: tl.constexpr, across: tl.constexpr, around: tl.constexpr, size: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * size + tl.arange(0, size)
    inside = i < n
    channel, place = i % 16, i // 16
    image = place // (across * below)
    h = (place // across) % below * 2 + channel % 4 // 2 - around
    w = place % across * 2 + channel % 2 - around
    colour = channel // 4
    real = inside & (colour < 3) & (h >= 0) & (h < height) & (w >= 0) & (w < width)
    value = tl.load(x + ((image * height + h) * width + w) * 3 + colour, mask=real, other=0.0)
    value = (value - tl.load(mean + colour, mask=real, other=0.0)) / tl.load(std + colour, mask=real, other=1.0)
    tl.store(out + i, tl.where(real, value, 0.0), mask=inside)


@triton.jit
def _gather(
    g, std, out, n, height: tl.constexpr, width: tl.constexpr,
    below: tl.constexpr, across: tl.constexpr, around: tl.constexpr, size: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * size + tl.arange(0, size)
    inside = i < n
    colour, place = i % 3, i // 3
    image, h, w = place // (width * height), (place // width) % height + around, place % width + around
    j = ((image * below + h // 2) * across + w // 2) * 16 + 4 * colour + h % 2 * 2 + w % 2
    value = tl.load(g + j, mask=inside).to(tl.float32)
    tl.store(out + i, value / tl.load(std + colour, mask=inside, other=1.0), mask=inside)
