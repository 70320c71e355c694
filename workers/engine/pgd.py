"""Projected gradient descent in image space: the step that every study, attack and training update shares.

    R = f(x);  v = dL/dR;  g = v^T dR/dx;  x <- project(x - step * g / ||g||, x0, eps)

With the inversion objective this is equation (4) of Engstrom et al. 2019 under an L2 constraint.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from workers.engine.constraints import L2, Constraint, norm, per_example
from workers.engine.objectives import Objective

Function = Callable[[Tensor], Tensor]
"""x [N, C, H, W] -> R [N, K]: a representation, or the logits."""

Observer = Callable[[int, Tensor, Tensor, Tensor], bool | None]
"""Called with the step index, x before the step, its loss [N] and gradient norm [N]; True stops the loop."""


class Step(NamedTuple):
    """x after the step [N, C, H, W]; loss and L2 norm of the gradient before it, [N]."""

    x: Tensor
    loss: Tensor
    grad_norm: Tensor


def batched(f: Function, size: int | None) -> Function:
    """`f` in batches of exactly `size` rows, the last one padded, so that no row depends on their number.

    With size None, `f` as it is.
    """
    if size is None:
        return f

    def in_batches(x: Tensor) -> Tensor:
        pad = -len(x) % size
        padded = torch.cat([x, x[:1].expand(pad, *x.shape[1:])]) if pad else x
        parts = (padded[i : i + size] for i in range(0, len(padded), size))
        return torch.cat([f(part.contiguous(memory_format=torch.channels_last)) for part in parts])[: len(x)]

    return in_batches


def gradient(f: Function, objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
    """The loss [N], and g = v^T dR/dx [N, C, H, W]: one forward, one vector-Jacobian product."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        r = f(x)
    loss, v = objective(r.detach())
    (g,) = torch.autograd.grad(r, x, v)
    return loss, g


def step(
    f: Function,
    objective: Objective,
    x: Tensor,
    x0: Tensor,
    eps: Tensor | float,
    step_size: Tensor | float,
    constraint: Constraint = L2,
) -> Step:
    """One forward, one vector-Jacobian product, one normalised step of `step_size` (pixel units), one projection."""
    loss, g = gradient(f, objective, x)
    x = x.detach()
    after = constraint.project(x - per_example(step_size, x) * constraint.direction(g), x0, eps)
    return Step(after, loss, norm(g))


def pgd(
    f: Function,
    objective: Objective,
    x: Tensor,
    x0: Tensor,
    eps: Tensor | float,
    step_size: Tensor | float,
    steps: int,
    best: bool = False,
    observe: Observer | None = None,
    constraint: Constraint = L2,
) -> Tensor:
    """`steps` steps from `x`, which must be within `eps` of `x0`; returns the last iterate, or each example's best.

    `best` compares every iterate, the start and the end included, and costs one forward more.
    """
    best_x, best_loss = x, torch.full_like(x.flatten(1)[:, 0], torch.inf)
    for i in range(steps):
        after, loss, grad_norm = step(f, objective, x, x0, eps, step_size, constraint)
        best_x, best_loss = _better(best_x, best_loss, x, loss) if best else (best_x, best_loss)
        if observe is not None and observe(i, x, loss, grad_norm):
            break
        x = after
    if not best:
        return x
    with torch.no_grad():
        loss, _ = objective(f(x))
    return _better(best_x, best_loss, x, loss)[0]


def _better(best_x: Tensor, best_loss: Tensor, x: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    improved = loss < best_loss
    return torch.where(per_example(improved, x).bool(), x, best_x), torch.where(improved, loss, best_loss)
