"""Attacks on a classifier: images near the given ones that it gets wrong (paper, equation 3)."""

from torch import Tensor

from workers.engine import objectives
from workers.engine.constraints import L2, Constraint
from workers.engine.pgd import Function, pgd


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
    """Untargeted PGD on the logits: images within `eps` of `x`, from a random start if there is `noise` to draw it from.

    `noise` is standard normal, of x's shape; `best` keeps each example's iterate of greatest cross-entropy.
    """
    start = x if noise is None else constraint.random_start(x, eps, noise)
    return pgd(
        f, objectives.misclassification(label), start, x, eps, step_size, steps, best=best, constraint=constraint
    )
