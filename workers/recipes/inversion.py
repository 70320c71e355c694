"""Inversion (paper, equations 1 and 4), alone or within each radius of a sweep (figure 4)."""

import torch
from torch import Tensor

from workers.engine import metrics
from workers.engine.constraints import FLOOR
from workers.recipes.judging import columns, judged, verdicts
from workers.recipes.study import Batch, Measure, Measures, Problem, Study


def prepare(study: Study, batch: Batch) -> Problem:
    """Aim at the representation of each item's target image."""
    image = batch.pictures["target"]
    with torch.no_grad():
        t = study.function(image)

    @torch.no_grad()
    def measure(chosen: Tensor, x: Tensor, start: Tensor) -> Measures:
        aim, target = t[chosen], image[chosen]
        r, near = nearness(study, x, start, aim, target)
        tensors = {"image": x, "start": start, "target": target, "representation": r, "target_representation": aim}
        seen = study.judge.sees(x) if study.judge else None
        told = verdicts(study.judge, seen, target, [batch.items[i].target["label"] for i in chosen.tolist()])
        rows = [row | verdict for row, verdict in zip(columns(**near), told, strict=True)]
        return rows, tensors | judged(image=seen)

    return distance_problem(study, t, measure)


def nearness(study: Study, x: Tensor, start: Tensor, t: Tensor, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """R(x), and how near x and `start` come to `t` in representation and to `image` in pixels, [N] by metric."""
    r = study.function(x)
    return r, {
        "relative_distance": metrics.relative_distance(r, t),
        "start_relative_distance": metrics.relative_distance(study.function(start), t),
        "pixel_l2": metrics.pixel_l2(x, image),
        "pixel_l2_moved": metrics.pixel_l2(x, start),
        "ssim": metrics.ssim(x, image),
    }


def distance_problem(study: Study, t_NK: Tensor, measure: Measure) -> Problem:
    """Descend ||R - t||, over ||t|| if the job's loss is relative; curves show it over ||t||."""
    length, one = t_NK.norm(dim=1) + FLOOR, torch.ones_like(t_NK[:, 0])
    scale, shown = (length, one) if study.p.loss == "relative_distance" else (one, length)
    stop = study.p.stop_distance
    return Problem(t_NK, True, scale, shown, measure, None if stop is None else stop * shown)
