"""What a figure is drawn from: the finished studies of a recipe."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TRACE = {"loss", "grad_norm", "relative_distance", "activation", "frames", "frame_steps"}
"""Tensors of an item that no figure needs."""
PLAN = ("targets", "start", "starts", "images", "first", "second", "radii", "lambdas", "coordinates",
        "random_coordinates", "combinations", "seed")  # fmt: skip
"""Parameters that say which item is which."""


@dataclass(frozen=True)
class Result:
    """One item: its plan, its metrics, and its tensors as arrays (images float32 [3, H, W] in [0, 1])."""

    index: int
    target: Mapping[str, Any]
    start: Mapping[str, Any]
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]
    tensors: Mapping[str, Array]

    @property
    def image(self) -> Array:
        return self.tensors["image"]


@dataclass(frozen=True)
class Part:
    """One study: the network it ran on, in words; its parameters; the items that succeeded, in order."""

    label: str
    network: str
    parameters: Mapping[str, Any]
    results: Sequence[Result]
    missing: int
    """How many items did not succeed, here or on a network that this one is compared with."""
    seconds: float | None
    """From its first claim to its end."""

    @property
    def variant(self) -> str:
        """What sets it apart from the other parts of its network."""
        return self.label.partition("/")[2]

    @property
    def of(self) -> str:
        """`model`, `baseline` or `other`."""
        return self.label.partition("/")[0]

    @property
    def judged(self) -> bool:
        """Whether a network other than its own has judged every result."""
        own = self.parameters.get("judge") == self.parameters.get("model")
        return not own and all(r.metrics.get("judge") for r in self.results)

    def metric(self, name: str) -> Array:
        """One number an item, float64 [N]."""
        return np.array([float(r.metrics[name]) for r in self.results])

    def tensor(self, name: str) -> Array:
        """[N, ...]"""
        return np.stack([r.tensors[name] for r in self.results])

    @property
    def image_steps(self) -> int:
        return sum(int(r.metrics["steps_taken"]) for r in self.results) * int(self.parameters.get("restarts", 1))


Parts = Mapping[str, Part]


def independent(results: Sequence[Result], values_N: Array) -> Array:
    """One number for each independent unit: items that share a pair of images are averaged, and of a grid of starts and
    directions those that share the one of which there are more. An interval over items would be too narrow."""
    shared, units = _shared(results), dict[int, list[Any]]()
    for r, value in zip(results, values_N, strict=True):
        units.setdefault(r.settings[shared] if shared else r.index, []).append(value)
    return np.array([np.mean(values) for values in units.values()])


def _shared(results: Sequence[Result]) -> str | None:
    """The setting that items of one unit share, if they share any."""
    if "pair" in results[0].settings:
        return "pair"
    if "row" not in results[0].settings:
        return None
    rows, columns = ({r.settings[name] for r in results} for name in ("row", "column"))
    return "column" if len(columns) >= len(rows) else "row"


def strangers(results: Sequence[Result], related: Callable[[Result, Result], bool]) -> NDArray[np.int64] | None:
    """For each result another one that is not `related` to it, at random: the pairs of a null. None if one has none."""
    random = np.random.default_rng(0)
    found = []
    for r in results:
        others = [i for i, other in enumerate(results) if other is not r and not related(r, other)]
        if not others:
            return None
        found.append(int(random.choice(others)))
    return np.array(found)


def aligned(parts: Parts) -> Parts:
    """The parts with only those items that every part of the same plan has: networks are compared on the same items.

    Raises ValueError naming a part with nothing left.
    """
    plans = {label: json.dumps([part.parameters.get(name) for name in PLAN]) for label, part in parts.items()}
    found = {}
    for label, part in parts.items():
        alike = [{r.index for r in other.results} for name, other in parts.items() if plans[name] == plans[label]]
        kept = [r for r in part.results if all(r.index in indices for indices in alike)]
        if not kept:
            raise ValueError(f"the study {label} has no result to draw that its like have too")
        found[label] = replace(part, results=kept, missing=len(part.results) + part.missing - len(kept))
    return found


def variants(parts: Parts) -> dict[str, dict[str, Part]]:
    """Parts by variant, and within it by network: what is compared with what."""
    found: dict[str, dict[str, Part]] = {}
    for part in parts.values():
        found.setdefault(part.variant, {})[part.of] = part
    return {name: dict(sorted(of.items(), key=lambda pair: ORDER.index(pair[0]))) for name, of in found.items()}


ORDER = ("model", "baseline", "other")
