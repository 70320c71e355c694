"""What an independent classifier sees in the results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.studies import StudyParameters
from workers.engine.models import Network
from workers.runtime import Runtime


@dataclass(frozen=True)
class Judge:
    """An independent classifier and its class names."""

    name: str
    network: Network
    classes: Sequence[str]

    @staticmethod
    def load(runtime: Runtime, p: StudyParameters) -> "Judge | None":
        """The network that the job names, if it names one. Raises Hopeless."""
        if p.judge is None or p.judge_digest is None:
            return None
        return Judge(p.judge, runtime.models.get(p.judge, p.judge_digest), runtime.catalog.models[p.judge].classes)

    @torch.no_grad()
    def sees(self, x_NCHW: Tensor) -> tuple[list[str], list[float]]:
        """The class of each image and its probability."""
        top = self.network(x_NCHW).softmax(dim=1).max(dim=1)
        return [self.classes[i] for i in top.indices.tolist()], top.values.tolist()

    @torch.no_grad()
    def represent(self, x_NCHW: Tensor) -> Tensor:
        return self.network.represent(x_NCHW)


def verdicts(
    judge: Judge | None, x_NCHW: Tensor, target_NCHW: Tensor, labels: Sequence[str | None]
) -> list[dict[str, Any]]:
    """Whether the judge gives a result the target's class: its label, or else what the judge sees in the target.

    A label that is none of the judge's classes tells nothing, so there too its own view of the target counts.
    """
    if judge is None:
        return [{"judge": None, "target_class": label} for label in labels]
    labels = [label if label in judge.classes else None for label in labels]
    in_target = labels if all(labels) else judge.sees(target_NCHW)[0]
    return [
        {
            "judge": judge.name,
            "target_class": label or of_target,
            "target_class_from": "label" if label else "judge",
            "judge_prediction": of_result,
            "judge_confidence": confidence,
            "judge_agrees": of_result == (label or of_target),
        }
        for label, of_result, confidence, of_target in zip(labels, *judge.sees(x_NCHW), in_target, strict=True)
    ]


def judged(judge: Judge | None, **images_NCHW: Tensor) -> dict[str, Tensor]:
    """The judge's representations of each set of images, to be stored under `judge_` and its name."""
    return {} if judge is None else {f"judge_{name}": judge.represent(x) for name, x in images_NCHW.items()}


def columns(**of_N: Tensor) -> list[dict[str, Any]]:
    """Quantities [N] by name, as one dictionary an item."""
    table = torch.stack([column.double().cpu() for column in of_N.values()], dim=1)
    return [dict(zip(of_N, row, strict=True)) for row in table.tolist()]
