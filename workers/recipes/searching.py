"""A study's searches by PGD: handed to the process's batcher, and followed until each item is over."""

from collections.abc import Generator

import numpy as np
import torch
from torch import Tensor

from workers.engine.constraints import random_start
from workers.engine.descent import Precision
from workers.engine.lanes import Program
from workers.engine.rows import Outcome, Row, Ticket
from workers.engine.seeding import generator
from workers.recipes.sources import named, read
from workers.recipes.study import Batch, Found, Problem, Study, best_of

WAIT = 0.25
"""Seconds between two looks at how far the searches are, and whether to stop."""
CURVE_POINTS = 50
"""Steps of a search that its job's curve shows, about."""
PRIORITIES = {"low": 0, "normal": 1, "high": 2}


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


def handed_in(study: Study, batch: Batch, problem: Problem, xs: list[Tensor], x0s: list[Tensor]) -> Ticket:
    """Every restart of every item as a row of the batcher."""
    p, runtime = study.p, study.ctx.runtime
    shape = xs[0].shape[0], xs[0].shape[1], xs[0].shape[2]
    key = p.model_digest, p.layer, p.pool, p.identity_relu

    def program(precision: Precision, exact: Program | None = None) -> Program:
        f = runtime.models.descent(p, study.network, precision)
        return Program(key, f, shape, problem.aim.shape[1], study.device, precision, p.solver, study.bucket, exact)

    with study.ctx.turns:
        shared = program("bf16", program("fp32")) if p.precision == "bf16" else program(p.precision)
    aim, scale = problem.aim.cpu(), problem.scale.tolist()
    stop_loss = [-torch.inf] * len(batch.items) if problem.stop_loss is None else problem.stop_loss.tolist()
    eps, step_size, frames = batch.eps.tolist(), batch.step_size.tolist(), frame_steps(study)
    rows = [
        Row(x, x0, aim[i], problem.inverts, eps[i], step_size[i], p.steps, scale[i], p.schedule, p.best, stop_loss[i],
            problem.exceeds, p.patience, frames)
        for x, x0, i in zip(xs, x0s, (n // p.restarts for n in range(len(xs))), strict=True)
    ]  # fmt: skip
    return runtime.batcher.submit(shared, rows, PRIORITIES[p.priority], study.ctx.work.lease.job_id)


def searched(study: Study, batch: Batch, problem: Problem) -> Generator[list[Found]]:
    """Items as they are over, until all are, or the context asks to stop."""
    xs, x0s = starts(study, batch)
    ticket = handed_in(study, batch, problem, xs, x0s)
    restarts, left = study.p.restarts, len(batch.items)
    of_item: list[list[Outcome]] = [[] for _ in batch.items]
    follow = Following(study, problem, ticket)
    try:
        while left and not study.ctx.should_stop():
            over = []
            for outcome in ticket.completed(WAIT):
                place = outcome.number // restarts
                of_item[place].append(outcome)
                if len(of_item[place]) == restarts:
                    over.append(best_of(place, of_item[place], x0s))
                    of_item[place] = []
            follow()
            left -= len(over)
            if over:
                yield over
    finally:
        ticket.cancel()


class Following:
    """What the job's clients see of searches under way; and that the device moves on, whoever's rows it computes."""

    def __init__(self, study: Study, problem: Problem, ticket: Ticket) -> None:
        self.study, self.problem, self.ticket = study, problem, ticket
        self.items = torch.arange(len(ticket.steps)) // study.p.restarts
        self.stride = max(study.p.steps // CURVE_POINTS, 10)
        self.next = self.blocks = self.steps = 0

    def __call__(self) -> None:
        ctx = self.study.ctx
        steps, blocks = int(self.ticket.steps.sum()), ctx.runtime.batcher.stats.blocks
        while self.next <= self.ticket.reached() and (value := self._median(self.next)) is not None:
            ctx.report(self.next, steps, value)
            self.next += self.stride
        if steps > self.steps:
            ctx.report(steps // len(self.items), steps)
        elif blocks != self.blocks:
            ctx.alive()
        self.steps, self.blocks = steps, blocks

    def _median(self, step: int) -> float | None:
        """Of what the curve shows at a step, over all rows; None while some have not begun."""
        losses = self.ticket.losses(step)
        if np.isnan(losses[~self.ticket.over]).any():
            return None
        return self.problem.progress(torch.from_numpy(losses), self.items).nanmedian().item()
