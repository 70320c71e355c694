"""Rows that make their last steps in full precision."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.engine.batching import Recorder, finish, inverting, outcomes, program, represent, run, same
from workers.engine.batcher import Batcher
from workers.engine.lanes import Program


def coarse(x: Tensor) -> Tensor:
    """R with 8 bits of mantissa."""
    return represent(x).bfloat16().float() + 0 * represent(x)


def both(low: Recorder, exact: Recorder, bucket: int | None = None, solver: str = "momentum") -> Program:
    full = program(exact, key="both", bucket=bucket, solver=solver)
    return replace(full, f=low, precision="bf16", exact=full)


@pytest.mark.parametrize("steps", [1, 2, 7, 60])
def test_the_last_fifth_of_the_steps_is_in_full_precision(steps: int) -> None:
    low, exact = Recorder(), Recorder()
    (found,) = run([inverting(0, steps)], both(low, exact)).values()
    assert (len(low.rows), len(exact.rows)) == (int(0.8 * steps), steps + 1 - int(0.8 * steps))
    assert len(found.loss) == steps + 1


@pytest.mark.parametrize("solver", ["pgd", "momentum", "adam"])
def test_going_over_changes_nothing_but_the_precision(solver: str) -> None:
    rows = [inverting(i, 20 + 7 * i) for i in range(4)]
    one = run(rows, program(bucket=4, solver=solver))
    two = run(rows, both(Recorder(), Recorder(), 4, solver), block=6)
    assert all(same(one[i], two[i]) for i in range(4))


def test_the_best_iterate_is_one_of_full_precision() -> None:
    low, exact = Recorder(lambda x: 1e-3 * represent(x)), Recorder()  # there, each loss is small
    row = inverting(0, 20, best=True, aim=torch.zeros(8) + 1e-3)
    (found,) = run([row], both(low, exact)).values()
    distance = (represent(found.x[None])[0] - row.aim).norm()
    torch.testing.assert_close(found.loss[-1], distance, rtol=1e-4, atol=1e-5)


def test_a_coarse_search_that_ends_exactly_comes_nearer_than_a_coarse_one() -> None:
    rows = [inverting(i, 100, schedule="geometric", step_size=0.5) for i in range(8)]
    rough, ended = run(rows, program(coarse)), run(rows, both(Recorder(coarse), Recorder(), solver="pgd"))

    def distance(found: dict[int, object]) -> float:
        xs = torch.stack([found[i].x for i in range(8)])  # type: ignore[attr-defined]
        return float((represent(xs) - torch.stack([row.aim for row in rows])).norm(dim=1).median())

    assert distance(dict(ended)) < distance(dict(rough))


def test_rows_on_their_way_can_be_cancelled() -> None:
    batcher = Batcher()
    ticket = batcher.submit(both(Recorder(), Recorder()), [inverting(i, 50) for i in range(3)])
    while int(ticket.steps.min()) < 41:
        assert batcher.step()
    ticket.cancel()
    assert finish(batcher) == 0
    assert outcomes(ticket) == {}
