"""Figures of maximised coordinates: visualisations, maximisers beside data, regularised ones, and manipulations."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from workers.engine.statistics import derangement
from workers.figures.claims import Claim, Values, claim
from workers.figures.families import Drawn, Family, _pictures, _wrap
from workers.figures.layout import Block, Row
from workers.figures.parts import Array, Part, Parts, Result, independent, variants


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
        if len(part.results) > 1:
            seen = [r.metrics["judge_prediction"] for r in part.results]
            predicted = [r.metrics["prediction"] for r in part.results]
            pairs = enumerate(derangement(len(seen), seed=0))
            null[label] = independent(part.results, np.array([float(seen[i] == predicted[j]) for i, j in pairs]))
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
        change = {key: r.tensors["judge_image"] - r.tensors["judge_start"] for key, r in cells.items()}
        values[label] = np.array([_own_minus_other(change, column) for column in sorted(columns)])
    quantity = "consistency across starts, same coordinate minus others (cosine)"
    return [claim(quantity, values, "higher", mean=True)] if values else []


def _own_minus_other(change: Mapping[tuple[int, int], Array], column: int) -> float:
    own: list[float] = []
    other: list[float] = []
    for (row, at), mine in change.items():
        if at != column:
            continue
        for (row_2, at_2), theirs in change.items():
            if row_2 != row:
                (own if at_2 == column else other).append(_cosines(mine[None], theirs[None])[0])
    return float(np.mean(own) - np.mean(other)) if own and other else 0.0


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
        return _pictures(title, blocks, [*recognition(parts), *consistency(parts), *_moved(parts)])

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
    return _pictures(title, blocks, claims)


def _against(r: Result, name: str) -> tuple[Array, Array]:
    others = r.tensors[name]
    return np.broadcast_to(r.tensors["judge_image"], others.shape), others


NAMES = {
    "plain": "no regularization",
    "regularized": "jitter, rotation",
    "fourier": "jitter, rotation,\nFourier, decorrelated",
}


def regularized(title: str, parts: Parts) -> Drawn:
    """Figure 10: each coordinate under each way of maximising it."""
    blocks = []
    ordered = sorted(parts.values(), key=lambda part: (part.of != "baseline", list(NAMES).index(part.variant)))
    for of in ("baseline", "model"):
        mine = [part for part in ordered if part.of == of]
        rows = [
            Row(
                NAMES[part.variant],
                [r.image for r in part.results[:9]],
                [r.metrics["prediction"] for r in part.results[:9]],
            )
            for part in mine
        ]
        blocks.append(Block(mine[0].network, rows, [r.target["label"] for r in mine[0].results[:9]]))
    claims = recognition(variants(parts)["plain"], ", no regularization")
    for variant in ("regularized", "fourier"):
        compared = {"model": parts["model/plain"], "baseline": parts[f"baseline/{variant}"]}
        claims += recognition(compared, f", robust without against standard with {NAMES[variant]}".replace("\n", " "))
    return _pictures(title, blocks, claims)


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
        blocks.append(Block(_wrap(part.network).replace("\n", " "), rows))
    reached = {label: _reached(part) for label, part in parts.items()}
    both = np.logical_and.reduce(list(reached.values()))
    claims = []
    for quantity, name in {"steps until the feature shows": "steps_taken", "pixel L2 moved": "pixel_l2_moved"}.items():
        if both.any():
            of_both = {label: _where(both, part, part.metric(name)) for label, part in parts.items()}
            claims.append(claim(f"{quantity}, where both networks reached it", of_both, "higher"))
    shares = {label: independent(part.results, reached[label].astype(float)) for label, part in parts.items()}
    claims.append(claim("feature reached", shares, mean=True))
    if all(part.judged for part in parts.values()):
        seen = {label: independent(part.results, _judged_change(part)) for label, part in parts.items()}
        claims.append(claim("change in the judge's representation, relative", seen, "higher"))
    return _pictures(title, blocks, claims)


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
