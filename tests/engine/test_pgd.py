"""The step and the loop: against closed forms, single runs and a frozen run."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.engine.networks import pixels, small
from workers.engine.objectives import Objective, inversion, misclassification
from workers.engine.pgd import Function, pgd, step

Array = npt.NDArray[np.float64]


def linear(seed: int, k: int = 5, size: int = 4) -> tuple[Function, Array]:
    w = np.random.default_rng(seed).standard_normal((k, 3 * size * size))
    weight = torch.from_numpy(w)
    return lambda x: x.flatten(1) @ weight.T, w


class Recorder:
    """An observer that keeps what it sees and stops the loop at step `last`."""

    def __init__(self, last: int | None = None) -> None:
        self.last, self.events = last, list[tuple[int, Tensor, Tensor, Tensor]]()

    def __call__(self, i: int, x: Tensor, loss: Tensor, grad_norm: Tensor) -> bool:
        self.events.append((i, x, loss, grad_norm))
        return i == self.last


def counted(f: Function) -> tuple[Function, list[int]]:
    calls: list[int] = []

    def counting(x: Tensor) -> Tensor:
        calls.append(len(x))
        return f(x)

    return counting, calls


def inversion_problem(n: int, dtype: torch.dtype = torch.float64) -> tuple[Function, Objective, Tensor]:
    """Invert n images of noise from n others on a small network."""
    represent = small(dtype=dtype).represent
    return represent, inversion(represent(pixels(2, n, dtype=dtype))), pixels(1, n, dtype=dtype)


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


@pytest.mark.parametrize("eps", [0.05, 0.3, 1000.0])
def test_one_step_on_a_linear_function_is_equation_4_in_closed_form(eps: float) -> None:
    f, w = linear(0)
    x0, x = pixels(3, 2, 4, torch.float64), pixels(4, 2, 4, torch.float64)
    t = np.random.default_rng(5).standard_normal((2, 5))
    after = step(f, inversion(torch.from_numpy(t)), x, x0, eps, 0.2)
    for i in range(2):
        start, centre = x[i].numpy().ravel(), x0[i].numpy().ravel()
        residual = w @ start - t[i]
        g = w.T @ (residual / np.linalg.norm(residual))
        delta = start - 0.2 * g / np.linalg.norm(g) - centre
        expected = np.clip(centre + delta * min(1.0, eps / np.linalg.norm(delta)), 0, 1)
        np.testing.assert_allclose(after.x[i].numpy().ravel(), expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(after.loss[i].item(), np.linalg.norm(residual), rtol=1e-12)
        np.testing.assert_allclose(after.grad_norm[i].item(), np.linalg.norm(g), rtol=1e-9)


def test_a_batch_is_as_many_single_runs() -> None:
    """In float64, since a kernel may sum in another order for another batch size: rounding alone may differ."""
    f, _, x = inversion_problem(5)
    target = f(pixels(2, 5, dtype=torch.float64))
    eps, size = torch.linspace(0.2, 1, 5).double(), torch.linspace(0.02, 0.1, 5).double()
    together = pgd(f, inversion(target), x, x, eps, size, 10)
    for i in range(5):
        alone = pgd(f, inversion(target[i : i + 1]), x[i : i + 1], x[i : i + 1], eps[i].item(), size[i].item(), 10)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("target", "best", "last"),
    [(0.52, 0.5, 0.6), (0.69, 0.7, 0.6), (0.79, 0.8, 0.8)],
    ids=["the start", "one between", "the end"],
)
def test_best_returns_the_best_iterate_be_it(target: float, best: float, last: float) -> None:
    """On f(x) = x with one grey pixel the iterates are .5, .6, then onward or back by .1, three steps in all."""
    x = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    objective = inversion(torch.full((1, 1), target, dtype=torch.float64))
    assert pgd(flat, objective, x, x, 1.0, 0.1, 3, best=True).item() == pytest.approx(best, abs=1e-6)
    assert pgd(flat, objective, x, x, 1.0, 0.1, 3).item() == pytest.approx(last, abs=1e-6)


def test_best_is_chosen_for_each_example_alone() -> None:
    x = torch.full((3, 1, 1, 1), 0.5, dtype=torch.float64)
    objective = inversion(torch.tensor([[0.52], [0.69], [0.79]], dtype=torch.float64))
    chosen = pgd(flat, objective, x, x, 1.0, 0.1, 3, best=True).flatten()
    np.testing.assert_allclose(chosen.numpy(), [0.5, 0.7, 0.8], atol=1e-6)


def test_best_is_never_worse_than_any_iterate_the_observer_saw() -> None:
    f, objective, x = inversion_problem(4)
    recorder = Recorder()
    best = pgd(f, objective, x, x, 1000, 0.2, 30, best=True, observe=recorder)
    lowest = torch.stack([loss for _, _, loss, _ in recorder.events]).min(dim=0).values
    assert (objective(f(best))[0] <= lowest + 1e-12).all()


@pytest.mark.parametrize(("best", "extra"), [(False, 0), (True, 1)])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_a_step_costs_one_forward_and_best_one_more_in_all(steps: int, best: bool, extra: int) -> None:
    f, objective, x = inversion_problem(2)
    f, calls = counted(f)
    pgd(f, objective, x, x, 1.0, 0.1, steps, best=best)
    assert len(calls) == steps + extra


def test_the_observer_sees_each_iterate_with_its_own_loss_and_gradient_norm() -> None:
    f, objective, x = inversion_problem(2)
    recorder = Recorder()
    pgd(f, objective, x, x, 1.0, 0.1, 4, observe=recorder)
    assert [i for i, *_ in recorder.events] == [0, 1, 2, 3]
    assert torch.equal(recorder.events[0][1], x)
    for _, iterate, loss, grad_norm in recorder.events:
        iterate = iterate.clone().requires_grad_(True)
        distance = objective(f(iterate))[0]
        (g,) = torch.autograd.grad((f(iterate) - f(pixels(2, 2, dtype=torch.float64))).norm(dim=1).sum(), iterate)
        torch.testing.assert_close(loss, distance.detach(), rtol=1e-9, atol=0)
        torch.testing.assert_close(grad_norm, g.flatten(1).norm(dim=1), rtol=1e-6, atol=0)


def test_an_observer_that_returns_true_stops_the_loop_at_the_iterate_it_saw() -> None:
    f, objective, x = inversion_problem(2)
    f, calls = counted(f)
    recorder = Recorder(last=2)
    result = pgd(f, objective, x, x, 1.0, 0.1, 50, observe=recorder)
    assert len(calls) == 3
    assert torch.equal(result, recorder.events[2][1])


@pytest.mark.parametrize("best", [False, True])
def test_the_result_is_within_eps_of_x0_and_in_the_box(best: bool) -> None:
    f, objective, x0 = inversion_problem(4, torch.float32)
    result = pgd(f, objective, x0, x0, 0.3, 0.2, 15, best=best)
    assert result.min() >= 0
    assert result.max() <= 1
    assert ((result - x0).double().flatten(1).norm(dim=1) <= 0.3 * (1 + 1e-5)).all()


def test_inverting_a_network_closes_most_of_the_distance() -> None:
    f, objective, x = inversion_problem(6, torch.float32)
    before, after = objective(f(x))[0], objective(f(pgd(f, objective, x, x, 1000, 0.05, 60, best=True)))[0]
    assert (after < 0.2 * before).all()


def test_a_run_leaves_no_gradient_on_the_weights_and_no_graph_on_its_result() -> None:
    model = small().requires_grad_(True)
    objective, x, recorder = misclassification(torch.tensor([0, 1])), pixels(1, 2), Recorder()
    result = pgd(model, objective, x, x, 0.5, 0.1, 3, best=True, observe=recorder)
    assert all(p.grad is None for p in model.parameters())
    assert not any(t.requires_grad for t in (x, result, *(t for _, *seen in recorder.events for t in seen)))


def test_a_run_works_inside_no_grad_and_leaves_its_start_alone() -> None:
    f, objective, x = inversion_problem(2)
    kept = x.clone()
    with torch.no_grad():
        inside = pgd(f, objective, x, x, 1.0, 0.1, 3)
    assert torch.equal(inside, pgd(f, objective, x, x, 1.0, 0.1, 3))
    assert torch.equal(x, kept)


GOLDEN = {
    "inversion": (0.30112251052273487, 0.3138813299413812, 1.0366160277332677),
    "inversion, identity ReLU": (0.36634520376732466, 0.5572264919100279, 1.1991090928632102),
    "misclassification": (-8.130317015308487, -7.731036628638387, -2.293830560134909),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_seeded_run_ends_where_it_always_ended(name: str) -> None:
    """Frozen, to show that a change of the engine changes no result.

    Processors round convolutions differently, so not bitwise; 20 steps in float64 keep 9 digits.
    """
    model, x = small(dtype=torch.float64), pixels(1, 3, dtype=torch.float64)
    f: Function = lambda x: model.represent(x, identity_relu="identity" in name)  # noqa: E731
    objective = inversion(model.represent(pixels(2, 3, dtype=torch.float64)))
    if name == "misclassification":
        f, objective = model, misclassification(torch.tensor([0, 1, 2]))
    loss, _ = objective(f(pgd(f, objective, x, x, 0.5, 0.1, 20)))
    np.testing.assert_allclose(loss.numpy(), GOLDEN[name], rtol=1e-9)
