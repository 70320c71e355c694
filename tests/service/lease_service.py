"""The service beside the model of its leases: the same moves, the same states."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
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
from tests.service.lease_model import IDLE, MAX_ATTEMPTS, MAX_CRASHES, Key, Object, State, over, unpointed, violation
from tests.service.lease_moves import Model, Move
from tests.service.test_jobs import do, submit

WISHES: dict[str, Callable[[Session, str], object]] = {
    "cancel": jobs.cancel, "pause": jobs.pause, "resume": jobs.resume, "retry": jobs.retry,
}  # fmt: skip


class Service(RuleBasedStateMachine):
    """The service's own functions, on SQLite and in a folder, beside the model: the same moves, the same states."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "machine.db"
        self.path.write_bytes(migrated())
        self.db = Database(f"sqlite:///{self.path}")
        self.storage = LocalStorage(Path(self.folder.name) / "objects")
        self.job_id, _ = submit(self.db)
        self.model, self.state = Model(faults=99, wishes=99, checkpoints=2, collector=False), State()
        self.replaced: dict[int, str | None] = {}

    def teardown(self) -> None:
        self.db.close()
        self.folder.cleanup()

    @contextmanager
    def going_back(self) -> Iterator[Callable[[], None]]:
        """What brings the model, the database and the storage back to where they were when the block began."""
        state, objects = self.state, {key: self.storage.get(key) for key in self.storage.keys("")}
        with closing(sqlite3.connect(":memory:")) as rows, closing(sqlite3.connect(self.path)) as file:
            file.execute("PRAGMA synchronous=OFF")
            file.backup(rows)

            def go_back() -> None:
                self.state = state
                rows.backup(file)
                for key in self.storage.keys(""):
                    self.storage.delete(key)
                for key, data in objects.items():
                    self.storage.put(key, data, "application/octet-stream")

            yield go_back

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
