"""Learning rate and momentum as functions of the step: nothing to save, nothing to restore."""

import bisect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.engine.training_config import Config

Schedule = Callable[["Config", int, int], tuple[float, float]]
"""Recipe, step (from 0), steps in an epoch -> the learning rate and momentum of that step."""


def constant(c: "Config", step: int, steps_per_epoch: int) -> tuple[float, float]:  # noqa: ARG001
    return c.lr, c.momentum


def step_wise(c: "Config", step: int, steps_per_epoch: int) -> tuple[float, float]:
    """The rate is multiplied by `lr_factor` after each of the epochs `lr_drops` (paper, tables 2 and 3)."""
    drops = bisect.bisect_right(c.lr_drops, step // steps_per_epoch)
    return c.lr * c.lr_factor**drops, c.momentum


def one_cycle(c: "Config", step: int, steps_per_epoch: int) -> tuple[float, float]:
    """Cosine from lr / 25 up to lr in the first 30% of steps, then down to nearly 0 (Smith and Topin, 2017).

    Momentum goes the other way, between `momentum` and 0.1 less.
    """
    last = max(c.epochs * steps_per_epoch - 1, 1)
    peak = 0.3 * (last + 1) - 1
    low = max(c.momentum - 0.1, 0)
    if step <= peak:
        part = step / peak if peak else 1.0
        return _cosine(c.lr / 25, c.lr, part), _cosine(c.momentum, low, part)
    part = (step - peak) / (last - peak)
    return _cosine(c.lr, c.lr / 25e4, part), _cosine(low, c.momentum, part)


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


SCHEDULES: dict[str, Schedule] = {"one-cycle": one_cycle, "step": step_wise, "constant": constant}
