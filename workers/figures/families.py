"""From a recipe's studies to its figure and its claims, one function for each family of the paper's figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from workers.engine import metrics
from workers.engine.statistics import mean_gap, straightness
from workers.figures import layout
from workers.figures.claims import Claim, Values, claim
from workers.figures.layout import Block, Curve, Row
from workers.figures.parts import Array, Part, Parts, Result, independent, strangers, variants

MOST_COLUMNS = 10
"""Pictures across a figure; its numbers count every item."""


@dataclass(frozen=True)
class Drawn:
    """A figure still to be given its notes, and its claims."""

    figure: Callable[[Sequence[str]], Figure]
    claims: list[Claim]


Family = Callable[[str, Parts], Drawn]


def drawn(title: str, blocks: Sequence[Block], claims: list[Claim]) -> Drawn:
    return Drawn(lambda notes: layout.pictures(title, blocks, notes), claims)


def _ssim(a: Array, b: Array) -> Values:
    return metrics.ssim(torch.from_numpy(a), torch.from_numpy(b)).double().numpy()


def _distance(r: Array, t: Array) -> Values:
    return metrics.relative_distance(torch.from_numpy(r), torch.from_numpy(t)).double().numpy()


def _seen_before(r: Result, other: Result) -> bool:
    """Whether the other's target is this one's, or the image that this one started from."""
    return other.target in (r.target, r.start)


def inversion_claims(parts: Mapping[str, Part], where: str) -> list[Claim]:
    """Distance, SSIM and the judge's agreement for each network, against results paired with other items' targets."""
    names = {"relative distance": "relative_distance", "SSIM": "ssim", "pixel L2": "pixel_l2"}
    of = {quantity: {label: part.metric(key) for label, part in parts.items()} for quantity, key in names.items()}
    null: dict[str, dict[str, Values]] = {quantity: {} for quantity in (*names, "judge")}
    for label, part in parts.items():
        if (other := strangers(part.results, _seen_before)) is not None:
            for quantity, values in _by_chance(part, other).items():
                null[quantity][label] = values
    claims = [
        claim(f"relative distance{where}", of["relative distance"], null=null["relative distance"]),
        claim(f"SSIM with the target{where}", of["SSIM"], "higher", null["SSIM"]),
        claim(f"pixel L2 to the target{where}", of["pixel L2"], "lower", null["pixel L2"]),
    ]
    if agreement := {label: part.metric("judge_agrees") for label, part in parts.items() if part.judged}:
        claims.append(claim(f"judge sees the target's class{where}", agreement, "higher", null["judge"], mean=True))
    return claims


def _by_chance(part: Part, other: Array) -> dict[str, Values]:
    """The same quantities of each result with another item's target."""
    images, targets = part.tensor("image"), part.tensor("target")[other]
    found = {
        "SSIM": _ssim(images, targets),
        "pixel L2": np.sqrt(((images - targets) ** 2).sum(axis=(1, 2, 3))).astype(float),
        "relative distance": _distance(part.tensor("representation"), part.tensor("target_representation")[other]),
    }
    if part.judged:
        classes = [part.results[i].metrics["target_class"] for i in other]
        seen = [r.metrics["judge_prediction"] for r in part.results]
        found["judge"] = np.array([float(a == b) for a, b in zip(seen, classes, strict=True)])
    return found


def inversions(show: Sequence[str], source: bool = True, most: int = MOST_COLUMNS) -> Family:
    """Targets, where the searches started, and the inverses of the networks in `show`, of the first `most` items."""

    def draw(title: str, parts: Parts) -> Drawn:
        blocks, claims = [], list[Claim]()
        for variant, of in variants(parts).items():
            count = min(most, len(next(iter(of.values())).results))
            width = -(-count // -(-count // MOST_COLUMNS))
            for begin in range(0, count, width):
                shown = slice(begin, min(begin + width, count))
                blocks.append(_inverses("" if begin else variant, of, show, source, shown))
            claims += inversion_claims(of, f", {variant}" if variant else "")
        return drawn(title, blocks, claims)

    return draw


def _inverses(title: str, of: Mapping[str, Part], show: Sequence[str], source: bool, shown: slice) -> Block:
    """Some columns of a figure of inverses, with what the judge takes each result for."""
    first = next(iter(of.values())).results[shown]
    rows = [Row("target", [r.tensors["target"] for r in first])]
    rows += [Row("start", [r.tensors["start"] for r in first])] if source else []
    for part in (part for name, part in of.items() if name in show):
        seen = [str(r.metrics.get("judge_prediction", "")) for r in part.results[shown]]
        rows.append(Row(layout.two_lines(part.network), [r.image for r in part.results[shown]], seen))
    return Block(title, rows, [str(r.target["label"] or r.target.get("pattern", "")) for r in first])


def sweep_curves(title: str, parts: Parts) -> Drawn:
    """Figure 4: the relative distance reached within each radius."""
    radii = np.array(next(iter(parts.values())).parameters["radii"], dtype=float)
    tables = {part.of: _table(part, radii) for part in parts.values()}
    lines = [
        Curve(parts[label].network, layout.COLOURS[label], *np.quantile(table, (0.5, 0.25, 0.75), axis=0))
        for label, table in tables.items()
    ]
    claims = []
    if len(radii) > 1:
        under = {label: mean_gap(radii, table, np.zeros_like(table)) for label, table in tables.items()}
        claims.append(claim("area under the curve, a unit of log radius", under, "higher", mean=True))
    for i in range(len(radii)):
        at = {label: table[:, i] for label, table in tables.items()}
        claims.append(claim(f"relative distance within radius {radii[i]:g}", at, "higher"))
    words = {"x": "L2 radius around the start, pixels in [0, 1]", "y": "||R(x) - R(target)|| / ||R(target)||"}
    return Drawn(lambda notes: layout.curves(title, radii, lines, notes, words), claims)


def _table(part: Part, radii: Array) -> Values:
    """Relative distance by pair and radius, [N, R], of the pairs that are whole."""
    pairs: dict[int, dict[float, float]] = {}
    for r in part.results:
        pairs.setdefault(r.settings["pair"], {})[r.settings["eps"]] = r.metrics["relative_distance"]
    whole = [[of[radius] for radius in radii] for _, of in sorted(pairs.items()) if len(of) == len(radii)]
    if not whole:
        raise ValueError(f"no pair of {part.label} has a result at every radius")
    return np.array(whole)


def sweep_images(title: str, parts: Parts) -> Drawn:
    """Figure 5: the images behind figure 4, one row a pair and network."""
    blocks = []
    radii = next(iter(parts.values())).parameters["radii"]
    for part in parts.values():
        rows = []
        for pair in sorted({r.settings["pair"] for r in part.results})[:4]:
            of = [r for r in part.results if r.settings["pair"] == pair]
            images = [of[0].tensors["start"], *(r.image for r in of), of[0].tensors["target"]]
            distances = [f"{r.metrics['relative_distance']:.2f}" for r in of]
            rows.append(Row("", images, ["", *distances, ""]))
        blocks.append(Block(part.network, rows, ["start", *(f"radius {r:g}" for r in radii), "target"]))
    return drawn(title, blocks, sweep_curves(title, parts).claims)


def interpolations(show: Sequence[str]) -> Family:
    """Paths between pairs: in pixels, and through the representations of the networks in `show`."""

    def draw(title: str, parts: Parts) -> Drawn:
        first = next(iter(parts.values()))
        blocks = []
        for pair in sorted({r.settings["pair"] for r in first.results})[:4]:
            shown = _spread(_path(first, pair))
            rows = [Row("pixels", [r.tensors["target"] for r in shown])]
            for part in (part for label, part in parts.items() if label in show):
                rows.append(Row(layout.two_lines(part.network), [r.image for r in _spread(_path(part, pair))]))
            blocks.append(Block("", rows, [f"{r.settings['lambda']:.2f}" for r in shown]))
        return drawn(title, blocks, path_claims(parts))

    return draw


def _spread(path: list[Result]) -> list[Result]:
    """At most 11 of a path, both ends among them."""
    return [path[i] for i in np.unique(np.linspace(0, len(path) - 1, 11).round().astype(int))]


def _path(part: Part, pair: int) -> list[Result]:
    """A pair's results from the second image to the first."""
    return sorted((r for r in part.results if r.settings["pair"] == pair), key=lambda r: float(r.settings["lambda"]))


def path_claims(parts: Parts) -> list[Claim]:
    """Ghosting and, to the judge, sureness inside the paths and their straightness; also of the pixel blend."""
    first = next(iter(parts.values()))
    inside = {name: [r for r in part.results if 0 < r.settings["lambda"] < 1] for name, part in parts.items()}
    if not all(inside.values()):
        return []

    def within(key: str, blend: str) -> dict[str, Values]:
        mine = inside[first.label]
        found = {label: independent(rs, np.array([float(r.metrics[key]) for r in rs])) for label, rs in inside.items()}
        return found | {"pixels": independent(mine, np.array([float(r.metrics[blend]) for r in mine]))}

    quantities = [("ghosting inside the path", within("ghosting", "blend_ghosting"), "lower")]
    if all(part.judged for part in parts.values()):
        sure = within("judge_confidence", "blend_judge_confidence")
        pairs = sorted({r.settings["pair"] for r in first.results})
        lines = {label: [_path(part, pair) for pair in pairs] for label, part in parts.items()}
        smooth = {label: _straight(paths, "judge_image") for label, paths in lines.items()}
        smooth["pixels"] = _straight(lines[first.label], "judge_blend")
        quantities.append(("the judge's confidence inside the path", sure, "higher"))
        quantities.append(("smoothness of the path in the judge's representation", smooth, "higher"))
    return [c for quantity in quantities for c in _against_both(*quantity)]


def _against_both(quantity: str, of: dict[str, Values], better: Any) -> list[Claim]:
    """Against the other network, and against the pixel path."""
    pixels = {name: of[name] for name in ("model", "pixels")}
    networks = {name: values for name, values in of.items() if name != "pixels"}
    return [claim(quantity, networks, better), claim(f"{quantity}, against pixels", pixels, better, against="pixels")]


def _straight(paths: list[list[Result]], name: str) -> Values:
    return np.array([float(straightness(np.stack([r.tensors[name] for r in path]))) for path in paths if len(path) > 1])


def numbers(parts: Parts) -> list[dict[str, Any]]:
    """A flat row for every item: which part and item, then its settings and metrics."""
    return [
        {"part": part.label, "network": part.network, "target": r.target.get("label"), "start": r.start["source"]}
        | dict(r.settings)
        | {name: value for name, value in r.metrics.items() if not isinstance(value, list)}
        for part in parts.values()
        for r in part.results
    ]
