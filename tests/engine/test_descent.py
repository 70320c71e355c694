"""The function that the batcher descends: the network's layer itself, folded and in a precision."""

import pytest
import torch
from torch import Tensor

from tests.engine.networks import pixels, small
from workers.engine import layers
from workers.engine.descent import descent
from workers.engine.frozen import freeze
from workers.engine.layers import Pool
from workers.engine.pgd import Function

NET, SIZE = small(), 12
LAYERS = list(layers.shapes(NET, SIZE))
X = pixels(3, 5, SIZE)


def value_and_gradient(f: Function) -> tuple[Tensor, Tensor]:
    """f at X, and the gradient of a weighted sum of it."""
    x = X.clone().requires_grad_(True)
    y = f(x)
    (g,) = torch.autograd.grad((y * torch.linspace(1, 2, y.shape[1])).sum(), x)
    return y.detach(), g


def distance(one: Tensor, other: Tensor) -> float:
    """Relative to the other's norm."""
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("pool", ["mean", "flatten"])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_is_the_networks_own_but_for_rounding_and_so_is_its_gradient(layer: str, pool: Pool) -> None:
    ours = value_and_gradient(descent(NET, layer, False, pool, "fp32", SIZE))
    theirs = value_and_gradient(layers.function(NET, layer, False, pool))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.float32
        assert distance(one, other) < 2e-5


def test_among_them_are_convolutions_that_are_folded() -> None:
    folded = freeze(NET, pixels(0, 2, SIZE)).folded
    assert {"conv", "blocks.0.conv1", "blocks.1.shortcut.0"} <= folded & set(LAYERS)


@pytest.mark.parametrize("layer", ["penultimate", "logits"])
def test_the_last_relu_passes_gradients_where_it_is_asked_to(layer: str) -> None:
    ours = value_and_gradient(descent(NET, layer, True, "mean", "fp32", SIZE))
    theirs = value_and_gradient(layers.function(NET, layer, True))
    assert distance(ours[1], theirs[1]) < 2e-5
    assert distance(ours[1], value_and_gradient(layers.function(NET, layer, False))[1]) > 0.01


@pytest.mark.parametrize("layer", LAYERS)
def test_bf16_is_within_a_few_per_cent_for_every_layer_and_its_result_is_float32(layer: str) -> None:
    ours = value_and_gradient(descent(NET, layer, False, "mean", "bf16", SIZE))
    theirs = value_and_gradient(layers.function(NET, layer, False))
    assert ours[0].dtype == ours[1].dtype == torch.float32
    assert 0 < distance(ours[0], theirs[0]) < 0.03
    assert distance(ours[1], theirs[1]) < 0.15


def test_tf32_is_fp32_where_there_is_no_gpu() -> None:
    one, other = (descent(NET, "logits", False, "mean", p, SIZE) for p in ("tf32", "fp32"))
    assert torch.equal(one(X), other(X))


def test_it_is_a_copy_that_later_training_does_not_touch_and_that_leaves_the_network_as_it_was() -> None:
    net = small().requires_grad_(True).train()
    f = descent(net, "penultimate", False, "mean", "bf16", SIZE)
    before = f(X)
    assert net.training
    assert all(p.dtype == torch.float32 and p.requires_grad for p in net.parameters())
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    assert torch.equal(f(X), before)


@pytest.mark.parametrize(
    ("layer", "precision", "pool", "words"),
    [
        ("blocks.9", "fp32", "mean", "layer is 'blocks.9'; allowed: penultimate, logits"),
        ("logits", "fp16", "mean", "precision is 'fp16'; allowed: fp32, tf32, bf16"),
        ("conv", "fp32", "max", "pool is 'max'; allowed: mean, flatten"),
    ],
)
def test_another_layer_precision_or_pool_is_refused_in_words(layer: str, precision: str, pool: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        descent(NET, layer, False, pool, precision, SIZE)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of a machine without a compiler, and of PyTorch's own
def test_compiled_it_is_the_same_within_rounding_for_every_size_of_batch() -> None:
    plain, fast = (descent(small(), "penultimate", False, "mean", "fp32", 12, compiled) for compiled in (False, True))
    for n in (1, 2, 3):
        torch.testing.assert_close(fast(pixels(n, n)), plain(pixels(n, n)), rtol=1e-4, atol=1e-5)


def test_where_nothing_can_be_compiled_it_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> object:
        def compiled(_: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("there is no compiler")

        return compiled

    monkeypatch.setattr(torch, "compile", fails)
    f = descent(small(), "penultimate", False, "mean", "fp32", 12, compiled=True)
    with pytest.warns(UserWarning, match="there is no compiler"):
        first = f(pixels(1, 2))
    assert torch.equal(first, f(pixels(1, 2)))
