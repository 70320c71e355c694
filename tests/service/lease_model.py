"""A model of the lease protocol, small enough to look at every state that it can come to.

Two workers, a reconciler, a client and a collector of orphans act on a job of one shard with two items. An action is
one transaction or one call to the storage, so that between any two of them anything may happen. Here are its states,
and what each transaction makes of one; `lease_moves` has who does what when. `bugs` name parts of the protocol that are
left out, to see that they are needed.
"""

from typing import NamedTuple

MAX_ATTEMPTS = MAX_CRASHES = 2
CLAIMABLE = ("queued", "running")
GOING = (*CLAIMABLE, "paused")
OVER = ("succeeded", "partially_succeeded", "failed", "cancelled")
ENDED = ("succeeded", "failed", "cancelled")
IDLE = "idle"

Key = tuple[str, int, int, int]
"""What it is of ("items" or "shards"), its number, the epoch that wrote it, and the number of the checkpoint."""
Object = tuple[Key, int]
"""A key, and the shard whose worker wrote what it holds."""


class Shard(NamedTuple):
    state: str = "queued"
    epoch: int = 0
    attempts: int = 0
    crashes: int = 0
    checkpoint: Object | None = None


class Item(NamedTuple):
    """`ends` counts since it was last opened; `tried` says whether it was claimed since."""

    state: str = "queued"
    shard: int = 0
    epoch: int | None = None
    artifact: Object | None = None
    ends: int = 0
    tried: bool = False


class Worker(NamedTuple):
    """Where a worker stands: `left` are items of its lease; `written` is stored, and to be committed or deleted."""

    at: str = IDLE
    shard: int = 0
    epoch: int = 0
    left: tuple[int, ...] = ()
    item: int = 0
    written: Object | None = None
    kept: int = 0


class State(NamedTuple):
    job: str = "queued"
    shards: tuple[Shard, ...] = (Shard(),)
    items: tuple[Item, ...] = (Item(), Item())
    workers: tuple[Worker, ...] = (Worker(), Worker())
    objects: frozenset[Object] = frozenset()
    messages: frozenset[int] = frozenset({0})
    collector: tuple[str, Object | None] = (IDLE, None)
    faults: int = 0
    wishes: int = 0
    wrong: str = ""


class Lost(Exception):  # noqa: N818 - as the service's own
    """The lease is."""


class Draft:
    """A state that is being changed, by the service's transactions as the model knows them."""

    def __init__(self, state: State, bugs: frozenset[str]) -> None:
        self.job, self.objects, self.messages, self.wrong = state.job, state.objects, state.messages, state.wrong
        self.shards, self.items, self.workers = list(state.shards), list(state.items), list(state.workers)
        self.collector, self.bugs = state.collector, bugs

    def done(self, faults: int, wishes: int) -> State:
        return State(
            self.job, tuple(self.shards), tuple(self.items), tuple(self.workers), self.objects, self.messages,
            self.collector, faults, wishes, self.wrong,
        )  # fmt: skip

    def open(self, shard: int) -> list[int]:
        return [n for n, item in enumerate(self.items) if item.shard == shard and item.state not in ENDED]

    def change(self, n: int, **values: object) -> None:
        self.shards[n] = self.shards[n]._replace(**values)  # type: ignore[arg-type]

    def end(self, n: int, state: str, **values: object) -> None:
        item = self.items[n]
        if not item.tried and state != "cancelled":
            self.wrong = "an item ended that nobody had tried since it was opened"
        self.items[n] = item._replace(state=state, ends=item.ends + 1, **values)  # type: ignore[arg-type]

    def put(self, key: Key, writer: int) -> Object:
        self.objects = frozenset(o for o in self.objects if o[0] != key) | {(key, writer)}
        return key, writer

    def delete(self, written: Object | None) -> None:
        assert written
        self.objects = frozenset(o for o in self.objects if o[0] != written[0])

    def claim(self, n: int) -> tuple[int, ...] | None:
        shard = self.shards[n]
        if self.job not in CLAIMABLE or shard.state != "queued":
            return None
        self.change(n, state="running", epoch=shard.epoch + 1)
        self.job = "running"
        for index in self.open(n):
            self.items[index] = self.items[index]._replace(state="running", tried=True)
        return tuple(self.open(n))

    def fence(self, worker: Worker) -> None:
        shard = self.shards[worker.shard]
        if (shard.state, shard.epoch) != ("running", worker.epoch):
            if "no fence" not in self.bugs:
                raise Lost
            self.wrong = "a write under an old lease was taken"

    def end_item(self, worker: Worker, index: int, state: str, artifact: Object | None) -> None:
        self.fence(worker)
        item = self.items[index]
        ends = ENDED if "reopened items end" in self.bugs else (*ENDED, "queued")
        if item.state not in ends and item.shard == worker.shard:
            self.end(index, state, epoch=worker.epoch, artifact=artifact)
            if state == "succeeded":
                self.change(worker.shard, attempts=0, crashes=0)
        elif item.state != "queued" and (item.state, item.epoch) != (state, worker.epoch):
            raise Lost

    def save_checkpoint(self, worker: Worker) -> Object | None:
        self.fence(worker)
        before, written = self.shards[worker.shard].checkpoint, worker.written
        self.change(worker.shard, checkpoint=written, attempts=0, crashes=0)
        if before is None or written is None or before == written:
            return None
        # One of an earlier claim may be that of other shards too, if this one was split.
        return before if before[0][:3] == written[0][:3] or "any old checkpoint goes" in self.bugs else None

    def finish(self, n: int) -> None:
        state = "done" if not self.open(n) else "queued" if self.job in GOING else "cancelled"
        if state == "queued":
            for index in self.open(n):
                self.items[index] = self.items[index]._replace(state="queued")
        self.change(n, state=state, checkpoint=self.shards[n].checkpoint if state == "queued" else None)
        self.settle()

    def fail_attempt(self, worker: Worker) -> None:
        self.fence(worker)
        self.change(worker.shard, attempts=self.shards[worker.shard].attempts + 1)
        if self.shards[worker.shard].attempts >= MAX_ATTEMPTS:
            self.give_up(worker.shard)
        else:
            self.finish(worker.shard)

    def give_up(self, n: int) -> None:
        for index in self.open(n):
            if self.items[index].state == "running":
                self.end(index, "failed", epoch=self.shards[n].epoch)
        self.finish(n)

    def expire(self, n: int) -> None:
        self.change(n, crashes=self.shards[n].crashes + 1)
        shard, left = self.shards[n], self.open(n)
        if len(left) == 1 and shard.crashes >= MAX_CRASHES:
            self.give_up(n)
            return
        for index in left[1:] if shard.crashes >= MAX_CRASHES - 1 else ():
            epoch = 0 if "split off at epoch 0" in self.bugs else shard.epoch
            self.shards.append(shard._replace(state="queued", epoch=epoch, attempts=0))
            self.items[index] = self.items[index]._replace(state="queued", shard=len(self.shards) - 1)
        self.finish(n)

    def settle(self) -> None:
        going = {shard.state for shard in self.shards} & {"queued", "running"}
        if self.job == "cancelling":
            self.shards = [s._replace(state="cancelled") if s.state == "queued" else s for s in self.shards]
            if "running" not in going and "cancels are not settled" not in self.bugs:
                for index, item in enumerate(self.items):
                    if item.state not in ENDED:
                        self.end(index, "cancelled")
                self.job = "cancelled"
        elif self.job in GOING and not going:
            states = {item.state for item in self.items}
            self.job = "failed" if "succeeded" not in states else "succeeded" if len(states) == 1 else OVER[1]

    def cancel(self) -> None:
        self.job = "cancelling"
        self.settle()

    def pause(self) -> None:
        self.job = "paused"

    def resume(self) -> None:
        self.job = "running" if any(shard.state == "running" for shard in self.shards) else "queued"

    def retry(self) -> None:
        for index, item in enumerate(self.items):
            if item.state == "failed":
                self.items[index] = Item(shard=item.shard)
                if self.shards[item.shard].state != "running":
                    self.change(item.shard, state="queued", attempts=0, crashes=0)
        self.job = "queued" if self.job in OVER else self.job


def over(now: Draft | State, found: Object) -> bool:
    """Whether nothing can be committed any more under the epoch that wrote an object."""
    kind, number, epoch, _ = found[0]
    shard = now.shards[number if kind == "shards" else now.items[number].shard]
    return epoch < shard.epoch or (epoch == shard.epoch and shard.state != "running")


def unpointed(now: Draft | State, found: Object) -> bool:
    pointers = [item.artifact for item in now.items] + [shard.checkpoint for shard in now.shards]
    return found[0] not in {pointer[0] for pointer in pointers if pointer}


def violation(state: State) -> str:
    """What is wrong with a state; empty if nothing is."""
    pointed = {item.artifact for item in state.items} | {shard.checkpoint for shard in state.shards}
    going = {shard.state for shard in state.shards} & {"queued", "running"}
    if state.wrong:
        return state.wrong
    if not pointed <= state.objects | {None}:
        return "a pointer without its object"
    if any(item.ends > 1 or (item.ends == 1) != (item.state in ENDED) for item in state.items):
        return "an item ended twice"
    if any((item.state == "succeeded") != (item.artifact is not None) for item in state.items):
        return "a result without its object, or the other way round"
    if state.job in OVER and (going or any(item.state not in ENDED for item in state.items)):
        return "a job is over before its shards and items"
    if state.job not in OVER and not going:
        return "a job that nobody will end"
    return ""
