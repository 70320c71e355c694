"""What PGD descends: an objective maps R [N, K] to its loss [N] and v = dL/dR [N, K], each example alone.

Losses are summed over examples, never averaged, so that an example's gradient does not depend on its batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.constraints import FLOOR

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""R [N, K] -> (loss [N], dL/dR [N, K])."""

Reached = Callable[[Tensor], Tensor]
"""R [N, K] -> bool [N]: which examples have come as far as they should."""


def inversion(target_NK: Tensor, relative: bool = False) -> Objective:
    """min ||R(x) - t||_2 (paper, equations 1 and 4); `relative` divides by ||t||_2, as the released notebooks do."""
    return scaled_inversion(target_NK, target_NK.norm(dim=1) + FLOOR if relative else torch.ones_like(target_NK[:, 0]))


def scaled_inversion(target_NK: Tensor, scale_N: Tensor) -> Objective:
    """min ||R(x) - t||_2 / scale."""

    def objective(r_NK: Tensor) -> tuple[Tensor, Tensor]:
        difference = r_NK - target_NK
        distance = difference.norm(dim=1)
        return distance / scale_N, difference / ((distance + FLOOR) * scale_N)[:, None]

    return objective


def misclassification(label_N: Tensor) -> Objective:
    """max cross-entropy of the logits (paper, equation 3), written as a loss to descend: the log-odds of the label.

    log p - log(1 - p) grows with log p, so that its steps and its best iterate are those of the cross-entropy; but
    where p rounds to 1 the cross-entropy's gradient vanishes, and a classifier would look robust for being sure.
    """

    def objective(logits_NK: Tensor) -> tuple[Tensor, Tensor]:
        one_hot = F.one_hot(label_N, logits_NK.shape[1]).to(logits_NK.dtype)
        others = logits_NK.masked_fill(one_hot.bool(), -torch.inf)
        return (logits_NK * one_hot).sum(dim=1) - others.logsumexp(dim=1), one_hot - others.softmax(dim=1)

    return objective


def activation(weights_NK: Tensor) -> Objective:
    """max w.R (paper, equation 5, where w is a unit vector: one coordinate), written as a loss to descend: -w.R."""

    def objective(r_NK: Tensor) -> tuple[Tensor, Tensor]:
        return -(weights_NK * r_NK).sum(dim=1), -weights_NK

    return objective


def until(objective: Objective, reached: Reached) -> Objective:
    """`objective`, with a zero gradient wherever R has `reached`: there a step of PGD moves an example no further.

    So it stays as it is while others go on (paper, section 4.2.1). The loss is unchanged; ask PGD for the last iterate,
    since the one of lowest loss may be an earlier one, which had not reached.
    """

    def stopping(r_NK: Tensor) -> tuple[Tensor, Tensor]:
        loss_N, v_NK = objective(r_NK)
        return loss_N, v_NK.masked_fill(reached(r_NK)[:, None], 0)

    return stopping


def exceeds_all(index_N: Tensor) -> Reached:
    """R_i greater than every other coordinate, a tie not enough (paper, section 4.2.1); `index` is int64 [N]."""

    def reached(r_NK: Tensor) -> Tensor:
        chosen_NK = F.one_hot(index_N, r_NK.shape[1]).bool()
        others_NK = r_NK.masked_fill(chosen_NK, -torch.inf)
        return r_NK.masked_fill(~chosen_NK, -torch.inf).amax(dim=1) > others_NK.amax(dim=1)

    return reached


def at_least(weights_NK: Tensor, threshold: Tensor | float) -> Reached:
    """w.R >= threshold, a number or [N] (the released notebook stops one coordinate at 1)."""

    def reached(r_NK: Tensor) -> Tensor:
        return (weights_NK * r_NK).sum(dim=1) >= threshold

    return reached


def mixed(aim_NK: Tensor, inverts_N: Tensor, scale_N: Tensor) -> Objective:
    """Rows of two kinds side by side: inversion of aim, over `scale`, where `inverts`; elsewhere activation of aim."""
    kinds = scaled_inversion(aim_NK, scale_N), activation(aim_NK)

    def objective(r_NK: Tensor) -> tuple[Tensor, Tensor]:
        (distance, to_aim), (along, up) = (kind(r_NK) for kind in kinds)
        return torch.where(inverts_N, distance, along), torch.where(inverts_N[:, None], to_aim, up)

    return objective
