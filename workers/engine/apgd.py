"""Auto-PGD (Croce & Hein 2020, algorithm 1): projected gradient descent that chooses its own step sizes.

    z <- project(x - step * g / ||g||, x0, eps);  x <- project(x + .75 (z - x) + .25 (x - previous), x0, eps)

At checkpoints, an example that has stopped getting better goes on from its best iterate with half the step.
"""

import torch
from torch import Tensor

from workers.engine.constraints import L2, Constraint, norm, per_example
from workers.engine.objectives import Objective
from workers.engine.pgd import Function, Observer, gradient

MOMENTUM = 0.75
PROGRESS = 0.75
"""The share of the steps since the last checkpoint (the paper's rho) that must lower the loss."""


def checkpoints(steps: int) -> set[int]:
    """The iterations at which steps may be halved: p_j of `steps`, rounded up (section 3.1), and the first."""
    before, p, found = 0, 22, {0}
    while p <= 100:  # in hundredths, so that nothing is rounded up for a float's sake
        found.add(-(-p * steps // 100))
        before, p = p, p + max(p - before - 3, 6)
    return found


def apgd(
    f: Function,
    objective: Objective,
    x: Tensor,
    x0: Tensor,
    eps: Tensor | float,
    steps: int,
    observe: Observer | None = None,
    constraint: Constraint = L2,
) -> Tensor:
    """Each example's iterate of least loss in `steps` steps from `x`, which must be within `eps` of `x0`.

    An example is checked before it takes the checkpoint's step, where the paper checks it after and takes that back.
    `observe` is called as `pgd` calls it. Costs a forward and a backward for each step and one forward more.
    """
    checks, last_check = checkpoints(steps), 0
    step_size = 2 * torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(len(x))
    previous, best_x, best_g = x, x, torch.zeros_like(x)
    last_loss = best_loss = best_at_check = torch.full_like(step_size, torch.inf)
    lowered, halved = torch.zeros_like(step_size), torch.zeros_like(step_size, dtype=torch.bool)
    for k in range(steps):
        loss, g = gradient(f, objective, x)
        if observe is not None and observe(k, x, loss, norm(g)):
            break
        lowered = lowered + (loss < last_loss)
        best_x, best_g, best_loss = _where(loss < best_loss, (x, g, loss), (best_x, best_g, best_loss))
        if k in checks:
            stuck = ~halved & (best_loss == best_at_check)
            halved = stuck | (lowered < PROGRESS * (k - last_check))
            x, g, loss = _where(halved, (best_x, best_g, best_loss), (x, g, loss))
            step_size = torch.where(halved, step_size / 2, step_size)
            lowered, best_at_check, last_check = torch.zeros_like(lowered), best_loss, k
        z = constraint.project(x - per_example(step_size, x) * constraint.direction(g), x0, eps)
        ahead = x + MOMENTUM * (z - x) + (1 - MOMENTUM) * (x - previous) if k else z
        last_loss, previous, x = loss, x, constraint.project(ahead, x0, eps)
    with torch.no_grad():
        loss, _ = objective(f(x))
    return _where(loss < best_loss, (x,), (best_x,))[0]


def _where(chosen_N: Tensor, these: tuple[Tensor, ...], those: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.where(per_example(chosen_N, a).bool(), a, b) for a, b in zip(these, those, strict=True))
