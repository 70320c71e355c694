"""Who does what when in the model of the lease protocol, which is in `lease_model`."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.service.lease_model import CLAIMABLE, GOING, IDLE, Draft, Lost, Object, State, Worker, over, unpointed


class Move(NamedTuple):
    """An action by name, of a worker, on a shard, an item or an object; it may cost a "fault" or a "wish"."""

    name: str
    worker: int = -1
    on: int = -1
    object: Object | None = None
    costs: str = ""


class Model:
    """What can happen in a state, and what comes of it. At most so many faults, wishes and checkpoints happen."""

    def __init__(self, faults: int, wishes: int, checkpoints: int, collector: bool = True, bugs: str = "") -> None:
        self.faults, self.wishes, self.checkpoints, self.collector = faults, wishes, checkpoints, collector
        self.bugs = frozenset({bugs} - {""})

    def moves(self, state: State) -> Iterator[Move]:
        """Every action that may happen now, once the budgets allow it."""
        for w, worker in enumerate(state.workers):
            yield from self._of_worker(state, w, worker)
        yield from self._of_shards(state)
        if state.job in GOING:
            yield Move("cancel", costs="wish")
        if state.job in CLAIMABLE:
            yield Move("pause", costs="wish")
        if state.job == "paused":
            yield Move("resume")
        if state.job not in ("cancelling", "cancelled") and any(item.state == "failed" for item in state.items):
            yield Move("retry", costs="wish")
        yield from self._of_collector(state)

    def _of_worker(self, state: State, w: int, worker: Worker) -> Iterator[Move]:
        def write(name: str, on: int = -1) -> Iterator[Move]:
            yield Move(name, w, on)
            yield Move(f"{name}, unheard", w, on, costs="fault")  # committed, but the worker is told of an error

        if worker.at == IDLE:
            for n in sorted(state.messages):
                yield from write("claim", n)
            return
        yield Move("die", w, costs="fault")
        if worker.at == "held":
            for index in worker.left:
                yield Move("point" if "pointer first" in self.bugs else "put", w, index)
            if 1 in worker.left:  # the one that may turn out to be impossible
                yield from write("fail", 1)
            if worker.left and worker.kept < self.checkpoints:
                yield Move("put checkpoint", w)
            if state.job not in CLAIMABLE:
                yield Move("heartbeat", w)
            if worker.left:
                yield Move("drain", w, costs="fault")
                yield Move("fail attempt", w, costs="fault")
            else:
                yield from write("finish")
        elif worker.at == "stored":
            yield from write("save", worker.item)
        elif worker.at == "kept":
            yield from write("save checkpoint")
        elif worker.at == "replaced":
            yield Move("delete", w)
        elif worker.at == "leaving":
            yield from write("finish")
        elif worker.at == "pointed":
            yield Move("put late", w)

    def _of_shards(self, state: State) -> Iterator[Move]:
        for n, shard in enumerate(state.shards):
            if shard.state == "running":
                held = any(w.at != IDLE and (w.shard, w.epoch) == (n, shard.epoch) for w in state.workers)
                yield Move("expire", on=n, costs="fault" if held else "")  # of a worker that stalls, or is no more
            waits = shard.state == "queued" and state.job in CLAIMABLE and "nothing is sent again" not in self.bugs
            if waits and n not in state.messages:
                yield Move("send", on=n)
            if n in state.messages:
                yield Move("lose", on=n, costs="fault")

    def _of_collector(self, state: State) -> Iterator[Move]:
        if not self.collector:
            return
        if state.collector[0] == IDLE:
            yield from (Move("list", object=each) for each in state.objects)
        else:
            yield Move("collect")

    def after(self, state: State, move: Move) -> State | None:
        """The state that a move leads to; None if it is the same, or the budgets forbid it."""
        faults, wishes = state.faults + (move.costs == "fault"), state.wishes + (move.costs == "wish")
        if faults > self.faults or wishes > self.wishes:
            return None
        draft = Draft(state, self.bugs)
        if move.worker >= 0:
            self._act(draft, move)
        elif move.name in ("list", "collect"):
            self._collect(draft, move)
        elif move.name == "expire":
            draft.expire(move.on)
        elif move.name in ("send", "lose"):
            draft.messages = draft.messages ^ {move.on}
        else:
            wish: Callable[[], None] = getattr(draft, move.name)
            wish()
        after = draft.done(faults, wishes)
        return None if after == state else after

    def _act(self, draft: Draft, move: Move) -> None:
        worker, (name, unheard, _) = draft.workers[move.worker], move.name.partition(", unheard")
        try:
            after = self._work(draft, worker, name, move.on)
        except Lost:
            after = Worker()
            unheard = ""
        draft.workers[move.worker] = worker if unheard else after

    def _work(self, draft: Draft, worker: Worker, name: str, on: int) -> Worker:
        """What a worker is after it has done something. Raises Lost."""
        claim = (worker.shard, worker.epoch)
        if name == "claim":
            draft.messages -= {on}
            left = draft.claim(on)
            return Worker() if left is None else Worker("held", on, draft.shards[on].epoch, left)
        if name in ("put", "put late"):
            index = on if name == "put" else worker.item
            written = draft.put(("items", index, worker.epoch, 0), worker.shard)
            after = worker._replace(at="stored", item=index, written=written)
            return after if name == "put" else _less(worker, index)
        if name == "point":
            written = ("items", on, worker.epoch, 0), worker.shard
            draft.end_item(worker, on, "succeeded", written)
            return worker._replace(at="pointed", item=on)
        if name in ("save", "fail"):
            draft.end_item(worker, on, *(("succeeded", worker.written) if name == "save" else ("failed", None)))
            return _less(worker, on)
        if name == "put checkpoint":
            written = draft.put(("shards", *claim, worker.kept + 1), worker.shard)
            return worker._replace(at="kept", written=written, kept=worker.kept + 1)
        if name == "save checkpoint":
            before = draft.save_checkpoint(worker)
            return worker._replace(at="replaced" if before else "held", written=before)
        if name == "delete":
            draft.delete(worker.written)
            return worker._replace(at="held", written=None)
        if name == "heartbeat":
            draft.fence(worker)
        elif name == "finish":
            draft.fence(worker)
            draft.finish(worker.shard)
        elif name == "fail attempt":
            draft.fail_attempt(worker)
        return worker._replace(at="leaving") if name in ("heartbeat", "drain") else Worker()

    def _collect(self, draft: Draft, move: Move) -> None:
        """List a key; then look at its shard; then at the pointers; then delete it: each in a moment of its own."""
        at, found = draft.collector
        if move.object:
            draft.collector = ("listed", move.object)
            return
        assert found
        looks = [over, unpointed] if "pointers before epochs" not in self.bugs else [unpointed, over]
        if at == "doomed":
            draft.delete(found)
            draft.collector = (IDLE, None)
        elif at == "listed":
            doomed = looks[0](draft, found) or (looks[0] is over and "no epoch rule" in self.bugs)
            draft.collector = ("looked", found) if doomed else (IDLE, None)
        else:
            draft.collector = ("doomed", found) if looks[1](draft, found) else (IDLE, None)


def _less(worker: Worker, index: int) -> Worker:
    return worker._replace(at="held", left=tuple(n for n in worker.left if n != index), item=0, written=None)
