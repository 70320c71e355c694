"""The kernels against PyTorch. Run with TRITON_INTERPRET=1, as `test_residual` does."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from workers.engine import kernels, residual


def rand(*shape: int, seed: int = 0) -> Tensor:
    """Normal noise, in channels_last."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(2, 5, 9, 12), (1, 64, 8, 8), (3, 3, 7, 7)])
def test_pooling_and_its_gradient_are_pytorchs(shape: tuple[int, ...]) -> None:
    x = (rand(*shape) * 4).round() / 4  # coarse, so that windows hold a maximum twice
    x = x.relu().requires_grad_()
    want, places = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    found, at = kernels.pool(x.detach())
    assert torch.equal(found, want)
    row, column = places // shape[3], places % shape[3]
    down, across = torch.arange(want.shape[2])[:, None], torch.arange(want.shape[3])
    assert torch.equal(at.long(), 3 * (row - 2 * down + 1) + column - 2 * across + 1)
    g = rand(*want.shape, seed=1)
    (behind,) = torch.autograd.grad(want, x, g)
    torch.testing.assert_close(kernels.unpool(g, at, x.detach()), torch.where(x > 0, behind, 0))


def test_a_pool_of_what_is_not_a_number_is_not_a_number() -> None:
    x = rand(1, 2, 4, 4)
    x[0, 1, 2, 2] = torch.nan
    torch.testing.assert_close(kernels.pool(x)[0], F.max_pool2d(x, 3, 2, 1), equal_nan=True)


@pytest.mark.parametrize(("outputs", "inputs", "side"), [(64, 128, 5), (128, 64, 9), (192, 192, 12)])
@pytest.mark.parametrize("more", [True, False])
@pytest.mark.parametrize("masks", [True, False])
def test_a_product_is_the_gradient_of_a_convolution(
    outputs: int, inputs: int, side: int, more: bool, masks: bool
) -> None:
    g, weight = rand(3, outputs, side, side).half(), rand(outputs, inputs, 1, 1, seed=1).half()
    side_g, y = (rand(3, inputs, side, side, seed=seed).half() for seed in (2, 3))
    found = kernels.product(g, weight, side_g if more else None, y if masks else None)
    want = conv2d_input(y.shape, weight.float(), g.float()) + (side_g.float() if more else 0)
    want = torch.where(y > 0, want, 0) if masks else want
    assert (found.float() - want).norm() < 1e-3 * want.norm()


def test_a_mask_is_of_the_sum_of_both_sides() -> None:
    g, more, y = (rand(2, 7, 5, 3, seed=seed) for seed in range(3))
    assert torch.equal(kernels.masked(g, more, y), torch.where(y > 0, g + more, 0))
    assert torch.equal(kernels.masked(g, None, y), torch.where(y > 0, g, 0))


def test_pixels_are_spread_and_gathered_as_by_pytorch() -> None:
    x, mean, std = rand(2, 3, 8, 12), rand(1, 3, 1, 1), rand(1, 3, 1, 1).abs() + 0.5
    y: Any = residual._Spread.apply(x.requires_grad_(), mean, std, torch.float32)
    assert torch.equal(kernels.spread(x.detach(), mean, std, residual.AROUND, torch.float32), y)
    g = rand(*y.shape, seed=1)
    (behind,) = torch.autograd.grad(y, x, g)
    torch.testing.assert_close(kernels.gather(g, std, residual.AROUND), behind)
