"""The lease protocol: every state that its model can come to is right, and the service does what the model says."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service import jobs, leases
from service.collector import collect
from service.db import Database, now
from service.errors import Conflict
from service.keys import shard_checkpoint_key
from service.leases import Lease, LeaseLost
from service.models import Artifact, Item, Job, Shard
from service.storage import LocalStorage, Stored, artifact_key
from tests.fixtures import migrated
from tests.service.lease_model import (
    IDLE,
    MAX_ATTEMPTS,
    MAX_CRASHES,
    OVER,
    Key,
    Object,
    State,
    over,
    unpointed,
    violation,
)
from tests.service.lease_moves import Model, Move
from tests.service.test_jobs import do, submit


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


WISHES: dict[str, Callable[[Session, str], object]] = {
    "cancel": jobs.cancel, "pause": jobs.pause, "resume": jobs.resume, "retry": jobs.retry,
}  # fmt: skip


class Service(RuleBasedStateMachine):
    """The service's own functions, on SQLite and in a folder, beside the model: the same moves, the same states."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        path = Path(self.folder.name) / "machine.db"
        path.write_bytes(migrated())
        self.db = Database(f"sqlite:///{path}")
        self.storage = LocalStorage(Path(self.folder.name) / "objects")
        self.job_id, _ = submit(self.db)
        self.model, self.state = Model(faults=99, wishes=99, checkpoints=2, collector=False), State()
        self.replaced: dict[int, str | None] = {}

    def teardown(self) -> None:
        self.db.close()
        self.folder.cleanup()

    @rule(data=st.data())
    def some_moves(self, data: st.DataObject) -> None:
        for _ in range(6):
            rarely = data.draw(st.integers(0, 9)) == 0  # what ends a lease or a job, so that most are lived through
            moves = [m for m in self.model.moves(self.state) if rarely or m.name not in ("die", "cancel")]
            possible = [m for m in moves if self.model.after(self.state, m)]
            if possible:
                self.step(data.draw(st.sampled_from(possible)))
                self.the_same()

    def step(self, move: Move) -> None:
        """Make a move in both worlds."""
        before, after = self.state, self.model.after(self.state, move)
        assert after
        self.state = after
        with suppress(LeaseLost):  # whether it should be: the rows tell
            self._do(before, move, move.name.partition(",")[0])

    @rule(wish=st.sampled_from(list(WISHES)))
    def refused(self, wish: str) -> None:
        """What the model does not have changes nothing."""
        if wish not in {move.name for move in self.model.moves(self.state)}:
            with suppress(Conflict):
                do(self.db, WISHES[wish], self.job_id)

    @rule()
    def collected(self) -> None:
        kept = {each for each in self.state.objects if not (over(self.state, each) and unpointed(self.state, each))}
        orphans = len(self.state.objects) - len(kept)
        self.state = self.state._replace(objects=frozenset(kept))
        assert collect(self.db, self.storage).orphans == orphans

    @invariant()
    def the_same(self) -> None:
        assert violation(self.state) == ""
        with self.db.reading() as session:
            assert session.get_one(Job, self.job_id).state == self.state.job
            shards = {self._number(shard.id): shard for shard in session.scalars(select(Shard))}
            artifacts = {a.item_index: a.key for a in session.scalars(select(Artifact))}
            items = session.scalars(select(Item).order_by(Item.index)).all()
        assert [
            (s.state, s.epoch, s.attempts, s.crashes, s.checkpoint and s.checkpoint["key"])
            for s in (shards[n] for n in range(len(shards)))
        ] == [(*s[:4], s.checkpoint and self._key(s.checkpoint[0])) for s in self.state.shards]
        assert [(i.state, self._number(i.shard_id), i.epoch, artifacts.get(i.index)) for i in items] == [
            (*i[:3], i.artifact and self._key(i.artifact[0])) for i in self.state.items
        ]
        stored = {key: int(self.storage.get(key)) for key in self.storage.keys("")}
        assert stored == {self._key(key): writer for key, writer in self.state.objects}

    def _number(self, shard_id: str) -> int:
        return int(shard_id.removeprefix(f"{self.job_id}."))

    def _key(self, key: Key) -> str:
        kind, number, epoch, n = key
        if kind == "items":
            return artifact_key(self.job_id, number, epoch, "result.bin")
        return shard_checkpoint_key(self.job_id, f"{self.job_id}.{number}", epoch, n)

    def _stored(self, written: Object | None) -> Stored:
        assert written
        key, writer = written
        return Stored(self._key(key), len(str(writer)), "0" * 64)

    def _put(self, written: Object | None) -> None:
        assert written
        self.storage.put(self._key(written[0]), str(written[1]).encode(), "application/octet-stream")

    def _do(self, before: State, move: Move, name: str) -> None:
        """The move, in the service. Raises LeaseLost."""
        if move.worker < 0:
            self._of_nobody(move)
            return
        worker, after = before.workers[move.worker], self.state.workers[move.worker]
        lease = Lease(f"{self.job_id}.{worker.shard}", self.job_id, worker.epoch)
        if name == "claim":
            work = do(self.db, leases.claim, f"{self.job_id}.{move.on}", "worker", 60)
            if after.at != IDLE:
                assert work
                assert (work.lease.epoch, tuple(item.index for item in work.items)) == (after.epoch, after.left)
        elif name in ("put", "put checkpoint"):
            self._put(after.written)
        elif name == "save":
            artifacts = {"result.bin": (self._stored(worker.written), "application/octet-stream")}
            do(self.db, leases.save_item, lease, worker.item, {}, {}, artifacts)
        elif name == "fail":
            do(self.db, leases.fail_item, lease, move.on, "Title", "detail")
        elif name == "save checkpoint":
            replaced = do(self.db, leases.save_checkpoint, lease, self._stored(worker.written))
            if after != worker:  # otherwise it has not heard of it
                assert replaced == (after.written and self._key(after.written[0]))
        elif name == "delete":
            self.storage.delete(self._stored(worker.written).key)
        elif name == "heartbeat":
            stop = leases.Directive.RELEASE if before.job == "paused" else leases.Directive.STOP
            assert do(self.db, leases.heartbeat, lease, 60, {}) is stop
        elif name == "finish":
            do(self.db, leases.finish, lease)
        elif name == "fail attempt":
            do(self.db, leases.fail_attempt, lease, "Title", "detail", MAX_ATTEMPTS)
        else:
            assert name in ("die", "drain")

    def _of_nobody(self, move: Move) -> None:
        if move.name == "expire":
            shard_id = f"{self.job_id}.{move.on}"
            with self.db.transaction() as session:
                session.execute(update(Shard).where(Shard.id == shard_id).values(lease_expires_at=now() - 1))
            assert do(self.db, leases.expire_lease, shard_id, MAX_CRASHES)
        elif move.name not in ("send", "lose"):
            do(self.db, WISHES[move.name], self.job_id)


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


def situations(model: Model) -> list[tuple[Move, ...]]:
    """A shortest way to each situation of the model, and through it, unless it is the beginning of another."""
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
    begun = {way[:n] for way in found.values() for n in range(len(way))}
    return [way for way in found.values() if way not in begun]


BY_SITUATION = [pytest.param(2, 0, 1, id="faults"), pytest.param(1, 1, 1, id="wishes")]


@pytest.mark.slow
@pytest.mark.parametrize(("faults", "wishes", "checkpoints"), BY_SITUATION)
def test_the_service_does_in_every_situation_what_the_model_says(faults: int, wishes: int, checkpoints: int) -> None:
    ways = situations(Model(faults, wishes, checkpoints, collector=False))
    assert len(ways) > 100
    compared: set[tuple[Move, ...]] = set()
    for way in ways:
        service = Service()
        for n, move in enumerate(way, 1):
            service.step(move)
            if way[:n] not in compared:
                service.the_same()
        compared |= {way[:n] for n in range(1, len(way) + 1)}
        service.teardown()


@pytest.mark.slow
def test_the_service_does_what_the_model_says() -> None:
    few = settings(
        max_examples=60, stateful_step_count=20, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate],  # the moves of a failing run are printed; making them fewer takes minutes
    )  # fmt: skip
    run_state_machine_as_test(Service, settings=few)
