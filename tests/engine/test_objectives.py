"""dL/dR of each objective, against central differences of its loss in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from workers.engine.constraints import unit
from workers.engine.objectives import Objective, inversion, misclassification

N, K = 4, 7


def values(seed: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(scale * np.random.default_rng(seed).standard_normal((N, K)))


def by_differences(objective: Objective, r_NK: Tensor, h: float = 1e-6) -> Tensor:
    """Moves coordinate k of every example at once: the examples do not see each other."""
    columns = []
    for k in range(r_NK.shape[1]):
        up, down = r_NK.clone(), r_NK.clone()
        up[:, k] += h
        down[:, k] -= h
        columns.append((objective(up)[0] - objective(down)[0]) / (2 * h))
    return torch.stack(columns, dim=1)


LABEL = torch.tensor([0, 6, 3, 3])
OBJECTIVES = {
    "inversion": inversion(values(1)),
    "relative inversion": inversion(values(1), relative=True),
    "misclassification": misclassification(LABEL),
}
each_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=list(OBJECTIVES))


@each_objective
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_the_gradient_is_the_slope_of_the_loss(objective: Objective, scale: float) -> None:
    r = values(2, scale)
    torch.testing.assert_close(objective(r)[1], by_differences(objective, r), rtol=1e-6, atol=1e-8)


@each_objective
def test_an_examples_loss_and_gradient_do_not_depend_on_its_batch(objective: Objective) -> None:
    r = values(3)
    shuffled = r.clone()
    shuffled[1:] = values(4)[1:]
    for ours, other in zip(objective(r), objective(shuffled), strict=True):
        assert torch.equal(ours[0], other[0])


def test_the_inversion_loss_is_the_distance_to_the_target() -> None:
    r, target = values(5), values(1)
    expected = [np.sqrt(((a - b) ** 2).sum()) for a, b in zip(r.numpy(), target.numpy(), strict=True)]
    np.testing.assert_allclose(inversion(target)(r)[0].numpy(), expected, rtol=1e-12)


def test_the_relative_inversion_loss_is_that_distance_over_the_targets_length() -> None:
    r, target = values(5), values(1)
    expected = inversion(target)(r)[0].numpy() / np.linalg.norm(target.numpy(), axis=1)
    np.testing.assert_allclose(inversion(target, relative=True)(r)[0].numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_relative_and_plain_inversion_descend_in_the_same_direction(scale: float) -> None:
    r, target = values(6, scale), values(7, scale)
    plain, relative = inversion(target)(r)[1], inversion(target, relative=True)(r)[1]
    torch.testing.assert_close(unit(relative), unit(plain), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("target", [values(8), torch.zeros(N, K, dtype=torch.float64)], ids=["a target", "zero target"])
def test_at_the_target_the_loss_and_the_gradient_are_zero_and_finite(target: Tensor, relative: bool) -> None:
    loss, v = inversion(target, relative)(target.clone())
    assert torch.equal(loss, torch.zeros_like(loss))
    assert torch.equal(v, torch.zeros_like(v))


def test_misclassification_descends_the_log_odds_of_the_label() -> None:
    r = values(9).numpy()
    p = [np.exp(row[i]) / np.exp(row).sum() for row, i in zip(r, LABEL.tolist(), strict=True)]
    expected = [np.log(q / (1 - q)) for q in p]
    np.testing.assert_allclose(misclassification(LABEL)(torch.from_numpy(r))[0].numpy(), expected, rtol=1e-12)


def test_misclassification_steps_where_the_cross_entropy_does() -> None:
    r = values(9).requires_grad_()
    torch.nn.functional.cross_entropy(r, LABEL, reduction="sum").backward()  # type: ignore[no-untyped-call]
    assert r.grad is not None
    torch.testing.assert_close(unit(misclassification(LABEL)(r.detach())[1]), -unit(r.grad))


def test_misclassification_stays_finite_at_huge_logits() -> None:
    loss, v = misclassification(LABEL)(1e4 * values(10).float())
    assert torch.isfinite(loss).all()
    assert torch.isfinite(v).all()
