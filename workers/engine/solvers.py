"""Solvers: what a search steps along in place of the gradient, and how its step size falls over its steps.

    d = solver(g, what it remembers);  x <- project(x - multiplier * step * d, x0, eps),  ||d|| = 1

Directions are unit vectors, as the paper's g / ||g|| is, so that a step size means the same to every solver: how far a
step moves, in pixel units. Rows never mix, each row counts its own steps k, and nothing asks the device for a value, so
that a batch of searches at different steps can be captured in a CUDA graph. Shapes as in `constraints`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from workers.engine.constraints import L2, Constraint, per_example, unit

MOMENTUM = 0.9
ADAM = 0.9, 0.999
"""Decay of the first and of the second moment."""
ADAM_FLOOR = 1e-8
"""Added to the root of the second moment; a unit gradient has pixels near 1 / sqrt(C H W), far above."""

SCHEDULES = ("constant", "cosine", "geometric")
GEOMETRIC_END = 0.01
"""What the geometric schedule has come down to at the end."""


class Solver(NamedTuple):
    """A rule for the direction, and the memory that it needs."""

    buffers: int
    """How many image-shaped states [N, C, H, W] it keeps for a batch, zero before the first step."""
    direction: Callable[[Tensor, Tensor, Sequence[Tensor], Tensor], Tensor]
    """(x, g, buffers, k [N] int64: steps that each row has made) -> d: x moves by -step_size * d.

    Updates buffers in place.
    """


def _pgd(_x: Tensor, g: Tensor, _buffers: Sequence[Tensor], _k_N: Tensor) -> Tensor:
    """The steepest direction: equation (4) of Engstrom et al. 2019."""
    return unit(g)


def _momentum(_x: Tensor, g: Tensor, buffers: Sequence[Tensor], _k_N: Tensor) -> Tensor:
    """Heavy ball (Polyak 1964) over unit gradients: v <- .9 v + g / ||g||; d = v / ||v||."""
    (v,) = buffers
    return unit(v.mul_(MOMENTUM).add_(unit(g)))


def _adam(_x: Tensor, g: Tensor, buffers: Sequence[Tensor], k_N: Tensor) -> Tensor:
    """Adam's direction (Kingma and Ba 2015) from unit gradients, made a unit vector: each pixel has its own scale."""
    (m, s), g, age_N = buffers, unit(g), (k_N + 1).to(g.dtype)
    m.lerp_(g, 1 - ADAM[0])
    s.mul_(ADAM[1]).addcmul_(g, g, value=1 - ADAM[1])
    # 1 - beta^(k + 1), by how much zero buffers fall short; as expm1, since float32 loses it where beta^k is near 1.
    first, second = (per_example(-torch.expm1(age_N * math.log(beta)), g) for beta in ADAM)
    return unit((m / first) / ((s / second).sqrt() + ADAM_FLOOR))


SOLVERS = {"pgd": Solver(0, _pgd), "momentum": Solver(1, _momentum), "adam": Solver(2, _adam)}


def multiplier(schedule_N: Tensor, k_N: Tensor, steps_N: Tensor) -> Tensor:
    """What each row's step size is multiplied by at its step k of `steps`, [N] float32.

    `schedule` is an int64 index into SCHEDULES; all three are [N]. 1 at k = 0; towards k = steps, constant stays there,
    cosine falls to 0 as (1 + cos(pi k / steps)) / 2, and geometric to GEOMETRIC_END by an equal factor each step.
    """
    part_N = (k_N.double() / steps_N.clamp_min(1)).float().clamp(0, 1)
    # cos^2 of half the angle: the usual form cancels at the end, where float32 has nothing left of it.
    cosine_N = torch.cos(part_N * (math.pi / 2)).square()
    geometric_N = torch.exp(part_N * math.log(GEOMETRIC_END))
    falling_N = torch.where(schedule_N == SCHEDULES.index("cosine"), cosine_N, geometric_N)
    return torch.where(schedule_N == SCHEDULES.index("constant"), 1.0, falling_N)


def constraint(solver: Solver, x: Tensor, buffers: Sequence[Tensor], k: Tensor) -> Constraint:
    """The L2 ball with the solver's direction in place of the steepest one, for `pgd.step` of x at steps k, int64 [N].

    Good for one step: calling its direction updates the buffers. A solver that remembers moves on where the gradient is
    zero, so `objectives.until` alone does not hold an example still; whoever steps has to.
    """
    return L2._replace(direction=lambda g: solver.direction(x, g, buffers, k))
