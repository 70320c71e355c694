"""What an independent classifier sees in the results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from service.studies import StudyParameters
from workers.engine.models import Network
from workers.runtime import Runtime


class Seen(NamedTuple):
    """What the judge sees in images: the class of each and its probability; its representations [N, K]."""

    classes: list[str]
    confidences: list[float]
    representation: Tensor


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
    def sees(self, x_NCHW: Tensor) -> Seen:
        """In one pass: classifying is reading the representation."""
        r = self.network.represent(x_NCHW)
        top = self.network.classify(r).softmax(dim=1).max(dim=1)
        return Seen([self.classes[i] for i in top.indices.tolist()], top.values.tolist(), r)

    @torch.no_grad()
    def represent(self, x_NCHW: Tensor) -> Tensor:
        return self.network.represent(x_NCHW)


def verdicts(
    judge: Judge | None, in_result: Seen | None, target_NCHW: Tensor, labels: Sequence[str | None]
) -> list[dict[str, Any]]:
    """Whether the judge gives a result the target's class: its label, or else what the judge sees in the target.

    A label that is none of the judge's classes tells nothing, so there too its own view of the target counts.
    """
    if judge is None or in_result is None:
        return [{"judge": None, "target_class": label} for label in labels]
    labels = [label if label in judge.classes else None for label in labels]
    in_target = labels if all(labels) else judge.sees(target_NCHW).classes
    return [
        {
            "judge": judge.name,
            "target_class": label or of_target,
            "target_class_from": "label" if label else "judge",
            "judge_prediction": of_result,
            "judge_confidence": confidence,
            "judge_agrees": of_result == (label or of_target),
        }
        for label, of_result, confidence, of_target in zip(
            labels, in_result.classes, in_result.confidences, in_target, strict=True
        )
    ]


def judged(**seen: Seen | None) -> dict[str, Tensor]:
    """The judge's representations of each set of images, to be stored under `judge_` and its name."""
    return {f"judge_{name}": each.representation for name, each in seen.items() if each is not None}


def columns(**of_N: Tensor) -> list[dict[str, Any]]:
    """Quantities [N] by name, as one dictionary an item."""
    table = torch.stack([column.double().cpu() for column in of_N.values()], dim=1)
    return [dict(zip(of_N, row, strict=True)) for row in table.tolist()]
