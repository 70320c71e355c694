"""A study's searches by PGD: handed to the process's batcher, and followed until each item is over."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from workers.engine.constraints import random_start
from workers.engine.descent import Precision
from workers.engine.lanes import Program
from workers.engine.rows import Outcome, Row, Snapshot, Ticket
from workers.engine.seeding import generator
from workers.previews import chosen
from workers.recipes.sources import named, read
from workers.recipes.standing import kept, names, pack, standing_of
from workers.recipes.study import Batch, Found, Problem, Study, best_of

SNAPSHOT_SECONDS = 5.0
"""How long one that lets go waits for where its searches stand: a block of steps, and others' turns."""
WAIT = 0.25
"""Seconds between two looks at how far the searches are, and whether to stop."""
CURVE_POINTS = 50
"""Steps of a search that its job's curve shows, about."""


def starts(study: Study, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """The first x and its x0 for every restart of every item, [3, S, S] each."""
    p = study.p
    if p.restarts == 1 and not p.random_start:
        own = list(batch.pictures["start"].cpu())
        return own, own
    every = [(item, restart) for item in batch.items for restart in range(p.restarts)]
    x0 = [read(study.ctx.runtime, p, named(item)["start"], restart) for item, restart in every]
    if not p.random_start:
        return x0, x0
    noise = [torch.randn(x0[0].shape, generator=generator(p.seed, item.index, r, 1)) for item, r in every]
    eps = batch.eps.repeat_interleave(p.restarts)
    return list(random_start(torch.stack(x0), eps, torch.stack(noise))), x0


def frame_steps(study: Study) -> frozenset[int]:
    """Before which steps an animation's frames are kept."""
    steps, count = study.p.steps, study.p.frames
    return frozenset(round(i * steps / (count - 1)) for i in range(count))


def handed_in(study: Study, batch: Batch, problem: Problem, rows: Sequence[Row], begun: Snapshot) -> Ticket:
    """The rows with the batcher; those that have begun go on."""
    p, runtime, work = study.p, study.ctx.runtime, study.ctx.work
    _, *shape = batch.pictures["start"].shape
    like = (shape[0], shape[1], shape[2]), problem.aim.shape[1], study.device
    key = p.model_digest, p.layer, p.pool, p.identity_relu

    def program(precision: Precision, exact: Program | None = None) -> Program:
        f = runtime.models.descent(p, study.network, precision)
        return Program(key, f, *like, precision, p.solver, study.bucket, exact)

    with study.ctx.turns:
        shared = program("bf16", program("fp32")) if p.precision == "bf16" else program(p.precision)
    return runtime.batcher.submit(shared, rows, work.priority, work.lease.job_id, begun)


def row_makers(study: Study, batch: Batch, problem: Problem) -> Callable[[Tensor, Tensor, int], Row]:
    """What makes a row of its first x and its x0, [3, S, S], and the place of its item."""
    p = study.p
    aim, scale = problem.aim.cpu(), problem.scale.tolist()
    stop_loss = [-torch.inf] * len(batch.items) if problem.stop_loss is None else problem.stop_loss.tolist()
    eps, step_size, frames = batch.eps.tolist(), batch.step_size.tolist(), frame_steps(study)
    return lambda x, x0, i: Row(
        x, x0, aim[i], problem.inverts, eps[i], step_size[i], p.steps, scale[i], p.schedule, p.best, stop_loss[i],
        problem.exceeds, p.patience, frames,
    )  # fmt: skip


def searched(study: Study, batch: Batch, problem: Problem) -> Generator[list[Found]]:
    """Items as they are over, until all are, or the context asks to stop."""
    shard = Searches(study, batch, problem)
    try:
        while shard.left and not study.ctx.should_stop():
            over = shard.over(WAIT)
            shard.follow()
            if over:
                yield over
            shard.keep_up()
            shard.show()
        if shard.left and study.ctx.should_keep():
            shard.keep_all()
    finally:
        shard.ticket.cancel()


class Searches:
    """A shard's rows on their way: where an earlier claim left them, and what a later one goes on from."""

    def __init__(self, study: Study, batch: Batch, problem: Problem) -> None:
        self.study, self.restarts, self.left = study, study.p.restarts, len(batch.items)
        xs, self.x0s = starts(study, batch)
        self.names, was = names(batch.items, self.restarts), kept(study.ctx)
        self.of_item: list[list[Outcome]] = [[] for _ in batch.items]
        for number, name in enumerate(self.names):
            if name in was.over:
                self.of_item[number // self.restarts].append(replace(was.over[name], number=number))
        self.numbers = [n for n, name in enumerate(self.names) if name not in was.over]
        """Of the ticket's rows, in order: what was over before is not searched again."""
        row = row_makers(study, batch, problem)
        rows = [row(xs[n], self.x0s[n], n // self.restarts) for n in self.numbers]
        begun = {i: was.begun[self.names[n]] for i, n in enumerate(self.numbers) if self.names[n] in was.begun}
        self.ticket = handed_in(study, batch, problem, rows, begun)
        done = study.p.steps * sum(len(outcomes) for outcomes in self.of_item)
        self.follow = Following(study, problem, self.ticket, self.numbers, done)
        self.took, self.asked, self.waits = 0.0, time.monotonic(), False

    def over(self, timeout: float) -> list[Found]:
        """Items that are over and were not answered before."""
        self._take_in(timeout)
        found = []
        for place, outcomes in enumerate(self.of_item):
            if len(outcomes) == self.restarts:
                found.append(best_of(place, outcomes, self.x0s))
                self.of_item[place] = []
        self.left -= len(found)
        return found

    def _take_in(self, timeout: float) -> None:
        for outcome in self.ticket.completed(timeout):
            number = self.numbers[outcome.number]
            self.of_item[number // self.restarts].append(replace(outcome, number=number))

    def keep_up(self) -> None:
        """Store where the searches stand, so often that never more than `checkpoint_seconds` of work is not stored."""
        every = self.study.ctx.runtime.settings.checkpoint_seconds
        if not self.waits and time.monotonic() - self.asked >= max(every - self.took, every / 2):
            self._ask()
        elif self.waits and self.ticket.snapshot is not None:
            self._store()

    def show(self) -> None:
        """Have clients shown what running items look like, now and then."""
        if (previews := self.study.ctx.previews).due():
            ticket = self.ticket
            begun = [i for i in range(len(self.numbers)) if ticket.steps[i] and not ticket.over[i]]
            items = chosen((i, self.names[self.numbers[i]][0]) for i in begun)
            value = self.follow.value
            self.study.ctx.runtime.batcher.look(
                ticket, items.keys(), lambda glances: previews.take(glances, items, value)
            )

    def keep_all(self) -> None:
        """Store where the searches stand now."""
        self._ask()
        while self.ticket.snapshot is None and time.monotonic() - self.asked < SNAPSHOT_SECONDS:
            self._take_in(WAIT)
        if self.ticket.snapshot is not None:  # else what was kept before is better
            self._store()

    def _ask(self) -> None:
        self.ticket.snapshot, self.waits, self.asked = None, True, time.monotonic()
        self.study.ctx.runtime.batcher.ask(self.ticket)

    def _store(self) -> None:
        assert self.ticket.snapshot is not None
        begun = {self.numbers[i]: saved for i, saved in self.ticket.snapshot.items()}
        over = [outcome for outcomes in self.of_item for outcome in outcomes]
        self.waits = False
        if not begun and not over:
            return
        self.study.ctx.keep(pack(standing_of(self.names, begun, over)))
        self.took = time.monotonic() - self.asked


class Following:
    """What the job's clients see of searches under way; and that the device moves on, whoever's rows it computes."""

    def __init__(self, study: Study, problem: Problem, ticket: Ticket, numbers: Sequence[int], done: int) -> None:
        self.study, self.problem, self.ticket, self.done = study, problem, ticket, done
        self.items = torch.tensor(numbers, dtype=torch.long) // study.p.restarts
        self.rows = max(len(numbers), 1)
        self.stride = max(study.p.steps // CURVE_POINTS, 10)
        self.next = self.blocks = self.steps = 0

    def __call__(self) -> None:
        if not len(self.items):
            return
        ctx = self.study.ctx
        over, most = self.ticket.over, self.study.p.steps
        steps, blocks = int(np.where(over, most, self.ticket.steps).sum()), ctx.runtime.batcher.stats.blocks
        while self.next <= self.ticket.reached() and (value := self._median(self.next)) is not None:
            ctx.report(self.next, self.done + steps, value)
            self.next += self.stride
        if over.all() and self.next - self.stride < (last := self.ticket.reached()):
            ctx.report(last, self.done + steps, self._median(last))
            self.next = last + self.stride
        if steps > self.steps:
            ctx.report(steps // self.rows, self.done + steps)
        elif blocks != self.blocks:
            ctx.alive()
        self.steps, self.blocks = steps, blocks

    def value(self, row: int, step: int) -> float:
        """Of what curves show, a row's at a step."""
        loss = torch.tensor([self.ticket.loss(row, step)])
        return self.problem.progress(loss, self.items[row : row + 1]).item()

    def _median(self, step: int) -> float | None:
        """Of what the curve shows at a step, over all rows; None while some have not begun."""
        losses = self.ticket.losses(step)
        if np.isnan(losses[~self.ticket.over]).any():
            return None
        return self.problem.progress(torch.from_numpy(losses), self.items).nanmedian().item()
