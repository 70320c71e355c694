"""Checkpoints of every format, written as their libraries write them."""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.engine.networks import pixels
from workers.engine import checkpoint_files, checkpoints, models
from workers.engine.checkpoints import CheckpointError, match, read

NAME, MEAN, STD = "cifar-resnet-slim", (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)


@pytest.fixture(scope="module")
def network() -> models.Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.build(NAME, 7, MEAN, STD).eval().requires_grad_(False)


def bare(network: models.Network) -> dict[str, Tensor]:
    state = {name.removeprefix("net."): t for name, t in network.state_dict().items()}
    return OrderedDict((name, t) for name, t in state.items() if name not in ("mean", "std"))


def contiguous(network: models.Network) -> dict[str, Tensor]:
    """As the safetensors library wants them."""
    return {name: t.contiguous() for name, t in network.state_dict().items()}


def robustness(network: models.Network, prefix: str = "module.") -> dict[str, Tensor]:
    """The layout of an AttackerModel: normaliser, model, and the attacker that holds both once more."""
    constants = {"new_mean": torch.tensor(MEAN).view(3, 1, 1), "new_std": torch.tensor(STD).view(3, 1, 1)}
    layout = {f"normalizer.{name}": t for name, t in constants.items()}
    layout |= {f"model.{name}": t for name, t in bare(network).items()}
    layout |= {f"attacker.normalize.{name}": t for name, t in constants.items()}
    layout |= {f"attacker.model.{name}": t for name, t in bare(network).items()}
    return OrderedDict((prefix + name, t) for name, t in layout.items())


def robustness_file(network: models.Network, weights: str = "model", prefix: str = "module.") -> dict[str, Any]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], 0.1, 0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch)
    return {
        weights: robustness(network, prefix), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
        "epoch": 150, "amp": None, "nat_prec1": torch.tensor(90.83), "adv_prec1": np.float64(70.11),
        "seen": np.arange(3),
    }  # fmt: skip


def zipped(value: Any, path: Path) -> None:
    torch.save(value, path)


def legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def same(matched: checkpoints.Matched, network: models.Network, name: str = NAME) -> None:
    x = pixels(0, 2, 32)
    assert matched.classes == 7
    assert torch.equal(models.load(name, matched.state)(x), network(x))


@pytest.mark.parametrize("save", [zipped, legacy])
@pytest.mark.parametrize("weights", ["model", "state_dict"])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_the_robustness_librarys_checkpoint_brings_its_normalisation(
    network: models.Network, tmp_path: Path, save: Callable[[Any, Path], None], weights: str, prefix: str
) -> None:
    save(robustness_file(network, weights, prefix), tmp_path / "w.pt")
    loaded = read(tmp_path / "w.pt", "robustness")
    assert loaded.mean == pytest.approx(MEAN)
    assert loaded.std == pytest.approx(STD)
    same(match(loaded, NAME), network)


@pytest.mark.parametrize("save", [zipped, legacy])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_a_plain_state_dict_takes_the_normalisation_that_is_given(
    network: models.Network, tmp_path: Path, save: Callable[[Any, Path], None], wrapper: str | None, prefix: str
) -> None:
    state = {prefix + name: t for name, t in bare(network).items()}
    save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pt")
    loaded = read(tmp_path / "w.pt")
    assert loaded.format == "state-dict"
    same(match(loaded, NAME, mean=MEAN, std=STD), network)
    with pytest.raises(CheckpointError, match="holds no mean of pixels"):
        match(loaded, NAME)


def test_a_safetensors_file_is_read_as_its_own_library_wrote_it(network: models.Network, tmp_path: Path) -> None:
    state = contiguous(network) | {
        f"other.{dtype}": torch.arange(6).view(2, 3).to(dtype)
        for dtype in (torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.bool, torch.int32)
    }
    save_file(state, tmp_path / "w.safetensors", {"format": "pt"})
    container, found = checkpoint_files.load(tmp_path / "w.safetensors")
    assert container == "safetensors"
    assert found.keys() == state.keys()
    assert all(found[name].dtype is t.dtype and torch.equal(found[name], t) for name, t in state.items())


def test_our_own_safetensors_match_bitwise(network: models.Network, tmp_path: Path) -> None:
    save_file(contiguous(network), tmp_path / "w")
    matched = match(read(tmp_path / "w", "safetensors"), NAME)
    assert models.digest(matched.state) == models.digest(network.state_dict())
    assert matched.notes == []


@pytest.mark.parametrize("average", [False, True])
def test_our_trainers_checkpoint_gives_its_architecture_and_its_averaged_weights(
    network: models.Network, tmp_path: Path, average: bool
) -> None:
    state = {name: t + 1 if average else t for name, t in network.state_dict().items()}
    saved = {"config": {"architecture": NAME}, "model": state, "ema": network.state_dict() if average else None}
    torch.save(saved | {"step": 9}, tmp_path / "w.pt")
    loaded = read(tmp_path / "w.pt")
    assert (loaded.format, loaded.architecture) == ("training", NAME)
    same(match(loaded, NAME), network)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "cifar-resnet50", "mobilenet_v3_small"])
def test_networks_of_each_kind_come_back_from_the_robustness_layout(tmp_path: Path, name: str) -> None:
    network = models.build(name, 7, MEAN, STD).eval()
    torch.save(robustness_file(network), tmp_path / "w.pt")
    matched = match(read(tmp_path / "w.pt"), name)
    assert models.digest(matched.state) == models.digest(network.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_with_a_note(
    network: models.Network, tmp_path: Path, dtype: torch.dtype
) -> None:
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in network.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    loaded = read(tmp_path / "w.pt")
    matched = match(loaded, NAME)
    assert {t.dtype for t in matched.state.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(matched.state[name], t.to(matched.state[name].dtype)) for name, t in state.items())
    assert "converted from" in matched.notes[0]
    assert str(dtype).removeprefix("torch.") in matched.notes[0]


def test_missing_unexpected_and_misshapen_weights_are_listed(network: models.Network, tmp_path: Path) -> None:
    state = network.state_dict()
    state["fc.weight"] = state.pop("linear.bias")
    state["conv.weight"] = state["conv.weight"][:3]
    state |= {f"extra.{i}": torch.zeros(1) for i in range(25)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as error:
        match(read(tmp_path / "w.pt"), NAME)
    text = str(error.value)
    assert f"does not fit {NAME}: 1 missing: linear.bias; 26 unexpected: fc.weight, extra.0, " in text
    assert "extra.18, ...; 1 of another shape: conv.weight float32 [3, 3, 3, 3], expected float32 [16, 3, 3, 3]" in text
    assert "These weights fit" not in text


def test_another_architecture_that_would_fit_is_named(network: models.Network, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=f"These weights fit {NAME}$"):
        match(read(tmp_path / "w.pt"), "cifar-resnet-small")


def test_another_number_of_classes_than_required_is_a_shape(network: models.Network, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"2 of another shape: linear.weight float32 \[7, 128\], .*\[10, 128\]"):
        match(read(tmp_path / "w.pt"), NAME, classes=10)


def test_what_old_files_lack_is_filled_in_and_what_only_training_needs_left_out(
    network: models.Network, tmp_path: Path
) -> None:
    state = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state | {"sub_block1.layer.0.bn1.weight": torch.ones(4)}, tmp_path / "w.pt")
    matched = match(read(tmp_path / "w.pt"), NAME)
    assert len(matched.notes) == 2
    same(matched, network)


def test_the_checkpoints_own_normalisation_is_used_and_said_where_another_is_given(
    network: models.Network, tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pt")
    matched = match(read(tmp_path / "w.pt"), NAME, mean=(0.0, 0.0, 0.0), std=STD)
    assert [note[:26] for note in matched.notes] == ["the checkpoint's own mean "]
    same(matched, network)


Change = Callable[[dict[str, Tensor]], Mapping[str, object]]
WRONG_WEIGHTS: dict[str, tuple[Change, str]] = {
    "nan": (lambda s: s | {"conv.weight": s["conv.weight"] * torch.nan}, "not finite: conv.weight"),
    "overflow": (lambda s: s | {"bn.bias": s["bn.bias"].double() + 1e60}, "not finite: bn.bias"),
    "std": (lambda s: s | {"std": torch.zeros(3)}, "expected three finite numbers above 0"),
    "one channel": (lambda s: s | {"mean": torch.zeros(1)}, "expected one number a channel"),
    "two means": (lambda s: s | {"normalizer.new_mean": s["mean"]}, "normalised twice"),
    "differing twin": (lambda s: s | {"attacker.bn.bias": s["bn.bias"] + 1}, "should be the same as bn.bias"),
    "complex": (lambda s: s | {"bn.bias": s["bn.bias"].to(torch.complex64)}, "expected dense real numbers"),
    "sparse": (lambda s: s | {"bn.bias": s["bn.bias"].to_sparse()}, "expected dense real numbers"),
    "meta": (lambda s: s | {"bn.bias": s["bn.bias"].to("meta")}, "expected dense real numbers"),
    "expanded": (lambda s: s | {"bn.bias": torch.zeros(1).expand(1 << 40)}, "larger than the file"),
    "a list": (lambda s: s | {"bn.bias": [1.0]}, "'bn.bias' is a list"),
    "whole numbers": (lambda s: s | {"bn.bias": s["bn.bias"].int()}, "of another shape: bn.bias int32"),
    "nothing": (lambda _: {}, "no weights"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_WEIGHTS)
def test_weights_that_are_none_are_refused_by_name(network: models.Network, tmp_path: Path, case: str) -> None:
    change, message = WRONG_WEIGHTS[case]
    torch.save(change(dict(network.state_dict())), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=re.escape(message)):
        match(read(tmp_path / "w.pt"), NAME)


def test_another_format_than_required_is_refused(network: models.Network, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="format is 'robustness', but the file's is 'state-dict'"):
        read(tmp_path / "w.pt", "robustness")
    with pytest.raises(CheckpointError, match="allowed: safetensors, state-dict, robustness, training"):
        read(tmp_path / "w.pt", "onnx")
