"""The representation, its gradient, the weights' strict loading and their digest."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.engine.networks import pixels, small
from workers.engine.models import ARCHITECTURES, CIFAR_MEAN, CIFAR_STD, Classifier, build, digest, load

NAME = "cifar-resnet-small"


def by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """R(x) of a `small` network from its weights, with the pixels normalised here, once, by the published numbers."""

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int, padding: int) -> Tensor:
        y = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=padding)
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (state[f"{bn}.{name}"].view(-1, 1, 1) for name in names)
        return (y - mean) / (variance + 1e-5).sqrt() * scale + shift

    mean, std = torch.tensor(CIFAR_MEAN).to(x.dtype).view(3, 1, 1), torch.tensor(CIFAR_STD).to(x.dtype).view(3, 1, 1)
    y = conv_bn((x - mean) / std, "conv", "bn", 1, 1).clamp(min=0)
    for block, stride in (("blocks.0", 1), ("blocks.1", 2)):
        inner = conv_bn(y, f"{block}.conv1", f"{block}.bn1", stride, 1).clamp(min=0)
        inner = conv_bn(inner, f"{block}.conv2", f"{block}.bn2", 1, 1)
        y = (inner + conv_bn(y, f"{block}.shortcut.0", f"{block}.shortcut.1", stride, 0)).clamp(min=0)
    return y.mean(dim=(2, 3))


def last_block(model: Classifier, x: Tensor, identity_relu: bool) -> tuple[Tensor, Tensor]:
    """R(x), and the last block's output before its ReLU."""
    kept: list[Tensor] = []
    handle = model.blocks[-1].register_forward_hook(lambda *event: kept.append(event[-1]))
    r = model.represent(x, identity_relu)
    handle.remove()
    return r, kept[0]


def test_the_representation_is_what_the_linear_layer_reads() -> None:
    model, x, read = small(), pixels(0, 3), list[Tensor]()
    model.linear.register_forward_hook(lambda *event: read.append(event[1][0]))
    logits = model(x)
    assert torch.equal(model.represent(x), read[0])
    assert torch.equal(logits, F.linear(read[0], model.linear.weight, model.linear.bias))


def test_pixels_are_normalised_exactly_once() -> None:
    model, x = small(dtype=torch.float64), pixels(1, 3, dtype=torch.float64)
    torch.testing.assert_close(model.represent(x), by_hand(model.state_dict(), x), rtol=1e-9, atol=1e-12)


def test_the_normalisation_comes_from_the_checkpoint() -> None:
    model, x = small(dtype=torch.float64), pixels(2, 2, dtype=torch.float64)
    expected = model.represent(x)
    state = {**model.state_dict(), "mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}
    normalised = (x - model.mean) / model.std
    model.load_state_dict(state)
    torch.testing.assert_close(model.represent(normalised), expected, rtol=1e-9, atol=1e-12)


def test_the_identity_relu_changes_no_value() -> None:
    model, x = small(), pixels(3, 4)
    assert torch.equal(model.represent(x, identity_relu=True), model.represent(x))


def test_the_identity_relu_passes_the_same_gradient_through_dead_and_live_units() -> None:
    x = pixels(4, 2, dtype=torch.float64).requires_grad_(True)
    for identity in (True, False):
        r, y = last_block(small(dtype=torch.float64), x, identity)
        assert 0 < (y <= 0).double().mean() < 1, "the case needs dead units and live ones"
        (g,) = torch.autograd.grad(r.sum(), y)
        share = torch.full_like(y, 1 / y[0, 0].numel())  # of the mean over positions
        torch.testing.assert_close(g, share if identity else share * (y > 0), rtol=1e-12, atol=0)


def test_the_identity_relu_gives_the_image_the_straight_through_gradient() -> None:
    model, x = small(dtype=torch.float64), pixels(5, 2, dtype=torch.float64).requires_grad_(True)
    r, y = last_block(model, x, identity_relu=True)
    v = torch.linspace(-1, 1, r.numel(), dtype=torch.float64).view_as(r)
    (ours,) = torch.autograd.grad(r, x, v, retain_graph=True)
    (expected,) = torch.autograd.grad((y + (y.relu() - y).detach()).mean(dim=(2, 3)), x, v)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)


def test_a_network_whose_last_units_are_all_dead_still_moves_the_image_through_the_identity_relu() -> None:
    model, x = small(), pixels(6, 1).requires_grad_(True)
    bias = model.blocks[-1].get_parameter("bn2.bias")
    bias.sub_(1000)
    (plain,) = torch.autograd.grad(model.represent(x).sum(), x)
    (identity,) = torch.autograd.grad(model.represent(x, identity_relu=True).sum(), x)
    assert not plain.any()
    assert identity.any()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_named_architecture_has_the_shapes_it_declares(name: str) -> None:
    a = ARCHITECTURES[name]
    with torch.device("meta"):  # shapes without arithmetic
        model, x = build(name).eval(), torch.empty(2, 3, a.size, a.size)
        assert model.represent(x).shape == (2, a.features)
        assert model(x).shape == (2, a.classes)


def test_the_number_of_classes_can_be_chosen_and_is_read_back_from_the_weights() -> None:
    model = build(NAME, classes=7)
    assert model(pixels(7, 2, 32)).shape == (2, 7)
    assert load(NAME, model.state_dict())(pixels(7, 2, 32)).shape == (2, 7)


def test_an_unknown_architecture_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="resnet-of-dreams"):
        build("resnet-of-dreams")


def test_loaded_weights_are_the_saved_ones_frozen_and_in_eval_mode() -> None:
    source = build(NAME)
    source(pixels(8, 4, 32))  # moves the batch statistics off their start
    model = load(NAME, source.state_dict())
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    assert digest(model.state_dict()) == digest(source.state_dict())
    x = pixels(9, 2, 32)
    assert torch.equal(model(x), source.eval()(x))


def test_a_missing_and_an_unexpected_key_are_both_named() -> None:
    state = build(NAME).state_dict()
    state["fc.weight"] = state.pop("linear.weight")
    with pytest.raises(RuntimeError) as error:
        load(NAME, state)
    assert 'Missing key(s) in state_dict: "linear.weight"' in str(error.value)
    assert 'Unexpected key(s) in state_dict: "fc.weight"' in str(error.value)


def test_a_weight_of_another_shape_is_refused() -> None:
    state = build(NAME).state_dict()
    state["linear.weight"] = state["linear.weight"][:, :9]
    with pytest.raises(RuntimeError, match=r"size mismatch for linear\.weight"):
        load(NAME, state)


def test_the_digest_does_not_depend_on_order_memory_layout_or_a_round_trip(tmp_path: Path) -> None:
    state = small().state_dict()
    expected = digest(state)
    assert digest(dict(reversed(state.items()))) == expected
    assert digest(nn.Module.to(small(), memory_format=torch.channels_last).state_dict()) == expected
    torch.save(state, tmp_path / "weights.pt")
    assert digest(torch.load(tmp_path / "weights.pt", weights_only=True)) == expected


def test_the_digest_changes_with_one_bit() -> None:
    state = small().state_dict()
    before = digest(state)
    state["linear.bias"].view(torch.uint8)[0] ^= 1
    assert digest(state) != before


def test_the_digest_changes_with_a_name_a_shape_or_a_type() -> None:
    weight = torch.zeros(2, 3)
    others = [{"v": weight}, {"w": weight.view(3, 2)}, {"w": weight.to(torch.int32)}, {"w": weight, "v": weight}]
    assert len({digest(state) for state in ({"w": weight}, *others)}) == 5


def test_the_data_sets_own_normalisation_is_built_in() -> None:
    model, x = build(NAME, 4, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)), pixels(10, 1)
    expected = (x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    torch.testing.assert_close(model.normalise(x), expected)
    assert load(NAME, model.state_dict())(x).shape == (1, 4)


@pytest.mark.parametrize(
    ("mean", "std"),
    [([0.5], [0.5] * 3), ([0.5] * 3, [0.5, 0.5, 0.0]), ([float("nan")] * 3, [1.0] * 3), ([0.5] * 3, [1e-60] * 3)],
)
def test_a_normalisation_that_is_none_is_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError, match="expected three finite numbers"):
        build(NAME, mean=mean, std=std)


def test_the_digest_takes_every_type_and_that_of_float32_is_fixed() -> None:
    ramp = torch.arange(6).view(2, 3)
    assert (
        digest({"w": ramp.float(), "n": torch.tensor(3)})
        == hashlib.sha256(
            b"n () torch.int64\n"
            + np.int64(3).tobytes()
            + b"w (2, 3) torch.float32\n"
            + np.arange(6, dtype="<f4").tobytes()
        ).hexdigest()
    )
    assert len({digest({"w": ramp.to(dtype)}) for dtype in (torch.bfloat16, torch.float16, torch.bool)}) == 3


def test_importing_the_architectures_loads_no_compiler() -> None:
    slow = ["torchvision.models", "torch._dynamo"]
    code = f"import sys, workers.engine.models; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
