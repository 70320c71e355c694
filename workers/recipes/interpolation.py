"""Interpolation through the representation (paper, equation 6), beside the blend of the same two images in pixels."""

import torch
from torch import Tensor

from workers.engine import metrics
from workers.recipes.inversion import distance_problem, nearness
from workers.recipes.judging import columns, judged
from workers.recipes.study import Batch, Measures, Problem, Study


def prepare(study: Study, batch: Batch) -> Problem:
    """Aim at lambda R(x1) + (1 - lambda) R(x2)."""
    blend, *ends = (batch.pictures[name] for name in ("target", "first", "second"))
    weight = torch.tensor([float(item.target["lambda"]) for item in batch.items], device=study.device)[:, None]
    with torch.no_grad():
        t = weight * study.function(ends[0]) + (1 - weight) * study.function(ends[1])

    @torch.no_grad()
    def measure(chosen: Tensor, x: Tensor, start: Tensor) -> Measures:
        aim, pixels, pair = t[chosen], blend[chosen], [end[chosen] for end in ends]
        r, near = nearness(study, x, start, aim, pixels)
        ghosting, blend_ghosting = metrics.ghosting(x, *pair), metrics.ghosting(pixels, *pair)
        rows = columns(**near, ghosting=ghosting, blend_ghosting=blend_ghosting)
        tensors = {"image": x, "start": start, "target": pixels, "representation": r, "target_representation": aim}
        if judge := study.judge:
            in_x, in_blend = judge.sees(x), judge.sees(pixels)
            for row, seen, confidence, of_blend in zip(
                rows, in_x.classes, in_x.confidences, in_blend.confidences, strict=True
            ):
                row |= {"judge": judge.name, "judge_prediction": seen, "judge_confidence": confidence,
                        "blend_judge_confidence": of_blend}  # fmt: skip
            tensors |= judged(image=in_x, blend=in_blend)
        return rows, tensors

    return distance_problem(study, t, measure)
