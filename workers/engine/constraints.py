"""The balls that a perturbation stays in, L2 and Linf, and the pixel box: steepest step, projection, random start.

Shapes: images are [N, C, H, W] with pixels in [0, 1]; per-example quantities (radius, step, norm) are [N] or a number.
Every function is pure, works per example and on any device, and never mixes examples.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

FLOOR = 1e-10
"""Added to a norm before dividing by it, so that a zero gradient gives a zero step."""


def per_example(value: Tensor | float, like_NCHW: Tensor) -> Tensor:
    """`value`, a number or [N], as a tensor that broadcasts against [N, ...] examples."""
    v = torch.as_tensor(value, dtype=like_NCHW.dtype, device=like_NCHW.device)
    return v.reshape(-1, *[1] * (like_NCHW.dim() - 1)) if v.dim() else v


def norm(v_NCHW: Tensor) -> Tensor:
    """L2 norm of each example, [N]."""
    length_N: Tensor = torch.linalg.vector_norm(v_NCHW, dim=tuple(range(1, v_NCHW.dim())))
    return length_N


def unit(v_NCHW: Tensor) -> Tensor:
    """Each example divided by its L2 norm plus `FLOOR`."""
    return v_NCHW / (per_example(norm(v_NCHW), v_NCHW) + FLOOR)


def project(x_NCHW: Tensor, x0_NCHW: Tensor, eps: Tensor | float) -> Tensor:
    """The L2 ball of radius `eps` (pixel units, finite, >= 0) around `x0`, then the box [0, 1].

    `x0` must lie in the box: then clamping moves no point away from it, and both constraints hold at once.
    """
    delta = x_NCHW - x0_NCHW
    radius = per_example(eps, x_NCHW)
    length = per_example(norm(delta), x_NCHW)
    scale = radius / torch.maximum(length, radius).clamp_min(FLOOR)
    return (x0_NCHW + delta * scale).clamp(0, 1)


def random_start(x0_NCHW: Tensor, eps: Tensor | float, noise_NCHW: Tensor) -> Tensor:
    """`x0` moved by `eps` along the direction of standard normal `noise`, then clamped to the box."""
    return (x0_NCHW + per_example(eps, x0_NCHW) * unit(noise_NCHW)).clamp(0, 1)


def project_linf(x_NCHW: Tensor, x0_NCHW: Tensor, eps: Tensor | float) -> Tensor:
    """Each pixel to within `eps` of `x0`'s, then the box [0, 1], which `x0` must lie in."""
    radius = per_example(eps, x_NCHW)
    return (x0_NCHW + (x_NCHW - x0_NCHW).clamp(-radius, radius)).clamp(0, 1)


def random_start_linf(x0_NCHW: Tensor, eps: Tensor | float, noise_NCHW: Tensor) -> Tensor:
    """A point drawn uniformly from the cube of half side `eps` around `x0`, from standard normal `noise`; clamped."""
    uniform = torch.erf(noise_NCHW / math.sqrt(2))
    return (x0_NCHW + per_example(eps, x0_NCHW) * uniform).clamp(0, 1)


class Constraint(NamedTuple):
    """A ball by its three operations, as PGD uses them: g -> the steepest unit step; project; random start."""

    direction: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, Tensor, Tensor | float], Tensor]
    random_start: Callable[[Tensor, Tensor | float, Tensor], Tensor]


L2 = Constraint(unit, project, random_start)
LINF = Constraint(torch.sign, project_linf, random_start_linf)
CONSTRAINTS = {"l2": L2, "linf": LINF}
