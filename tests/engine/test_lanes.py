"""What a row of a shared batch computes: against plain PGD, a re-derivation in float64, and itself in other company."""

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.engine.batching import (
    AIMS,
    DIRECTIONS,
    NET,
    SIZE,
    STARTS,
    K,
    finish,
    inverting,
    maximising,
    outcomes,
    program,
    represent,
    run,
    same,
)
from tests.engine.networks import small
from workers.engine.batcher import Batcher
from workers.engine.descent import descent
from workers.engine.lanes import Program
from workers.engine.objectives import Objective, activation, exceeds_all, inversion, until
from workers.engine.pgd import pgd
from workers.engine.rows import PLATEAU, Outcome, Row
from workers.engine.solvers import SCHEDULES, SOLVERS


def plain(objective: Objective, n: int, eps: float, steps: int, best: bool) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """PGD's result, and (x, loss, gradient norm) before each step, on images laid out as a lane's are."""
    x, seen = STARTS[:n].contiguous(memory_format=torch.channels_last), list[tuple[Tensor, ...]]()
    result = pgd(represent, objective, x, x, eps, 0.1, steps, best, lambda _, *now: seen.append(now))
    return result, seen


@pytest.mark.parametrize("n", [1, 4, 8])
@pytest.mark.parametrize("best", [False, True], ids=["last", "best"])
@pytest.mark.parametrize("eps", [0.3, 1000.0])
@pytest.mark.parametrize("inverts", [True, False], ids=["inversion", "activation"])
def test_rows_are_bitwise_a_plain_run_with_its_trace_and_frames(inverts: bool, eps: float, best: bool, n: int) -> None:
    aims = AIMS[:n] if inverts else DIRECTIONS[:n]
    objective = inversion(aims) if inverts else activation(aims)
    expected, seen = plain(objective, n, eps, 9, best)
    row = inverting if inverts else maximising
    found = run([row(i, 9, eps=eps, best=best, frames=frozenset({0, 4})) for i in range(n)])
    last, _ = objective(represent(expected))
    for i in range(n):
        assert torch.equal(found[i].x, expected[i])
        assert torch.equal(found[i].loss, torch.stack([*(loss[i] for _, loss, _ in seen), last[i]]))
        assert torch.equal(found[i].grad_norm, torch.stack([norm[i] for *_, norm in seen]))
        shown = torch.stack([seen[0][0][i], seen[4][0][i], expected[i]])
        assert found[i].frame_steps == [0, 4, 9]
        assert torch.equal(found[i].frames, (shown * 255).round().byte())
        assert found[i].bucket == n
        assert found[i].error is None


def test_a_row_that_exceeds_is_bitwise_where_a_plain_run_until_then_first_had_no_gradient() -> None:
    n, steps, aims = K, 40, torch.eye(K) - 0.1
    expected, seen = plain(until(activation(aims), exceeds_all(torch.arange(n))), n, 1000, steps, False)
    found = run([maximising(i, steps, aim=aims[i], exceeds=True) for i in range(n)], program(bucket=n))
    reached = [next((k for k, (*_, norm) in enumerate(seen) if norm[i] == 0), steps) for i in range(n)]
    assert len(set(reached)) > 3  # a batch that goes on without those that are there
    for i, k in enumerate(reached):
        iterates = torch.stack([*(x[i] for x, *_ in seen), expected[i]])
        assert torch.equal(found[i].x, iterates[k])
        assert len(found[i].loss) == k + 1
        assert torch.equal(found[i].loss[:k], torch.stack([loss[i] for _, loss, _ in seen])[:k])
        r = represent(found[i].x[None])[0]
        assert (r.argmax() == i) == (k < steps)


def derived(row: Row) -> tuple[np.ndarray, float]:
    """A row alone, from the formulas, in float64: its last iterate and that one's loss."""
    net, x, x0 = small(dtype=torch.float64), row.x.double(), row.x0.double()

    def loss(x: Tensor) -> Tensor:
        r = net.represent(x[None])[0]
        return (r - row.aim.double()).norm() / row.scale if row.inverts else -(row.aim.double() @ r)

    for k in range(row.steps):
        falls = {"constant": 1.0, "cosine": (1 + math.cos(math.pi * k / row.steps)) / 2}
        size = row.step_size * falls.get(row.schedule, 0.01 ** (k / row.steps))
        x.requires_grad_(True)
        (g,) = torch.autograd.grad(loss(x), x)
        delta = x.detach() - size * g / g.norm() - x0
        x = (x0 + delta * min(1, row.eps / delta.norm().item())).clamp(0, 1)
    return x.numpy(), loss(x).item()


def test_rows_of_both_kinds_and_any_numbers_share_a_batch_and_each_is_its_own_derivation() -> None:
    rows = [
        replace(
            (inverting, maximising)[i % 2](i, 3 + i),
            eps=(0.2, 0.5, 1000.0)[i % 3],
            step_size=0.02 * (1 + i % 5),
            schedule=SCHEDULES[i // 2 % 3],
            scale=1.0 + i,
        )
        for i in range(13)
    ]
    found = run(rows)
    assert found[0].bucket == 16
    for i, row in enumerate(rows):
        x, loss = derived(row)
        np.testing.assert_allclose(found[i].x.numpy(), x, rtol=0, atol=2e-4)
        assert found[i].loss[-1].item() == pytest.approx(loss, rel=1e-3)
        assert len(found[i].loss) == len(found[i].grad_norm) + 1 == row.steps + 1


def test_a_start_away_from_its_centre_is_kept_within_eps_of_the_centre() -> None:
    x0 = STARTS[0] * 0.9
    row = inverting(0, 20, x0=x0, eps=(STARTS[0] - x0).norm().item(), step_size=0.4)
    assert (run([row])[0].x - x0).norm().item() <= row.eps * (1 + 1e-5)


# Bitwise the same, whatever shares a pinned batch.

Run = Callable[[Row, Program], Outcome]
OTHERS = [inverting(i, 6 + i) for i in range(1, 6)] + [maximising(i, 9) for i in range(6, 10)]


def in_a_full_batch(row: Row, of: Program) -> Outcome:
    return run([*OTHERS[:5], row, *OTHERS[5:]], of)[5]


def in_blocks_of_3(row: Row, of: Program) -> Outcome:
    return run([row], of, block=3)[0]


def admitted_in_the_middle(row: Row, of: Program) -> Outcome:
    batcher = Batcher(block=4)
    others = batcher.submit(of, OTHERS[:3])
    batcher.step()
    batcher.step()
    assert others.steps.min() > 0
    ticket = batcher.submit(of, [row])
    finish(batcher)
    return outcomes(ticket)[0]


def preempted_again_and_again(row: Row, of: Program) -> Outcome:
    batcher, preempted = Batcher(block=2), 0
    ticket = batcher.submit(of, [row], priority=0)
    while not (over := outcomes(ticket)):
        batcher.submit(of, [inverting(i, 1) for i in range(4)], priority=1)
        batcher.step()
        preempted += ticket.searches[0].state is not None
        batcher.step()
    assert preempted > 1
    finish(batcher)
    return over[0]


def gone_on_with_by_others(row: Row, of: Program) -> Outcome:
    """As by workers that die one after another: each knows no more than the snapshot, as bytes, of the one before."""
    kept, died = pickle.dumps({}), 0
    while True:
        batcher = Batcher(block=2)
        ticket = batcher.submit(of, [row], begun=pickle.loads(kept))
        batcher.submit(of, OTHERS[: died % 4])
        batcher.step()
        batcher.ask(ticket)
        batcher.step()  # it answers how the row stood before this step, which is then lost
        if over := outcomes(ticket):
            assert died
            return over[0]
        assert ticket.snapshot
        kept, died = pickle.dumps(ticket.snapshot), died + 1


COMPANY = [in_a_full_batch, in_blocks_of_3, admitted_in_the_middle, preempted_again_and_again, gone_on_with_by_others]


@pytest.mark.parametrize("company", COMPANY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_with_a_pinned_bucket_a_row_is_bitwise_as_it_is_alone(solver: str, schedule: str, company: Run) -> None:
    row, of = (
        inverting(0, 13, schedule=schedule, eps=0.9, frames=frozenset({0, 5, 9})),
        program(bucket=4, solver=solver),
    )
    alone = run([row], of)[0]
    assert len(alone.loss) == 14
    assert same(company(row, of), alone)


@pytest.mark.parametrize("company", COMPANY, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "options",
    [{"best": True}, {"patience": 2, "step_size": 0.5}, {"stop_loss": 0.2}, {"best": True, "patience": 1}],
    ids=str,
)
def test_so_is_one_that_keeps_its_best_or_stops_early(options: dict[str, Any], company: Run) -> None:
    row, of = inverting(0, 20, **options), program(bucket=4)
    assert same(company(row, of), run([row], of)[0])


@pytest.mark.parametrize("company", COMPANY, ids=lambda f: f.__name__)
def test_so_is_one_in_bf16(company: Run) -> None:
    f = descent(NET, "penultimate", False, "mean", "bf16", SIZE)
    row, of = inverting(0, 8), program(f, precision="bf16", bucket=4)
    assert same(company(row, of), run([row], of)[0])


def test_images_of_idle_rows_reach_no_result() -> None:
    """Blank images give NaN here, and only idle rows are blank."""
    f = lambda x: represent(x) / x.flatten(1).any(dim=1)[:, None]  # noqa: E731
    rows = [inverting(i, 3 + i) for i in range(3)]
    with_nan, without = run(rows, program(f, bucket=8)), run(rows, program(bucket=8))
    assert all(same(with_nan[i], without[i]) for i in range(3))


# When a row ends.


def first(condition: np.ndarray) -> int:
    return int(np.flatnonzero(condition)[0])


@pytest.mark.parametrize("steps", [0, 1, 25, 26, 60])
def test_a_row_ends_after_its_steps(steps: int) -> None:
    outcome = run([inverting(0, steps), inverting(1, 33)])[0]
    assert (len(outcome.loss), len(outcome.grad_norm)) == (steps + 1, steps)
    if not steps:
        assert torch.equal(outcome.x, STARTS[0])


def test_a_row_ends_at_the_first_iterate_of_at_most_its_stop_loss() -> None:
    free = run([inverting(0, 30)])[0]
    for wanted in (free.loss[0].item(), free.loss[7].item(), float(free.loss[11:13].mean())):
        outcome = run([inverting(0, 30, stop_loss=wanted)])[0]
        k = first(free.loss.numpy() <= wanted)
        assert len(outcome.grad_norm) == k
        assert torch.equal(outcome.loss, free.loss[: k + 1])


def tired_at(loss: np.ndarray, patience: int) -> int:
    """The step before which the least loss, but for falls of a thousandth, is `patience` steps old."""
    least, since = loss[0], 0
    for k in range(1, len(loss)):
        since += 1
        if loss[k] < least - PLATEAU * abs(least):
            least, since = loss[k], 0
        if since == patience:
            return k
    return len(loss) - 1


@pytest.mark.parametrize("patience", [1, 2, 3, 7])
@pytest.mark.parametrize("row", [inverting, maximising])
def test_a_row_ends_when_its_patience_does(row: Callable[..., Row], patience: int) -> None:
    """A search of long steps within a small radius, which soon leads nowhere."""
    numbers = range(4)
    free = run([row(i, 60, step_size=0.4, eps=0.8) for i in numbers], program(bucket=4))
    found = run([row(i, 60, step_size=0.4, eps=0.8, patience=patience) for i in numbers], program(bucket=4))
    ends = [tired_at(free[i].loss.double().numpy(), patience) for i in numbers]
    assert min(ends) < 60
    for i, k in enumerate(ends):
        assert torch.equal(found[i].loss, free[i].loss[: k + 1])
        assert torch.equal(found[i].grad_norm, free[i].grad_norm[:k])


def test_a_row_without_a_gradient_stays_where_it_is_and_ends_at_once() -> None:
    at_aim = inverting(0, 50, aim=represent(STARTS[:1].contiguous(memory_format=torch.channels_last))[0])
    for row, f in ((at_aim, represent), (inverting(1, 50), lambda x: x.flatten(1)[:, :K] * 0)):
        outcome = run([row], program(f))[0]
        assert (len(outcome.loss), len(outcome.grad_norm), outcome.error) == (1, 0, None)
        assert torch.equal(outcome.x, row.x)


def test_the_best_of_a_row_is_never_worse_than_any_loss_of_its_trace() -> None:
    outcome = run([inverting(0, 30, step_size=0.7, best=True)])[0]
    free = run([inverting(0, 30, step_size=0.7)])[0]
    assert free.loss[-1] > free.loss.min()
    assert outcome.loss[-1] == free.loss.min()
    assert (represent(outcome.x[None])[0] - AIMS[0]).norm().item() == pytest.approx(free.loss.min().item(), rel=1e-4)
