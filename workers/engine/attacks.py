"""Attacks on a classifier: images near the given ones that it gets wrong (paper, equation 3)."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine import objectives
from workers.engine.apgd import apgd
from workers.engine.constraints import CONSTRAINTS, FLOOR, L2, Constraint
from workers.engine.objectives import Objective
from workers.engine.pgd import Function, Observer, pgd

KINDS = ("pgd", "apgd-ce", "apgd-t", "noise")
TARGETS = 9
"""apgd-t aims at so many classes, or at all others where they are fewer."""


@dataclass(frozen=True)
class Attack:
    """An attack within `eps` (pixel units) of an image; the worst of its restarts counts, each from a random start.

    pgd: `steps` steps of `step_size`, by default 2.5 eps / steps, down the log-odds of the label.
    apgd-ce: Auto-PGD on the same loss, which orders images as the cross-entropy does and does not vanish.
    apgd-t: Auto-PGD towards each of the 9 likeliest other classes in turn, by `toward`.
    noise: `steps` random starts and no gradient, the control that an attack by gradients should beat.
    Raises ValueError naming the field and what it allows.
    """

    kind: str
    norm: str
    eps: float
    steps: int
    restarts: int = 1
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.norm not in CONSTRAINTS:
            raise ValueError(
                f"kind is {self.kind!r} and norm {self.norm!r}; allowed: {', '.join(KINDS)}; {', '.join(CONSTRAINTS)}"
            )
        if not 0 < self.eps < float("inf") or self.steps < 1 or self.restarts < 1:
            raise ValueError(
                f"expected eps > 0, steps >= 1 and restarts >= 1, got {self.eps}, {self.steps} and {self.restarts}"
            )
        if self.step_size is not None and not (self.kind == "pgd" and 0 < self.step_size < float("inf")):
            raise ValueError(f"step_size is {self.step_size}; allowed: a number > 0, and for pgd alone")

    @property
    def name(self) -> str:
        """`pgd-20`, and `pgd-100x5` with 5 restarts."""
        return f"{self.kind}-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    def runs(self, classes: int) -> list[int]:
        """For each run of the search, which of the other classes, the likeliest first, it aims at where it aims."""
        starts = self.restarts * (self.steps if self.kind == "noise" else 1)
        return list(range(min(TARGETS, classes - 1) if self.kind == "apgd-t" else 1)) * starts

    def search(
        self, f: Function, x: Tensor, label: Tensor, target: Tensor, noise: Tensor, observe: Observer | None = None
    ) -> Tensor:
        """One run on images [N, C, H, W] of [0, 1], from standard normal `noise`: each one's iterate of least loss.

        `f` sees every iterate, the start and the end included. `target` [N] is the class that apgd-t aims at.
        """
        constraint = CONSTRAINTS[self.norm]
        start = constraint.random_start(x, self.eps, noise)
        if self.kind == "noise":
            with torch.no_grad():
                f(start)
            return start
        objective = toward(label, target) if self.kind == "apgd-t" else objectives.misclassification(label)
        if self.kind == "pgd":
            step_size = self.step_size or 2.5 * self.eps / self.steps
            return pgd(f, objective, start, x, self.eps, step_size, self.steps, True, observe, constraint)
        return apgd(f, objective, start, x, self.eps, self.steps, observe, constraint)


def parse(name: str, norm: str, eps: float, restarts: int = 1) -> Attack:
    """The attack of a name such as pgd-20 or pgd-100x5; apgd-ce and apgd-t alone take 100 steps.

    Raises ValueError for any other name.
    """
    match = re.fullmatch(rf"({'|'.join(KINDS)})(?:-(\d+))?(?:x(\d+))?", name)
    if match is None or (match[2] is None and not name.startswith("apgd")):
        raise ValueError(f"{name!r} is no attack; expected one like pgd-20, pgd-100x5, apgd-ce, apgd-t-100 or noise-10")
    return Attack(match[1], norm, eps, int(match[2] or 100), int(match[3] or restarts))


def controls(norm: str, eps: float) -> tuple[Attack, Attack]:
    """What exposes a network that hides its gradients: noise of the same radius, and a radius that has no bound."""
    return Attack("noise", norm, eps, 10), Attack("pgd", "linf", 1.0, 20)


def toward(label_N: Tensor, target_N: Tensor) -> Objective:
    """The targeted difference-of-logits ratio (Croce & Hein 2020, section 4), written as a loss to descend.

    (z_y - z_t) / (z_1 - (z_3 + z_4) / 2), where z_1 >= z_2 >= ... are the sorted logits: the same however the logits
    are scaled. With fewer than 4 classes there is no z_4, and the loss is z_y - z_t.
    """

    def objective(logits_NK: Tensor) -> tuple[Tensor, Tensor]:
        one_hot = [F.one_hot(chosen, logits_NK.shape[1]).to(logits_NK.dtype) for chosen in (label_N, target_N)]
        v_NK = one_hot[0] - one_hot[1]
        difference_N = (logits_NK * v_NK).sum(dim=1)
        if logits_NK.shape[1] < 4:
            return difference_N, v_NK
        (first, _, third, fourth), places = (t.unbind(dim=1) for t in logits_NK.topk(4, dim=1))
        scale_N = (first - (third + fourth) / 2).clamp_min(FLOOR)
        first, _, third, fourth = (F.one_hot(place, logits_NK.shape[1]).to(logits_NK.dtype) for place in places)
        ratio_N = difference_N / scale_N
        return ratio_N, (v_NK - ratio_N[:, None] * (first - (third + fourth) / 2)) / scale_N[:, None]

    return objective


def attack(
    f: Function,
    x: Tensor,
    label: Tensor,
    eps: float,
    steps: int,
    step_size: float,
    noise: Tensor | None = None,
    best: bool = True,
    constraint: Constraint = L2,
) -> Tensor:
    """Untargeted PGD on the logits: images within `eps` of `x`, from a random start where there is `noise`.

    `noise` is standard normal, of x's shape; `best` keeps each example's iterate of greatest cross-entropy.
    """
    start = x if noise is None else constraint.random_start(x, eps, noise)
    objective = objectives.misclassification(label)
    return pgd(f, objective, start, x, eps, step_size, steps, best=best, constraint=constraint)
