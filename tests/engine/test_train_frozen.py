"""The attacked copy: the same function and gradient as the network in eval mode, with batch norms folded."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.networks import pixels, small
from workers.engine import models
from workers.engine.frozen import freeze


def folded(net: nn.Module) -> int:
    return sum(isinstance(module, nn.Identity) for module in net.modules())


def assert_same(frozen: nn.Module, model: nn.Module, x: Tensor) -> None:
    """Logits and the gradient of their weighted sum with respect to the image."""
    results = []
    for f in (frozen, model.eval()):
        z = x.clone().requires_grad_(True)
        y = f(z)
        (g,) = torch.autograd.grad((y * torch.arange(y.shape[1])).sum(), z)
        results.append((y.detach(), g))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "norms"), [("small", 7), ("resnet18", 20)])
def test_a_frozen_copy_is_the_network_in_eval_mode_before_and_after_a_refresh(name: str, norms: int) -> None:
    model = small(dtype=torch.float64) if name == "small" else models.build(name, 5).double()
    model.requires_grad_(True).train()
    x = pixels(0, 3, 32, torch.float64)
    frozen = freeze(model, x)
    assert model.training
    assert folded(frozen.net) == norms
    assert_same(frozen, model, x)
    with torch.no_grad():
        model.train()(pixels(1, 4, 32, torch.float64))
        for p in model.parameters():
            p.mul_(1.1).add_(0.01)
    frozen.refresh()
    assert_same(frozen, model, x)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in model.parameters())


class Odd(nn.Module):
    """Reads its first convolution twice, once past the batch norm; a bias in front of the second."""

    def __init__(self, past: float) -> None:
        super().__init__()
        self.past = past
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.second, self.plain = nn.Conv2d(4, 5, 3, bias=True), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        y: Any = self.conv(x)
        z: Tensor = self.plain(self.second(torch.relu(self.bn(y) + self.past * y)))
        return z.mean(dim=(2, 3))


@pytest.mark.parametrize(("past", "norms"), [(0.0, 2), (0.5, 0)])
def test_a_convolution_that_something_else_reads_is_not_folded_and_the_function_stays(past: float, norms: int) -> None:
    torch.manual_seed(0)
    model, x = Odd(past).double(), pixels(0, 3, 12, torch.float64)
    for _ in range(5):
        model(pixels(2, 8, 12, torch.float64))
    frozen = freeze(model, x)
    assert folded(frozen.net) == norms
    assert_same(frozen, model, x)


def test_a_copy_in_bf16_follows_float32_weights_and_leaves_them_so() -> None:
    model, x = small(), pixels(0, 3)
    frozen = freeze(model, x, torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = frozen(x).float()
    expected = model(x)
    assert ((y - expected).norm() / expected.norm()).item() < 0.05
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert frozen.get_parameter("net.linear.weight").dtype == torch.bfloat16
