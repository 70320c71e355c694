"""Solvers against their formulas written out row by row in numpy, float64, and on a problem whose answer is known."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from workers.engine import objectives, pgd
from workers.engine.seeding import generator
from workers.engine.solvers import GEOMETRIC_END, SCHEDULES, SOLVERS, constraint, multiplier

Array = npt.NDArray[np.float64]

ROWS, SHAPE, STEPS = 4, (3, 5, 6), 12
every_solver = pytest.mark.parametrize("name", SOLVERS)


def gradients(steps: int = STEPS) -> Tensor:
    """[steps, ROWS, C, H, W] float64, of lengths from 1e-3 to 1e3."""
    lengths = torch.logspace(-3, 3, steps * ROWS, dtype=torch.float64).view(steps, ROWS, 1, 1, 1)
    return torch.randn(steps, ROWS, *SHAPE, dtype=torch.float64, generator=generator(0)) * lengths


def directions(name: str, g: Tensor, first: Tensor | None = None) -> Tensor:
    """What the solver answers to gradients [steps, N, C, H, W] one after another, from steps `first` [N]."""
    solver, x = SOLVERS[name], torch.zeros_like(g[0])
    buffers = [torch.zeros_like(x) for _ in range(solver.buffers)]
    k = torch.zeros(len(x), dtype=torch.int64) if first is None else first
    return torch.stack([constraint(solver, x, buffers, k + i).direction(each) for i, each in enumerate(g)])


def unit(v: Array) -> Array:
    scaled: Array = v / (math.sqrt((v * v).sum()) + 1e-10)
    return scaled


def pgd_oracle(g: list[Array]) -> list[Array]:
    return [unit(each) for each in g]


def momentum_oracle(g: list[Array]) -> list[Array]:
    """The sum written out: v_k = sum over j of .9^(k - j) unit(g_j)."""
    return [unit(sum((0.9 ** (k - j) * unit(g[j]) for j in range(k + 1)), np.zeros(1))) for k in range(len(g))]


def adam_oracle(g: list[Array]) -> list[Array]:
    """Weighted means of the unit gradients so far and of their squares, weights falling by .9 and .999 a step."""
    found = []
    for k in range(len(g)):
        means = []
        for beta, power in ((0.9, 1), (0.999, 2)):
            weights = beta ** np.arange(k, -1, -1.0)
            means.append(sum((w * unit(each) ** power for w, each in zip(weights, g, strict=False)), np.zeros(1)))
            means[-1] = means[-1] / weights.sum()
        found.append(unit(means[0] / (np.sqrt(means[1]) + 1e-8)))
    return found


ORACLES: dict[str, Callable[[list[Array]], list[Array]]] = {
    "pgd": pgd_oracle, "momentum": momentum_oracle, "adam": adam_oracle,
}  # fmt: skip


@every_solver
def test_directions_are_those_of_the_formulas(name: str) -> None:
    g = gradients()
    found = directions(name, g).numpy()
    for row in range(ROWS):
        expected = ORACLES[name]([each[row].numpy() for each in g])
        np.testing.assert_allclose(found[:, row], np.stack(expected), rtol=1e-6, atol=1e-10)


@every_solver
def test_directions_are_unit_vectors_however_long_gradients_are(name: str) -> None:
    lengths = directions(name, gradients().float()).flatten(2).norm(dim=2)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-5, atol=0)


@every_solver
def test_a_row_is_the_same_whatever_its_neighbours_are_and_wherever_they_stand(name: str) -> None:
    g = gradients()
    alone, others = g.clone(), g.flip(0) * 7
    others[:, 1], others[3:, 0] = g[:, 1], torch.nan
    k = torch.tensor([0, 0, 0, 0]), torch.tensor([900, 0, 17, 3])
    assert torch.equal(directions(name, alone, k[0])[:, 1], directions(name, others, k[1])[:, 1])


@every_solver
def test_a_row_that_begins_later_goes_as_it_would_have_from_the_first_step(name: str) -> None:
    g, solver, late = gradients(), SOLVERS[name], 5
    x = torch.zeros_like(g[0])
    buffers, k = [torch.zeros_like(x) for _ in range(solver.buffers)], torch.zeros(ROWS, dtype=torch.int64)
    for i in range(late):
        constraint(solver, x, buffers, k + i).direction(g[i])
    for buffer in buffers:
        buffer[2] = 0
    k = torch.tensor([late, late, 0, late])
    found = [constraint(solver, x, buffers, k + i).direction(g[late + i])[2] for i in range(STEPS - late)]
    assert torch.equal(torch.stack(found), directions(name, g[late:])[:, 2])


@every_solver
def test_a_first_step_of_no_gradient_moves_nothing(name: str) -> None:
    assert (directions(name, torch.zeros(2, ROWS, *SHAPE)) == 0).all()


@every_solver
def test_nothing_asks_the_device_for_a_value(name: str) -> None:
    with torch.device("meta"):
        x, k = torch.empty(ROWS, *SHAPE), torch.empty(ROWS, dtype=torch.int64)
        buffers = [torch.empty_like(x) for _ in range(SOLVERS[name].buffers)]
        assert constraint(SOLVERS[name], x, buffers, k).direction(x).shape == x.shape
        assert multiplier(k, k, k).shape == k.shape


def distances(solver: str, schedule: str, step_size: float, steps: int) -> Tensor:
    """[steps, N] of searches on R(x) = A x, A diagonal of condition number 30, from the middle of the box."""
    scale = torch.logspace(0, -math.log10(30), 12, dtype=torch.float64)
    target = (0.2 + 0.6 * torch.rand(ROWS, 12, dtype=torch.float64, generator=generator(1))) * scale
    x = x0 = torch.full((ROWS, 3, 2, 2), 0.5, dtype=torch.float64)
    buffers = [torch.zeros_like(x) for _ in range(SOLVERS[solver].buffers)]
    which, of = (torch.full((ROWS,), v) for v in (SCHEDULES.index(schedule), steps))
    losses = []
    for i in range(steps):
        k = torch.full((ROWS,), i)
        rule = constraint(SOLVERS[solver], x, buffers, k)
        size = step_size * multiplier(which, k, of)
        x, loss, _ = pgd.step(lambda z: z.flatten(1) * scale, objectives.inversion(target), x, x0, 1000, size, rule)
        losses.append(loss)
    return torch.stack(losses)


def test_pgd_by_this_name_is_pgd_to_the_last_bit() -> None:
    x, scale = torch.rand(ROWS, 3, 2, 2, generator=generator(2)), torch.logspace(0, -1, 12)
    objective = objectives.inversion(torch.rand(ROWS, 12, generator=generator(3)))
    found, k = x, torch.zeros(ROWS, dtype=torch.int64)
    for i in range(STEPS):
        size = 0.1 * multiplier(k, k + i, k + STEPS)
        rule = constraint(SOLVERS["pgd"], found, [], k + i)
        found = pgd.step(lambda z: z.flatten(1) * scale, objective, found, x, 1000, size, rule).x
    assert torch.equal(found, pgd.pgd(lambda z: z.flatten(1) * scale, objective, x, x, 1000, 0.1, STEPS))


def test_on_an_ill_conditioned_quadratic_momentum_needs_half_the_steps_of_pgd() -> None:
    budgets = (25, 50, 100, 200, 400, 800)
    needed = {}
    for solver in ("pgd", "momentum"):
        needed[solver] = next(n for n in budgets if distances(solver, "cosine", 0.05, n)[-1].max() < 3e-3)
    assert needed["momentum"] <= needed["pgd"] / 2


@pytest.mark.parametrize("steps", [1, 7, 300, 10_000])
def test_schedules_run_from_1_to_what_they_say(steps: int) -> None:
    k = torch.arange(steps + 1)
    of = torch.full_like(k, steps)
    constant, cosine, geometric = (multiplier(torch.full_like(k, i), k, of).numpy() for i in range(3))
    part = k.numpy() / steps
    assert constant.dtype == cosine.dtype == np.float32
    assert (constant == 1).all()
    assert cosine[0] == geometric[0] == 1
    np.testing.assert_allclose(cosine, (1 + np.cos(np.pi * part)) / 2, rtol=0, atol=1e-6)
    np.testing.assert_allclose(geometric, GEOMETRIC_END**part, rtol=1e-5)
    np.testing.assert_allclose(cosine[-2], np.sin(np.pi / 2 / steps) ** 2, rtol=1e-2)
    assert cosine[-1] < 1e-12


def test_rows_of_one_batch_have_schedules_of_their_own() -> None:
    schedule, k, steps = torch.tensor([0, 1, 2, 1]), torch.tensor([5, 5, 10, 0]), torch.tensor([10, 10, 20, 0])
    torch.testing.assert_close(multiplier(schedule, k, steps), torch.tensor([1, 0.5, 0.1, 1]))
