"""Checkpoints of other libraries and of our own: their weights as a state dict of one of our networks, strictly.

Names are compared bare: without the prefixes that wrappers put before all of them, and ours before torchvision's.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workers.engine import checkpoint_files, models
from workers.engine.checkpoint_files import CheckpointError as CheckpointError
from workers.engine.ema import final_weights
from workers.engine.network import Network

FORMATS = ("safetensors", "state-dict", "robustness", "training")
"""In a safetensors file; saved by torch.save, alone or under a key; the robustness library's; our own trainer's."""

WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
"""Keys under which training scripts keep their weights."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
NORMALISERS = {"mean": ("mean", "normalizer.new_mean"), "std": ("std", "normalizer.new_std")}
UNUSED = ("AuxLogits.", "aux1.", "aux2.", "sub_block1.")
"""Parts of published networks that serve their training only, or nothing at all."""
NAMED_IN_ERROR = 20
DTYPES = frozenset(checkpoint_files.SAFETENSORS_TYPES.values())
MOST_COPIES = 3
"""How many times its size a file's weights may take: the robustness library's names each tensor twice."""


@dataclass
class Loaded:
    """A checkpoint's weights by bare name, on the CPU in float32, finite; `mean` and `std` where it holds them.

    `architecture` is known for our own trainer's only. `notes` say what was changed.
    """

    format: str
    weights: dict[str, Tensor]
    mean: list[float] | None = None
    std: list[float] | None = None
    architecture: str | None = None
    notes: list[str] = field(default_factory=list)


class Matched(NamedTuple):
    """A state dict that `models.load` takes, the classes that its head tells apart, and what was changed."""

    state: dict[str, Tensor]
    classes: int
    notes: list[str]


def read(path: Path, format: str | None = None) -> Loaded:  # noqa: A002
    """The weights in a file; of whichever of FORMATS it is, unless one is required.

    Nothing in the file is run. Raises CheckpointError for a file of no or another format, one that names anything but
    tensors and plain values, duplicates that differ, and weights that are not finite.
    """
    if format not in (None, *FORMATS):
        raise CheckpointError(f"format is {format!r}; allowed: {', '.join(FORMATS)}")
    container, tree = checkpoint_files.load(path)
    found, state, architecture = _state(tree)
    if container == "safetensors":
        found = container
    if format not in (None, found):
        raise CheckpointError(f"format is {format!r}, but the file's is {found!r}")
    _check(state, MOST_COPIES * path.stat().st_size)
    constants, notes = dict[str, Tensor](), list[str]()
    weights = _single(_bare(dict(state), constants), notes)
    constants = _single(constants, [])
    _check_finite({**weights, **constants})
    mean, std = (constants[name].flatten().tolist() if name in constants else None for name in NORMALISERS)
    return Loaded(found, weights, mean, std, architecture, notes)


def match(
    loaded: Loaded,
    architecture: str,
    classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Matched:
    """The weights under our network's names, every one of them and no other; classes are counted in the head.

    The checkpoint's own mean and std are used where it holds them, else those given. Raises KeyError and ValueError
    as `models.find` does, and CheckpointError listing missing and unexpected names and other shapes, with another
    architecture that the weights would fit; or if there is neither a mean and std in the checkpoint nor given.
    """
    a = models.find(architecture)
    classes = classes or _classes(loaded.weights, a)
    expected = _expected(architecture, classes)
    fitted, notes = _fit(loaded.weights, expected)
    problems = _problems(fitted, expected)
    if problems:
        hint = next((f". These weights fit {name}" for name in models.ARCHITECTURES if _fits(loaded, name)), "")
        raise CheckpointError(f"the checkpoint does not fit {architecture}: {'; '.join(problems)}{hint}")
    state = _normalisation(loaded, mean, std, notes)
    state |= {e.name: fitted[bare].to(e.dtype) for bare, e in expected.items()}
    return Matched(state, classes, [*loaded.notes, *notes])


def _state(tree: Any) -> tuple[str, Mapping[str, Any], str | None]:
    """The format, the weights, and the architecture if it is said."""
    if not isinstance(tree, dict):
        raise CheckpointError(f"the checkpoint is a {type(tree).__name__}; expected a dictionary of tensors")
    config = tree.get("config")
    if isinstance(config, dict) and isinstance(config.get("architecture"), str) and isinstance(tree.get("model"), dict):
        average = tree.get("ema") if isinstance(tree.get("ema"), dict) else None
        return "training", final_weights({"model": tree["model"], "ema": average}), config["architecture"]
    state = next((tree[key] for key in WRAPPERS if isinstance(tree.get(key), dict)), tree)
    names = {str(name).removeprefix("module.") for name in state}
    is_robustness = any(name.startswith(("attacker.", "normalizer.new_")) for name in names)
    return "robustness" if is_robustness else "state-dict", state, None


def _check(state: Any, most_bytes: int) -> None:
    """Raise CheckpointError unless these are dense tensors of real numbers that take no more memory than that."""
    if not isinstance(state, dict) or not state:
        raise CheckpointError("the checkpoint holds no weights")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{name!r} is a {type(value).__name__}; expected weights by name, tensors")
        if value.layout is not torch.strided or value.device.type != "cpu" or value.dtype not in DTYPES:
            raise CheckpointError(f"{name!r} is {value.dtype}, {value.layout}; expected dense real numbers")
    if sum(t.numel() * t.itemsize for t in state.values()) > most_bytes:
        raise CheckpointError("the weights are larger than the file: they overlap")


def _bare(state: dict[str, Tensor], constants: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without wrappers' prefixes and duplicates; moves the normalisation into `constants`."""
    while True:
        for name in [name for name in state if name.startswith("attacker.")]:
            _drop_duplicate(state, name)
        for kind, names in NORMALISERS.items():
            for name in state.keys() & set(names):
                if kind in constants:
                    raise CheckpointError(f"the checkpoint holds two of {kind}: pixels would be normalised twice")
                constants[kind] = state.pop(name)
                if constants[kind].numel() != 3:
                    raise CheckpointError(f"{name} is {list(constants[kind].shape)}; expected one number a channel, 3")
        prefix = next((p for p in PREFIXES if state and all(name.startswith(p) for name in state)), None)
        if prefix is None:
            return state
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _drop_duplicate(state: dict[str, Tensor], name: str) -> None:
    twin = re.sub(r"^attacker\.(normalize\.)?", lambda m: "normalizer." if m[1] else "", name)
    if twin in state:
        if not torch.equal(state[name], state[twin]):
            raise CheckpointError(f"{name} should be the same as {twin}, and is not")
        del state[name]


def _single(state: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Copies that do not depend on the file, real numbers in float32."""
    for dtype in sorted({t.dtype for t in state.values() if t.is_floating_point()} - {torch.float32}, key=str):
        count = sum(t.dtype is dtype for t in state.values())
        notes.append(f"{count} weights were converted from {str(dtype).removeprefix('torch.')} to float32")
    dtypes = {name: torch.float32 if t.is_floating_point() else t.dtype for name, t in state.items()}
    return {name: t.detach().to(dtypes[name], copy=True).contiguous() for name, t in state.items()}


def _check_finite(state: Mapping[str, Tensor]) -> None:
    bad = [name for name, t in state.items() if not t.isfinite().all()]
    if bad:
        raise CheckpointError(f"weights that are not finite: {_listed(bad)}")


class _Expected(NamedTuple):
    """A weight of our network."""

    name: str
    shape: torch.Size
    dtype: torch.dtype


@cache
def _expected(architecture: str, classes: int) -> dict[str, _Expected]:
    """By bare name; without the normalisation."""
    with models.unallocated():
        state = models.find(architecture).make(classes).state_dict()
    return {
        name.removeprefix("net."): _Expected(name, t.shape, t.dtype)
        for name, t in state.items() if name not in NORMALISERS
    }  # fmt: skip


def _classes(weights: Mapping[str, Tensor], a: models.Architecture) -> int:
    head = weights.get(f"{a.head.removeprefix('net.')}.weight")
    return a.classes if head is None or not head.dim() else max(len(head), 1)


def _fit(weights: Mapping[str, Tensor], expected: Mapping[str, _Expected]) -> tuple[dict[str, Tensor], list[str]]:
    """Older names as today's, unused parts left out, and batch norms' counters, which old files lack, at 0."""
    fitted, notes = dict[str, Tensor](), list[str]()
    for name, tensor in weights.items():
        fitted[name if name in expected else _todays(name)] = tensor
    unused = [name for name in fitted if name.startswith(UNUSED) and name not in expected]
    counters = [name for name in expected.keys() - fitted.keys() if name.endswith(".num_batches_tracked")]
    if unused:
        notes.append(f"{len(unused)} weights that only training uses were left out: {_listed(unused)}")
    if counters:
        notes.append(f"{len(counters)} batch norms have no count of batches: set to 0")
    fitted = {name: tensor for name, tensor in fitted.items() if name not in unused}
    return fitted | {name: torch.tensor(0) for name in counters}, notes


def _todays(name: str) -> str:
    """torchvision's DenseNet and ViT files have the names of an early version."""
    name = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", name)
    return re.sub(r"mlp\.linear_([12])\.", lambda m: f"mlp.{0 if m[1] == '1' else 3}.", name)


def _problems(fitted: Mapping[str, Tensor], expected: Mapping[str, _Expected]) -> list[str]:
    missing = [name for name in expected if name not in fitted]
    unexpected = [name for name in fitted if name not in expected]
    other = [
        f"{name} {t.dtype} {list(t.shape)}, expected {e.dtype} {list(e.shape)}".replace("torch.", "")
        for name, e in expected.items()
        if (t := fitted.get(name)) is not None
        and (t.shape != e.shape or t.is_floating_point() != e.dtype.is_floating_point)
    ]
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    return [f"{len(names)} {kind}: {_listed(names)}" for kind, names in lists.items() if names]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED_IN_ERROR]) + (", ..." if len(names) > NAMED_IN_ERROR else "")


def _fits(loaded: Loaded, architecture: str) -> bool:
    expected = _expected(architecture, _classes(loaded.weights, models.find(architecture)))
    return not _problems(_fit(loaded.weights, expected)[0], expected)


def _normalisation(
    loaded: Loaded, mean: Sequence[float] | None, std: Sequence[float] | None, notes: list[str]
) -> dict[str, Tensor]:
    holder = Network((0, 0, 0), (1, 1, 1))
    for name, own, given in (("mean", loaded.mean, mean), ("std", loaded.std, std)):
        if own is None and given is None:
            raise CheckpointError(f"the checkpoint holds no {name} of pixels in [0, 1]: give the data set's")
        try:
            for values in (given, own):
                if values is not None:
                    before = holder.get_buffer(name).clone()
                    holder.set_normalisation(**{name: values})
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        if own and given is not None and not torch.allclose(before, holder.get_buffer(name)):
            notes.append(f"the checkpoint's own {name} {own} is used, not the one given, {list(given)}")
    return dict(holder.state_dict())
