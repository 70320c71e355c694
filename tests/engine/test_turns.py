"""Turns at the device, and the batcher's thread that takes them: many who submit, and a device that breaks."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.engine.batching import SIZE, K, inverting, outcomes, program, represent, run, same
from workers.engine.batcher import Batcher
from workers.engine.lanes import Program
from workers.engine.rows import DeviceError, Outcome, Ticket
from workers.engine.turns import Turns

SECONDS = 120.0
"""How long a test waits for what has to come."""


def in_line(turns: Turns, n: int) -> None:
    """Wait until n threads have or want their turn."""
    end = time.monotonic() + SECONDS
    while len(turns._line) < n:
        assert time.monotonic() < end
        time.sleep(0.001)


def asking(turns: Turns, names: str, order: list[str]) -> list[threading.Thread]:
    """A thread a name, each in line before the next one asks."""
    threads = []
    for name in names:

        def take(name: str = name) -> None:
            with turns:
                order.append(name)

        before = len(turns._line)
        threads.append(threading.Thread(target=take))
        threads[-1].start()
        in_line(turns, before + 1)
    return threads


def test_turns_come_in_the_order_of_asking() -> None:
    turns, order = Turns(), list[str]()
    with turns:
        threads = asking(turns, "abcde", order)
        assert order == []
    for thread in threads:
        thread.join(SECONDS)
    assert order == list("abcde")


def test_passing_on_lets_those_who_wait_go_first_and_takes_the_turn_back() -> None:
    turns, order = Turns(), list[str]()
    with turns:
        turns.pass_on()  # nobody waits
        threads = asking(turns, "abc", order)
        turns.pass_on()
        order.append("back")
        late = asking(turns, "d", order)
        order.append("still")
    for thread in threads + late:
        thread.join(SECONDS)
    assert order == ["a", "b", "c", "back", "still", "d"]


def test_a_turn_that_raises_is_given_up() -> None:
    turns, order = Turns(), list[str]()
    with pytest.raises(ValueError, match="in the middle"), turns:
        raise ValueError("in the middle")
    with turns:
        threads = asking(turns, "a", order)
    threads[0].join(SECONDS)
    assert order == ["a"]


def test_no_two_have_their_turn_at_once() -> None:
    turns, inside, most = Turns(), [0], [0]

    def work(_: int) -> None:
        for _ in range(50):
            with turns:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0)
                inside[0] -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert most == [1]


def collect(ticket: Ticket) -> dict[int, Outcome]:
    found, end = dict[int, Outcome](), time.monotonic() + SECONDS
    while len(found) < len(ticket.searches):
        assert time.monotonic() < end
        found |= {outcome.number: outcome for outcome in ticket.completed(0.05)}
    return found


def with_turn(turns: Turns, ticket: Ticket) -> dict[int, Outcome]:
    """While another thread takes its turn now and then."""
    with turns:
        time.sleep(0.01)
    return collect(ticket)


def test_threads_submit_to_a_running_batcher_and_each_gets_what_it_would_have_alone() -> None:
    turns, of = Turns(), program(bucket=4)
    batcher = Batcher(block=3, turns=turns)
    batcher.start()

    def job(tenant: int) -> list[dict[int, Outcome]]:
        rows = [inverting(tenant + 4 * i, 5 + tenant + i) for i in range(3)]
        return [with_turn(turns, batcher.submit(of, rows, tenant % 2, f"{tenant}")) for _ in range(2)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(job, range(4)))
    batcher.close()
    assert not batcher._thread.is_alive()
    for tenant, rounds in enumerate(found):
        for i in range(3):
            alone = run([inverting(tenant + 4 * i, 5 + tenant + i)], of)[0]
            assert all(same(replace(each[i], number=0), alone) for each in rounds)


def test_a_batcher_that_has_nothing_to_do_gives_up_its_turn_and_wakes_for_new_rows() -> None:
    turns = Turns()
    batcher = Batcher(turns=turns)
    batcher.start()
    for _ in range(3):
        collect(batcher.submit(program(), [inverting(0, 2)]))
        with turns:
            pass
    batcher.close()


def test_closing_stops_after_the_block_that_runs() -> None:
    batcher = Batcher(block=1)
    batcher.start()
    ticket = batcher.submit(program(), [inverting(0, 10**6)])
    end = time.monotonic() + SECONDS
    while not ticket.steps[0]:
        assert time.monotonic() < end
        time.sleep(0.001)
    batcher.close()
    assert not batcher._thread.is_alive()
    with pytest.raises(DeviceError, match="closed"):
        ticket.completed(0)
    with pytest.raises(DeviceError, match="closed"):
        batcher.submit(program(), [inverting(0)])


def test_one_that_was_never_started_can_be_closed() -> None:
    Batcher().close()


def out_of_reach(key: str, bucket: int = 2) -> Program:
    """On a device of which nothing can be read back."""
    weight = torch.ones(3 * SIZE * SIZE, K, device="meta")
    return Program(key, lambda x: x.flatten(1) @ weight, (3, SIZE, SIZE), K, torch.device("meta"), bucket=bucket)


def test_a_device_that_answers_no_more_is_told_to_every_ticket_and_takes_no_new_rows() -> None:
    batcher, told = Batcher(), threading.Event()
    batcher.on_broken = told.set
    tickets = [batcher.submit(out_of_reach("a"), [inverting(i) for i in range(3)]) for _ in range(2)]
    tickets.append(batcher.submit(out_of_reach("b"), [inverting(0)]))
    tickets.append(batcher.submit(program(), [inverting(0)]))
    batcher.start()
    assert told.wait(SECONDS)
    for ticket in tickets[:3]:
        with pytest.raises(DeviceError, match="NotImplementedError"):
            ticket.completed(SECONDS)
    with pytest.raises(DeviceError):
        batcher.submit(program(), [inverting(0)])
    batcher.close()


class Failing(Turns):
    """Its turn does not come once `over` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()

    def __enter__(self) -> "Failing":
        if self.over.is_set():
            raise RuntimeError("the device is gone")
        super().__enter__()
        return self


def test_so_are_rows_that_run_that_wait_and_that_nobody_looked_at_yet() -> None:
    """The first step breaks the device, and hands in the last ticket, while rows run and others wait."""
    turns, tickets = Failing(), list[Ticket]()
    batcher = Batcher(most=2, turns=turns)

    def f(x: Tensor) -> Tensor:
        if x.any() and not turns.over.is_set():
            tickets.append(batcher.submit(program(), [inverting(0)]))
            turns.over.set()
        return represent(x)

    tickets.append(batcher.submit(program(f, "f"), [inverting(i) for i in range(5)]))
    batcher.start()
    batcher._thread.join(SECONDS)
    assert [len(ticket.searches) for ticket in tickets] == [5, 1]
    for ticket in tickets:
        with pytest.raises(DeviceError, match="the device is gone"):
            ticket.completed(0)


def test_what_was_over_before_the_device_broke_is_still_answered() -> None:
    turns = Failing()
    batcher = Batcher(turns=turns, block=1)

    def f(x: Tensor) -> Tensor:
        calls.append(len(x))
        if len(calls) == 8:
            turns.over.set()
        return represent(x)

    calls: list[int] = []
    ticket = batcher.submit(program(f, bucket=2), [inverting(0, 2), inverting(1, 100)])
    batcher.start()
    batcher._thread.join(SECONDS)
    assert list(outcomes(ticket)) == [0]
    with pytest.raises(DeviceError, match="the device is gone"):
        ticket.completed(0)
