"""Feature visualisation (paper, equation 5) and feature manipulation (section 4.2.1): directions of R maximised."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from workers.engine import metrics, objectives
from workers.engine.objectives import Reached
from workers.recipes.judging import columns, judged
from workers.recipes.sources import fitted, stack
from workers.recipes.study import Batch, Measures, Problem, Study

CHUNK = 256
"""Images of a data set that go through the network at once."""


def prepare(study: Study, batch: Batch) -> Problem:
    """Aim along each item's direction, until it shows if the job says how to tell."""
    with torch.no_grad():
        weights = torch.zeros_like(study.function(batch.pictures["start"]))
    for row, item in zip(weights, batch.items, strict=True):
        for coordinate, weight in item.target["terms"]:
            row[coordinate] += weight

    one, p = torch.ones_like(weights[:, 0]), study.p
    stop_loss = -one * p.threshold if p.until == "threshold" and p.threshold is not None else None
    measure = partial(_measure, study, weights)
    return Problem(weights, False, one, -one, measure, stop_loss, exceeds=p.until == "exceeds_all")


def _reached(until: str | None, threshold: float | None, weights_NK: Tensor) -> Reached | None:
    """What the job calls the feature's showing, if it stops there."""
    if until == "exceeds_all":
        return objectives.exceeds_all(weights_NK.argmax(dim=1))
    if until == "threshold" and threshold is not None:
        return objectives.at_least(weights_NK, threshold)
    return None


@torch.no_grad()
def _measure(study: Study, every: Tensor, chosen: Tensor, x: Tensor, start: Tensor) -> Measures:
    weights = every[chosen]
    r = study.function(x)
    rows = columns(
        activation=(weights * r).sum(dim=1),
        start_activation=(weights * study.function(start)).sum(dim=1),
        pixel_l2_moved=metrics.pixel_l2(x, start),
    )
    classes = study.ctx.runtime.catalog.models[study.p.model].classes
    predicted = study.network(x).softmax(dim=1).max(dim=1)
    for row, i, confidence in zip(rows, predicted.indices.tolist(), predicted.values.tolist(), strict=True):
        row |= {"prediction": classes[i], "prediction_confidence": confidence}
    if reached := _reached(study.p.until, study.p.threshold, weights):
        for row, shows in zip(rows, reached(r).tolist(), strict=True):
            row["reached"] = shows
    tensors = {"image": x, "start": start, "representation": r, "weights": weights}
    if judge := study.judge:
        in_x, in_start = judge.sees(x), judge.sees(start)
        for row, seen, confidence, before in zip(rows, in_x.classes, in_x.confidences, in_start.classes, strict=True):
            row |= {"judge": judge.name, "judge_prediction": seen, "judge_confidence": confidence,
                    "judge_start_prediction": before, "judge_agrees": seen == row["prediction"]}  # fmt: skip
        tensors |= judged(image=in_x, start=in_start)
    if study.p.top_images:
        tensors |= _extremes(study, weights, rows)
    return rows, tensors


def _extremes(study: Study, weights: Tensor, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The data set's images that activate each direction most and least, nearest the extreme first: [N, k, ...]."""
    top = study.p.top_images
    assert top is not None
    dataset = study.ctx.runtime.catalog.datasets[top.dataset]
    size = study.ctx.runtime.catalog.models[study.p.model].input_size

    def images(indices: Iterable[int]) -> Tensor:
        with study.ctx.turns.away():  # the device does not wait for a download
            read = [fitted(dataset.image(i), size, study.p) for i in indices]
        return stack(read, study.device)

    chunks = []
    for begin in range(0, dataset.card.size, CHUNK):
        chunks.append(study.function(images(range(begin, min(begin + CHUNK, dataset.card.size)))) @ weights.T)
        study.ctx.alive()
    scores = torch.cat(chunks)
    tensors = {}
    for name, largest in (("top", True), ("bottom", False)):
        best = scores.topk(top.k, dim=0, largest=largest)
        tensors[name] = images(best.indices.T.flatten().tolist()).unflatten(0, (-1, top.k))  # type: ignore[no-untyped-call]
        if study.judge:
            seen = study.judge.represent(tensors[name].flatten(0, 1))
            tensors[f"judge_{name}"] = seen.view(len(rows), top.k, -1)
        for row, indices, values in zip(rows, best.indices.T.tolist(), best.values.T.tolist(), strict=True):
            row |= {f"{name}_indices": indices, f"{name}_activations": values}
    return tensors
