"""The batcher: buckets, faults of rows, memory and devices, and cancelling."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.engine.batching import (
    AIMS,
    STARTS,
    Recorder,
    finish,
    inverting,
    is_marked,
    marked,
    outcomes,
    program,
    represent,
    run,
    same,
    unmoved,
)
from workers.engine.batcher import Batcher
from workers.engine.places import MOST_FAULTS
from workers.engine.rows import NOT_FINITE, Outcome


def clean(outcome: Outcome) -> bool:
    return outcome.error is None


def assert_close(one: Outcome, other: Outcome) -> None:
    """The same but for rounding, as batches of other sizes leave it."""
    torch.testing.assert_close(one.x, other.x, rtol=0, atol=1e-4)
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one.grad_norm, other.grad_norm, rtol=1e-2, atol=1e-3)


def halves(sizes: list[int]) -> list[int]:
    """Sizes in the order in which they came, each once."""
    return list(dict.fromkeys(sizes))


# Buckets.


def test_batches_are_powers_of_two_and_halve_as_rows_end() -> None:
    f = Recorder()
    run([inverting(i, 3 + 4 * i) for i in range(6)], program(f))
    assert halves(f.rows) == [8, 4, 2, 1]
    assert f.rows == sorted(f.rows, reverse=True)


def test_rows_that_end_between_others_leave_no_gap() -> None:
    f = Recorder()
    found = run([inverting(i, 30 if i in (2, 7) else 2) for i in range(8)], program(f))
    assert halves(f.rows) == [8, 2]
    for i in (2, 7):
        assert_close(found[i], run([inverting(i, 30)])[0])


@pytest.mark.parametrize(("most", "bucket", "batch"), [(4, None, 4), (7, None, 4), (1, None, 1), (2, 8, 8)])
def test_no_batch_is_over_capacity_and_every_row_gets_its_turn(most: int, bucket: int | None, batch: int) -> None:
    f = Recorder()
    found = run([inverting(i, 2) for i in range(11)], program(f, bucket=bucket), most=most)
    assert max(f.rows) == batch
    assert all(len(found[i].loss) == 3 for i in range(11))


def test_a_row_is_over_before_longer_ones_and_its_place_is_taken_at_once() -> None:
    batcher = Batcher(most=2)
    short, long = batcher.submit(program(), [inverting(0, 2)]), batcher.submit(program(), [inverting(1, 200)])
    after = batcher.submit(program(), [inverting(2, 2)])
    while not outcomes(after):
        assert batcher.step()
    assert len(outcomes(short)) == 1
    assert 0 < long.steps[0] < 20
    assert not outcomes(long)


def test_what_was_computed_is_counted() -> None:
    f, batcher = Recorder(), Batcher()
    ticket = batcher.submit(program(f), [inverting(i, 3 + i) for i in range(5)])
    blocks = finish(batcher)
    assert batcher.stats.blocks == blocks
    assert batcher.stats.row_steps == sum(f.rows)
    assert batcher.stats.image_steps == sum(len(o.loss) for o in outcomes(ticket).values())


def test_a_ticket_follows_its_rows_block_by_block() -> None:
    batcher, rows = Batcher(block=4), [inverting(0, 9), inverting(1, 3)]
    ticket = batcher.submit(program(bucket=4), rows)
    traces = [run([row], program(bucket=4))[0].loss for row in rows]
    assert (ticket.over.tolist(), ticket.reached()) == ([False, False], 0)
    assert np.isnan(ticket.losses(5)).all()
    while batcher.step():
        for i, trace in enumerate(traces):
            assert ticket.over[i] <= (ticket.steps[i] == rows[i].steps)
            for step in range(ticket.steps[i]):
                assert ticket.losses(step)[i] == trace[step]
        assert ticket.reached() == (ticket.steps[0] if ticket.over[1] else ticket.steps.min())
    assert (ticket.over.tolist(), ticket.steps.tolist(), ticket.reached()) == ([True, True], [9, 3], 9)
    assert ticket.losses(100).tolist() == [trace[-1] for trace in traces]


# Rows that cannot go on.


def nan_where_marked(x: Tensor) -> Tensor:
    return unmoved(x).masked_fill(is_marked(x)[:, None], torch.nan)


@pytest.mark.parametrize("best", [False, True], ids=["last", "best"])
def test_a_row_that_meets_nan_fails_alone_and_its_neighbours_are_bitwise_as_without_it(best: bool) -> None:
    """With `best`, it has no best iterate at all."""
    rows = [inverting(i, best=best) for i in range(4)]
    found = run([*rows[:2], replace(rows[2], x=marked(2), x0=marked(2)), rows[3]], program(nan_where_marked, bucket=4))
    without = run([*rows[:2], rows[3]], program(nan_where_marked, bucket=4))
    assert found[2].error == NOT_FINITE
    assert found[2].loss.shape == (1,)
    assert all(same(found[i], without[j]) and clean(found[i]) for i, j in ((0, 0), (1, 1), (3, 2)))


def test_a_row_whose_gradient_is_nan_fails_too() -> None:
    f = lambda x: represent(x) + (x.flatten(1)[:, :1] * 0).sqrt()  # noqa: E731
    outcome = run([inverting(0)], program(f))[0]
    assert outcome.error == NOT_FINITE
    assert outcome.loss.isfinite().all()


class Raising:
    """R, which raises for a marked image after having taken `calls` of them."""

    def __init__(self, calls: int = 0, error: Exception | None = None) -> None:
        self.calls, self.error = calls, error or ValueError("it cannot take this one")

    def __call__(self, x: Tensor) -> Tensor:
        if is_marked(x).any():
            self.calls -= 1
            if self.calls < 0:
                raise self.error
        return unmoved(x)


@pytest.mark.parametrize("place", [0, 2, 3])
@pytest.mark.parametrize("calls", [0, 3])
@pytest.mark.parametrize("bucket", [None, 8], ids=["buckets", "pinned"])
def test_a_row_for_which_the_network_raises_fails_alone(bucket: int | None, calls: int, place: int) -> None:
    rows = [inverting(i) for i in range(4)]
    mixed = [inverting(i, x=marked(i)) if i == place else row for i, row in enumerate(rows)]
    found, without = run(mixed, program(Raising(calls), bucket=bucket)), run(rows, program(unmoved, bucket=bucket))
    assert found[place].error == "ValueError: it cannot take this one"
    for i in set(range(4)) - {place}:
        assert clean(found[i])
        assert_close(found[i], without[i])
        assert bucket is None or same(found[i], without[i])


def test_several_that_raise_fail_and_those_between_them_do_not() -> None:
    found = run([inverting(i, x=marked(i) if i % 2 else None) for i in range(8)], program(Raising()))
    assert [clean(found[i]) for i in range(8)] == [True, False] * 4


def test_a_fault_that_does_not_come_back_costs_nothing() -> None:
    rows, count = [inverting(i) for i in range(3)], [0]

    def once(x: Tensor) -> Tensor:
        count[0] += bool(x.any())
        if count[0] == 4:
            raise RuntimeError("a hiccup")
        return represent(x)

    found, without = run(rows, program(once, bucket=4)), run(rows, program(bucket=4))
    assert all(same(found[i], without[i]) for i in range(3))


def test_rows_that_raise_in_company_only_all_fail_after_some_faults_and_the_lane_lives_on() -> None:
    def alone_only(x: Tensor) -> Tensor:
        if x.flatten(1).any(dim=1).sum() > 1:
            raise ValueError("one at a time")
        return represent(x)

    batcher = Batcher()
    ticket = batcher.submit(program(alone_only), [inverting(i, 100) for i in range(4)])
    assert finish(batcher, 20) >= MOST_FAULTS - 1
    found = outcomes(ticket)
    assert [found[i].error for i in range(4)] == ["ValueError: one at a time"] * 4
    after = batcher.submit(program(alone_only), [inverting(5)])
    finish(batcher)
    assert clean(outcomes(after)[0])


UNFIT: dict[str, dict[str, Any]] = {
    "x is smaller than x0": {"x": STARTS[0][:, 1:]},
    "x0 is smaller than x": {"x0": STARTS[0][:, :, 1:]},
    "one channel": {"x": STARTS[0][:1], "x0": STARTS[0][:1]},
    "both are smaller": {"x": STARTS[0][:, 2:, 2:], "x0": STARTS[0][:, 2:, 2:]},
    "aim is short": {"aim": AIMS[0][:5]},
    "aim is one number": {"aim": AIMS[0][:1]},
    "aim is a batch": {"aim": AIMS[:1]},
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_row_of_another_shape_fails_alone_in_words(case: str) -> None:
    rows = [inverting(0), replace(inverting(1), **UNFIT[case]), inverting(2)]
    found, without = run(rows, program(bucket=4)), run([rows[0], rows[2]], program(bucket=4))
    for tensor in UNFIT[case].values():
        assert str(tuple(tensor.shape)) in str(found[1].error)
    assert "allowed: (3, 12, 12) twice and (8,)" in str(found[1].error)
    assert same(found[0], without[0])
    assert same(found[2], without[1])


@pytest.mark.parametrize("change", [{"schedule": "linear"}, {"eps": None}, {"steps": "many"}, {"aim": "up"}], ids=str)
def test_a_row_of_numbers_that_no_lane_knows_fails_alone_too(change: dict[str, Any]) -> None:
    found = run([inverting(0), replace(inverting(1), **change), inverting(2)])
    assert [clean(found[i]) for i in range(3)] == [True, False, True]


# Memory that runs out.


def torch_error(_: Tensor) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def real_allocation(_: Tensor) -> None:
    torch.empty(1 << 50)


class Bounded:
    """R, for as many rows as fit, once it has made `calls` batches of more."""

    def __init__(self, rows: int, raises: Callable[[Tensor], None], calls: int = 0) -> None:
        self.rows, self.raises, self.calls = rows, raises, calls

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > self.rows:
            self.calls -= 1
            if self.calls < 0:
                self.raises(x)
        return represent(x)


@pytest.mark.parametrize("raises", [torch_error, real_allocation])
@pytest.mark.parametrize("calls", [0, 5])
@pytest.mark.parametrize("rows", [4, 2, 1])
def test_without_memory_for_a_batch_the_rows_halve_and_nothing_is_lost(
    rows: int, calls: int, raises: Callable[[Tensor], None]
) -> None:
    batcher = Batcher(most=16)
    ticket = batcher.submit(program(Bounded(rows, raises, calls)), [inverting(i) for i in range(11)])
    finish(batcher)
    found, without = outcomes(ticket), run([inverting(i) for i in range(11)])
    (place,) = batcher.places.values()
    assert place.lane.capacity == rows
    for i in range(11):
        assert clean(found[i])
        assert_close(found[i], without[i])


@pytest.mark.parametrize(("bucket", "rows"), [(8, 4), (None, 0)], ids=["pinned", "not one row"])
def test_where_the_rows_cannot_be_fewer_they_fail_in_words(bucket: int | None, rows: int) -> None:
    found = run([inverting(i) for i in range(3)], program(Bounded(rows, torch_error, 3), bucket=bucket))
    assert {o.error for o in found.values()} == {"OutOfMemoryError: CUDA out of memory"}


def test_idle_lanes_give_up_their_memory_before_rows_do() -> None:
    batcher, room = Batcher(), [False]

    def f(x: Tensor) -> Tensor:
        if x.any() and not room[0] and len(batcher.places) > 1:
            room[0] = True
            raise torch.OutOfMemoryError("CUDA out of memory")
        return represent(x)

    batcher.submit(program(), [inverting(0, 1)])
    finish(batcher)
    ticket = batcher.submit(program(f, "other"), [inverting(i) for i in range(4)])
    finish(batcher)
    assert room[0]
    (place,) = batcher.places.values()
    assert place.lane.capacity == 256
    assert all(clean(o) for o in outcomes(ticket).values())


# Cancelling.


@pytest.mark.parametrize("after", [0, 1, 3], ids=["before it was taken in", "soon", "on its way"])
def test_what_is_cancelled_is_dropped_at_the_next_block_and_its_neighbours_are_bitwise_as_without(after: int) -> None:
    batcher, of = Batcher(block=2), program(bucket=4)
    ticket = batcher.submit(of, [inverting(i, 100) for i in range(3)])
    other = batcher.submit(of, [inverting(3, 12)])
    for _ in range(after):
        batcher.step()
    ticket.cancel()
    finish(batcher, 10)
    assert outcomes(ticket) == {}
    assert ticket.steps.max() <= 2 * after
    assert same(outcomes(other)[0], run([inverting(3, 12)], of)[0])


def test_cancelling_those_that_wait_leaves_those_of_others_and_all_of_it_ends() -> None:
    batcher = Batcher(most=2)
    first, second, third = (batcher.submit(program(), [inverting(i, 20) for i in range(5)]) for _ in range(3))
    batcher.step()
    second.cancel()
    finish(batcher)
    assert [len(outcomes(t)) for t in (first, second, third)] == [5, 0, 5]
