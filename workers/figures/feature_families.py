"""Figures of maximised coordinates: visualisations, maximisers beside data, regularised ones, and manipulations."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from workers.figures.claims import Claim, Values, claim
from workers.figures.families import Drawn, Family, drawn
from workers.figures.layout import Block, Row
from workers.figures.parts import Array, Part, Parts, Result, independent, strangers, variants


def _cells(part: Part) -> dict[tuple[int, int], Result]:
    """Results by row (start) and column (direction)."""
    return {(r.settings["row"], r.settings["column"]): r for r in part.results}


def _cosines(a: Array, b: Array) -> Values:
    """Cosine similarity of rows, [N]."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, 1e-12), dtype=float)


def recognition(parts: Mapping[str, Part], where: str = "") -> list[Claim]:
    """Whether the judge sees in a maximiser the class that the network itself predicts for it."""
    parts = {label: part for label, part in parts.items() if part.judged}
    if not parts:
        return []
    agreed = {label: independent(part.results, part.metric("judge_agrees")) for label, part in parts.items()}
    null = {}
    for label, part in parts.items():
        if (other := strangers(part.results, lambda r, s: r.target == s.target)) is not None:
            seen = [r.metrics["judge_prediction"] for r in part.results]
            predicted = [part.results[i].metrics["prediction"] for i in other]
            chance = np.array([float(a == b) for a, b in zip(seen, predicted, strict=True)])
            null[label] = independent(part.results, chance)
    return [claim(f"judge sees the network's own prediction{where}", agreed, "higher", null, mean=True)]


def consistency(parts: Mapping[str, Part]) -> list[Claim]:
    """Whether a coordinate comes out the same from every start: cosines, in the judge's representation, of what the
    searches changed, within a coordinate minus across coordinates."""
    values = {}
    for label, part in parts.items():
        cells = _cells(part)
        rows, columns = ({key[axis] for key in cells} for axis in (0, 1))
        if len(rows) < 2 or len(columns) < 2 or not part.judged:
            continue
        change = np.stack([r.tensors["judge_image"] - r.tensors["judge_start"] for r in cells.values()])
        change /= np.maximum(np.linalg.norm(change, axis=1, keepdims=True), 1e-12)
        at = np.array(list(cells))
        elsewhere = at[:, None, 0] != at[None, :, 0]
        same = at[:, None, 1] == at[None, :, 1]
        cosine = change @ change.T
        own, other = (_means(cosine, elsewhere & mask, at[:, 1]) for mask in (same, ~same))
        values[label] = own - other
    quantity = "consistency across starts, same coordinate minus others (cosine)"
    return [claim(quantity, values, "higher", mean=True)] if values else []


def _means(values_NN: Array, mask_NN: NDArray[np.bool_], column_N: Array) -> Values:
    """The mean of the marked values in the rows of each column, [columns]."""
    rows = [column_N == column for column in np.unique(column_N)]
    return np.array([values_NN[row][mask_NN[row]].mean() if mask_NN[row].any() else 0.0 for row in rows])


def visualizations(show: Sequence[str]) -> Family:
    """Starts down the side, coordinates across, the network's prediction under each."""

    def draw(title: str, parts: Parts) -> Drawn:
        blocks = []
        for part in parts.values():
            if part.of not in show:
                continue
            cells = _cells(part)
            columns = sorted({column for _, column in cells})[:9]
            rows = []
            for row in sorted({row for row, _ in cells})[:8]:
                of = [cells.get((row, column)) for column in columns]
                start = next(r.tensors["start"] for r in of if r)
                captions = [r.metrics["prediction"] if r else "" for r in of]
                rows.append(Row("", [start, *(r.image if r else None for r in of)], ["", *captions]))
            heads = [next(r.target["label"] for (_, c), r in cells.items() if c == column) for column in columns]
            blocks.append(Block(part.network, rows, ["start", *heads]))
        return drawn(title, blocks, [*recognition(parts), *consistency(parts), *_moved(parts)])

    return draw


def _moved(parts: Parts) -> list[Claim]:
    return [
        claim(
            "pixel L2 moved",
            {label: independent(part.results, part.metric("pixel_l2_moved")) for label, part in parts.items()},
        )
    ]


def maximizers(title: str, parts: Parts) -> Drawn:
    """Figure 8: the gray-start maximiser, then the most and the least activating images of the data set."""
    blocks, near, far = [], dict[str, Values](), dict[str, Values]()
    for label, part in parts.items():
        rows = []
        for r in part.results[:6]:
            top, bottom = list(r.tensors["top"]), list(r.tensors["bottom"])
            shown = [f"{a:.2f}" for a in (*r.metrics["top_activations"], *r.metrics["bottom_activations"])]
            own = f"{r.metrics['activation']:.2f}"
            images = [r.image, None, *top, None, *bottom]
            captions = [own, "", *shown[: len(top)], "", *shown[len(top) :]]
            rows.append(Row(r.target["label"], images, captions))
        k = len(part.results[0].tensors["top"])
        heads = ["maximiser", "", *["most"] * k, "", *["least"] * k]
        blocks.append(Block(part.network, rows, heads))
        if part.judged:
            for name, into in (("judge_top", near), ("judge_bottom", far)):
                into[label] = np.array([_cosines(*_against(r, name)).mean() for r in part.results])
    claims = recognition(parts)
    if near:
        gaps = {label: near[label] - far[label] for label in near}
        title_of = "likeness to most minus least activating images (cosine in the judge's representation)"
        claims.append(claim(title_of, gaps, "higher"))
    return drawn(title, blocks, claims)


def _against(r: Result, name: str) -> tuple[Array, Array]:
    others = r.tensors[name]
    return np.broadcast_to(r.tensors["judge_image"], others.shape), others


ORDER = ("plain", "regularized", "fourier")


def _ways(part: Part) -> str:
    """How a part's search was regularised, in words."""
    rule = part.parameters.get("regularization")
    if rule is None:
        return "no regularization"
    lengths = {"jitter": max(rule["jitter"], rule["final_jitter"]), "scale": rule["scale"], "rotation": rule["rotate"]}
    words = [name for name, size in lengths.items() if size]
    words += ["Fourier"] if rule["parametrization"] == "fourier" else []
    return ", ".join([*words, *(["decorrelated"] if rule["decorrelate"] else [])]) or "Adam alone"


def regularized(title: str, parts: Parts) -> Drawn:
    """Figure 10: each coordinate under each way of maximising it."""
    blocks = []
    ordered = sorted(parts.values(), key=lambda part: (part.of != "baseline", ORDER.index(part.variant)))
    for of in ("baseline", "model"):
        mine = [part for part in ordered if part.of == of]
        rows = [
            Row(
                textwrap.fill(_ways(part), 22),
                [r.image for r in part.results[:9]],
                [r.metrics["prediction"] for r in part.results[:9]],
            )
            for part in mine
        ]
        blocks.append(Block(mine[0].network, rows, [r.target["label"] for r in mine[0].results[:9]]))
    claims = recognition(variants(parts)["plain"], ", no regularization")
    for variant in ORDER[1:]:
        if (part := parts.get(f"baseline/{variant}")) is not None:
            compared = {"model": parts["model/plain"], "baseline": part}
            claims += recognition(compared, f", robust without against standard with {_ways(part)}")
    return drawn(title, blocks, claims)


def manipulations(title: str, parts: Parts) -> Drawn:
    """Images above, the same images with a feature added below, for each feature and network."""
    blocks = []
    for part in parts.values():
        cells = _cells(part)
        rows = []
        for column in sorted({column for _, column in cells})[:4]:
            of = [r for (_, c), r in sorted(cells.items()) if c == column][:10]
            rows.append(Row("", [r.tensors["start"] for r in of]))
            rows.append(Row(f"+ {of[0].target['label']}", [r.image for r in of], [_steps(r) for r in of]))
        blocks.append(Block(part.network, rows))
    reached = {label: _reached(part) for label, part in parts.items()}
    both = np.logical_and.reduce(list(reached.values()))
    claims = []
    for quantity, name in {"steps until the feature shows": "steps_taken", "pixel L2 moved": "pixel_l2_moved"}.items():
        if both.any():
            of_both = {label: _where(both, part, part.metric(name)) for label, part in parts.items()}
            claims.append(claim(f"{quantity}, where both reached it", of_both, "higher"))
    shares = {label: independent(part.results, reached[label].astype(float)) for label, part in parts.items()}
    claims.append(claim("feature reached", shares, mean=True))
    if both.any() and all(part.judged for part in parts.values()):
        seen = {label: _where(both, part, _judged_change(part)) for label, part in parts.items()}
        claims.append(claim("relative change in the judge's representation, where both reached it", seen, "higher"))
    return drawn(title, blocks, claims)


def _where(mask_N: NDArray[np.bool_], part: Part, values_N: Values) -> Values:
    kept = [r for r, keep in zip(part.results, mask_N, strict=True) if keep]
    return independent(kept, values_N[mask_N])


def _reached(part: Part) -> NDArray[np.bool_]:
    return np.array([bool(r.metrics.get("reached", True)) for r in part.results])


def _steps(r: Result) -> str:
    return f"{r.metrics['steps_taken']} steps" if r.metrics.get("reached", True) else "not reached"


def _judged_change(part: Part) -> Values:
    start = part.tensor("judge_start")
    moved = np.linalg.norm(part.tensor("judge_image") - start, axis=1)
    return np.asarray(moved / np.maximum(np.linalg.norm(start, axis=1), 1e-12), dtype=float)
