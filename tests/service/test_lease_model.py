"""The lease protocol: every state that its model can come to is right, and the service does what the model says."""

from collections import deque
from contextlib import nullcontext
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.service.lease_model import IDLE, OVER, State, violation
from tests.service.lease_moves import Model, Move
from tests.service.lease_service import Service


class Searched(NamedTuple):
    """How many states there are; the first violation, if any, and the moves that lead there."""

    states: int
    wrong: str
    way: list[str]


def canonical(state: State) -> State:
    """Which worker is which does not matter."""
    first, second = state.workers
    return state if first <= second else state._replace(workers=(second, first))


def at_the_end(state: State) -> bool:
    return state.job in OVER and all(w.at == IDLE for w in state.workers) and state.collector[0] == IDLE


def search(model: Model) -> Searched:
    """Visit every state; then see that each can come to the end with no further fault, nor wish of the client."""
    start = State()
    states, number, came = [start], {start: 0}, [(0, Move("start"))]
    before: list[list[int]] = [[]]
    queue = deque([0])
    while queue:
        n = queue.popleft()
        for move in model.moves(states[n]):
            after = model.after(states[n], move)
            if after is None:
                continue
            after = canonical(after)
            m = number.setdefault(after, len(states))
            if m == len(states):
                states.append(after)
                came.append((n, move))
                before.append([])
                queue.append(m)
                if wrong := violation(after):
                    return Searched(len(states), wrong, _way(came, m))
            if not move.costs and m != n:
                before[m].append(n)
    stuck = _not_reached(before, [n for n, state in enumerate(states) if at_the_end(state)])
    return Searched(len(states), "no way to the end" if stuck else "", _way(came, stuck[0]) if stuck else [])


def _not_reached(before: list[list[int]], ends: list[int]) -> list[int]:
    seen, queue = set(ends), deque(ends)
    while queue:
        for n in before[queue.popleft()]:
            if n not in seen:
                seen.add(n)
                queue.append(n)
    return [n for n in range(len(before)) if n not in seen]


def _way(came: list[tuple[int, Move]], n: int) -> list[str]:
    way = []
    while n:
        n, move = came[n]
        way.append(" ".join(str(part) for part in move if part not in (-1, None, "")))
    return way[::-1]


BOUNDS = [
    pytest.param(2, 1, 0, False, id="two faults and a wish"),
    pytest.param(1, 2, 0, False, id="two wishes and a fault"),
    pytest.param(1, 1, 1, False, id="checkpoints"),
    pytest.param(2, 0, 1, False, id="checkpoints and two faults"),
    pytest.param(1, 1, 0, True, id="a collector"),
    pytest.param(2, 0, 0, True, id="a collector and two faults"),
    pytest.param(1, 1, 1, True, id="everything", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(("faults", "wishes", "checkpoints", "collector"), BOUNDS)
def test_every_state_is_right_and_leads_to_the_end(faults: int, wishes: int, checkpoints: int, collector: bool) -> None:
    found = search(Model(faults, wishes, checkpoints, collector))
    assert (found.wrong, found.way) == ("", [])
    assert found.states > 15_000


BUGS = {
    "no fence": "a write under an old lease was taken",
    "pointer first": "a pointer without its object",
    "no epoch rule": "a pointer without its object",
    "pointers before epochs": "a pointer without its object",
    "split off at epoch 0": "a pointer without its object",
    "any old checkpoint goes": "a pointer without its object",
    "reopened items end": "an item ended that nobody had tried since it was opened",
    "cancels are not settled": "a job that nobody will end",
    "nothing is sent again": "no way to the end",
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_protocol_without_one_of_its_rules_is_found_wrong(bug: str) -> None:
    collector = bug in ("no epoch rule", "pointers before epochs")
    found = search(Model(1, 1, 0 if collector else 2, collector, bug))
    assert found.wrong == BUGS[bug]
    assert found.way


def situation(state: State, move: Move) -> tuple[object, ...]:
    """What a move's outcome depends on."""
    if move.worker < 0:
        shard = state.shards[max(move.on, 0)]
        alone = len([item for item in state.items if item.state not in OVER]) < 2
        return move.name, state.job, shard.state, shard.crashes, alone, len(state.shards)
    worker = state.workers[move.worker]
    shard = state.shards[worker.shard]
    item = state.items[move.on if move.name.startswith("fail") else worker.item]
    holds = (shard.state, shard.epoch > worker.epoch, shard.attempts)
    kept = shard.checkpoint and worker.written and (shard.checkpoint[0][1:3] == worker.written[0][1:3])
    return move.name, state.job, worker.at, *holds, item.state, item.shard == worker.shard, kept


Tree = dict[Move, "Tree"]
"""By each move from a state, those that follow it."""


def situations(model: Model) -> tuple[int, Tree]:
    """How many situations the model has, and the shortest ways through them, as one tree."""
    ways: dict[State, tuple[Move, ...]] = {State(): ()}
    found: dict[tuple[object, ...], tuple[Move, ...]] = {}
    queue = deque(ways)
    while queue:
        state = queue.popleft()
        for move in model.moves(state):
            if after := model.after(state, move):
                way = (*ways[state], move)
                found.setdefault(situation(state, move), way)
                if after not in ways:
                    ways[after] = way
                    queue.append(after)
    tree: Tree = {}
    for way in found.values():
        at = tree
        for move in way:
            at = at.setdefault(move, {})
    return len(found), tree


def explore(service: Service, tree: Tree) -> None:
    """Make each of the moves from where the service stands, and those that follow."""
    with service.going_back() if len(tree) > 1 else nullcontext(lambda: None) as go_back:
        for n, (move, following) in enumerate(tree.items()):
            if n:
                go_back()
            service.step(move)
            service.the_same()
            explore(service, following)


BY_SITUATION = [pytest.param(2, 0, 1, id="faults"), pytest.param(1, 1, 1, id="wishes")]


@pytest.mark.slow
@pytest.mark.parametrize(("faults", "wishes", "checkpoints"), BY_SITUATION)
def test_the_service_does_in_every_situation_what_the_model_says(faults: int, wishes: int, checkpoints: int) -> None:
    number, tree = situations(Model(faults, wishes, checkpoints, collector=False))
    assert number > 500
    service = Service()
    explore(service, tree)
    service.teardown()


@pytest.mark.slow
def test_the_service_does_what_the_model_says() -> None:
    few = settings(
        max_examples=60, stateful_step_count=20, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate],  # the moves of a failing run are printed; making them fewer takes minutes
    )  # fmt: skip
    run_state_machine_as_test(Service, settings=few)
