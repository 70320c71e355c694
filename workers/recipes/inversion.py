"""Inversion (paper, equations 1 and 4), alone or within each radius of a sweep (figure 4)."""

import torch
from torch import Tensor

from workers.engine import metrics, objectives
from workers.engine.constraints import FLOOR
from workers.engine.objectives import Objective
from workers.recipes.judging import columns, judged, verdicts
from workers.recipes.study import Batch, Measure, Measures, Problem, Study


def prepare(study: Study, batch: Batch) -> Problem:
    """Aim at the representation of each item's target image."""
    image = batch.pictures["target"]
    with torch.no_grad():
        t = study.function(image)

    @torch.no_grad()
    def measure(x: Tensor, start: Tensor) -> Measures:
        r, near = nearness(study, x, start, t, image)
        rows = columns(**near)
        tensors = {"image": x, "start": start, "target": image, "representation": r, "target_representation": t}
        seen = verdicts(study.judge, x, image, [item.target["label"] for item in batch.items])
        return [row | verdict for row, verdict in zip(rows, seen, strict=True)], tensors | judged(study.judge, image=x)

    return distance_problem(t, study.p.loss == "relative_distance", study.p.restarts, measure)


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


def distance_problem(t_NK: Tensor, relative: bool, restarts: int, measure: Measure) -> Problem:
    """Descend ||R - t||; curves show it over ||t||."""
    scale = torch.ones_like(t_NK[:, 0]) if relative else t_NK.norm(dim=1) + FLOOR
    scales = {len(t_NK): scale, len(t_NK) * restarts: scale.repeat_interleave(restarts)}

    def objective(rows_NK: Tensor) -> Objective:
        return objectives.inversion(rows_NK, relative)

    def progress(loss: Tensor) -> Tensor:
        return loss / scales[loss.shape[-1]]

    return Problem(t_NK, objective, progress, measure)
