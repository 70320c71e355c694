"""dL/dR of each objective, against central differences of its loss in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.engine.networks import pixels, small
from workers.engine.constraints import unit
from workers.engine.objectives import (
    Objective,
    Reached,
    activation,
    at_least,
    exceeds_all,
    inversion,
    misclassification,
    until,
)
from workers.engine.pgd import pgd

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
    "activation": activation(values(1)),
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


def test_the_activation_loss_of_a_unit_weight_is_minus_one_coordinate() -> None:
    r, index = values(11), [2, 0, 6, 2]
    loss, v = activation(torch.eye(K, dtype=torch.float64)[index])(r)
    assert loss.tolist() == [-r[i, k].item() for i, k in enumerate(index)]
    assert v.argmin(dim=1).tolist() == index
    assert torch.equal(v.sum(dim=1), -torch.ones(N).double())


def test_the_activation_loss_is_minus_the_weighted_sum() -> None:
    r, w = values(11), values(12)
    expected = [-np.dot(a, b) for a, b in zip(r.numpy(), w.numpy(), strict=True)]
    np.testing.assert_allclose(activation(w)(r)[0].numpy(), expected, rtol=1e-12)


@each_objective
def test_until_changes_nothing_but_the_gradient_of_what_has_reached(objective: Objective) -> None:
    r, done = values(13), torch.tensor([True, False, True, False])
    loss, v = objective(r)
    stopped_loss, stopped_v = until(objective, lambda _: done)(r)
    assert torch.equal(stopped_loss, loss)
    assert torch.equal(stopped_v[~done], v[~done])
    assert torch.equal(stopped_v[done], torch.zeros(2, K).double())


def test_until_asks_about_the_same_representation_as_the_objective() -> None:
    r, w = values(13), values(1)
    _, v = until(activation(w), lambda r: r[:, 0] > 0)(r)
    assert torch.equal(v, torch.where(r[:, :1] > 0, 0, -w))


def test_a_gradient_that_overflows_does_not_outlive_its_end() -> None:
    r = torch.zeros(1, K)
    _, v = until(activation(torch.full((1, K), torch.inf)), lambda _: torch.ones(1, dtype=torch.bool))(r)
    assert torch.equal(v, r)


def iterates(objective: Objective, n: int, steps: int) -> tuple[Tensor, Tensor]:
    """x [S, N, C, H, W] and R [S, N, K] of a run on a small network, the start and the end included."""
    represent, x, seen = small(dtype=torch.float64).represent, pixels(1, n, dtype=torch.float64), list[Tensor]()

    def observe(_: int, x: Tensor, *__: Tensor) -> None:
        seen.append(x)

    seen.append(pgd(represent, objective, x, x, 1000, 0.1, steps, observe=observe))
    return torch.stack(seen), torch.stack([represent(x) for x in seen])


UNIT = torch.eye(8, dtype=torch.float64)[[3, 2, 2, 3, 4, 5]]  # no dead unit
CRITERIA = {
    "exceeds all": exceeds_all(UNIT.argmax(dim=1)),
    "at least": at_least(UNIT, torch.tensor([0.5, 4.0, 5.0, 6.0, 7.0, 100.0])),
}


@pytest.mark.parametrize("reached", CRITERIA.values(), ids=list(CRITERIA))
def test_an_example_that_has_reached_stops_and_the_others_go_on(reached: Reached) -> None:
    """Each is where a run without end was at its own first step past the mark; stillness is up to rounding."""
    steps = 25
    free_x, free_r = iterates(activation(UNIT), len(UNIT), steps)
    x, r = iterates(until(activation(UNIT), reached), len(UNIT), steps)
    marks = torch.stack([reached(row) for row in free_r])
    ends = [int(column.nonzero()[0]) if column.any() else steps for column in marks.T]
    assert len(set(ends)) > 2
    assert min(ends) < steps
    for i, end in enumerate(ends):
        torch.testing.assert_close(x[: end + 1, i], free_x[: end + 1, i], rtol=0, atol=1e-9)
        torch.testing.assert_close(x[end:, i], x[end, i].expand_as(x[end:, i]), rtol=0, atol=1e-12)
        assert ((x[1 : end + 1, i] - x[:end, i]).flatten(1).norm(dim=1) > 0.01).all()
        assert torch.stack([reached(row)[i] for row in r[end:]]).all() or end == steps


def test_exceeds_all_holds_where_the_coordinate_alone_is_the_largest() -> None:
    r = values(14, 3.0).round()
    for index in range(K):
        expected = [all(row[index] > x for k, x in enumerate(row) if k != index) for row in r.tolist()]
        assert exceeds_all(torch.full((N,), index))(r).tolist() == expected


def test_exceeds_all_is_not_reached_by_a_tie() -> None:
    r = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [2.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert exceeds_all(torch.tensor([0, 2, 0, 1]))(r).tolist() == [False, False, True, False]


def test_exceeds_all_of_negative_coordinates_needs_no_positive_one() -> None:
    assert exceeds_all(torch.tensor([1]))(torch.tensor([[-3.0, -1.0, -2.0]])).tolist() == [True]


def test_a_lone_coordinate_exceeds_all_others() -> None:
    assert exceeds_all(torch.tensor([0, 0]))(torch.tensor([[-1.0], [0.0]])).tolist() == [True, True]


def test_at_least_is_reached_at_the_threshold_itself() -> None:
    r, w = torch.tensor([[0.5, 9.0], [1.0, 9.0], [1.5, 9.0]]), torch.tensor([[1.0, 0.0]]).expand(3, 2)
    assert at_least(w, 1.0)(r).tolist() == [False, True, True]
    assert at_least(w, torch.tensor([0.5, 1.25, 1.25]))(r).tolist() == [True, False, True]


@pytest.mark.parametrize("reached", [exceeds_all(torch.tensor([0])), at_least(torch.ones(1, 3), 0.0)])
def test_a_representation_that_is_not_a_number_has_reached_nothing(reached: Reached) -> None:
    assert reached(torch.tensor([[1.0, torch.nan, 0.0]])).tolist() == [False]
