"""Regularised visualisation (figure 10): a shard's items side by side through random transformations, step by step.

It has a loop of its own, since what it steps is no image, and takes turns on the device with the batcher.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from workers.engine import objectives, regularised
from workers.engine.glances import glance
from workers.engine.rows import NOT_FINITE, Outcome, as_frame
from workers.engine.seeding import generator
from workers.previews import chosen
from workers.recipes.searching import frame_steps, starts
from workers.recipes.standing import Name, Standing, kept, names, pack
from workers.recipes.study import Batch, Found, Problem, Study, best_of

BLOCK = 10
"""Steps between two looks at whether to stop."""


def ascended(study: Study, batch: Batch, problem: Problem) -> Generator[list[Found]]:
    """All items together, unless the context asks to stop. A deterministic job's go in batches of its bucket's rows."""
    xs, x0s = starts(study, batch)
    restarts, named, was = study.p.restarts, names(batch.items, study.p.restarts), kept(study.ctx)
    over = {n: replace(was.over[name], number=n) for n, name in enumerate(named) if name in was.over}
    left = [n for n in range(len(xs)) if n not in over]
    size = study.bucket or max(len(left), 1)
    for first in range(0, len(left), size):
        numbers = left[first : first + size]
        padded = numbers + numbers[-1:] * (size - len(numbers)) if study.bucket else numbers
        standing = Standing(over={named[n]: outcome for n, outcome in over.items()})
        watch = Watch(study, problem, padded, [named[n] for n in padded], standing)
        found = _ascend(study, problem, watch, [xs[n] for n in padded], was)
        if found is None:
            return
        over |= {outcome.number: outcome for outcome in found[: len(numbers)]}
    outcomes = [over[n] for n in range(len(xs))]
    yield [best_of(i, outcomes[i * restarts : (i + 1) * restarts], x0s) for i in range(len(batch.items))]


def _ascend(
    study: Study, problem: Problem, watch: "Watch", xs: Sequence[Tensor], was: Standing
) -> list[Outcome] | None:
    """The watched rows, which start at `xs` [3, S, S] or go on from where they were; None if asked to stop."""
    p = study.p
    assert p.regularization
    scale = xs[0].shape[-1] / 224
    settings = regularised.Regularization(
        **p.regularization.model_dump(exclude={"jitter", "final_jitter"}),
        jitter=p.regularization.jitter * scale, final_jitter=p.regularization.final_jitter * scale,
    )  # fmt: skip
    draws = [generator(p.seed, item, restart, 2) for item, restart in watch.names]
    with study.ctx.turns:
        f = study.ctx.runtime.models.descent(p, study.network, p.precision)
        objective = objectives.activation(problem.aim[watch.items.to(study.device)])
        start = torch.stack(list(xs)).to(study.device, memory_format=torch.channels_last)
        watch.ascent = regularised.Ascent(start, draws, settings)
        watch.go_on(was)
        watch.ascent.run(f, objective, p.steps, watch, watch.between)
        if watch.stopped:
            return None
        with torch.no_grad():
            x = watch.ascent.image()
            return watch.outcomes(x, objective(f(x))[0])


class Watch:
    """Follows an ascent: its trace, its frames, the progress that clients see, checkpoints, and whether to stop."""

    ascent: regularised.Ascent

    def __init__(
        self, study: Study, problem: Problem, numbers: Sequence[int], names: list[Name], standing: Standing
    ) -> None:
        self.study, self.problem, self.numbers, self.names, self.standing = study, problem, numbers, names, standing
        self.items, self.stopped = torch.tensor([n // study.p.restarts for n in numbers]), False
        self.loss: list[Tensor] = []
        self.grad_norm: list[Tensor] = []
        self.frames: dict[int, Tensor] = {}
        self.wanted = frame_steps(study)
        self.kept_at = time.monotonic()

    def __call__(self, i: int, x: Tensor, loss: Tensor, grad_norm: Tensor) -> bool:
        self.loss.append(loss)
        self.grad_norm.append(grad_norm)
        if i in self.wanted:
            self.frames[i] = as_frame(x).cpu()
        if i % BLOCK == 0:
            self._report(i, loss)
            self._show(i, x, loss)
        return False

    def between(self) -> bool:
        """After each step: whether to stop."""
        ctx = self.study.ctx
        ctx.alive()
        ctx.turns.pass_on()
        if self.ascent.steps % BLOCK == 0:
            self.stopped = ctx.should_stop()
            due = time.monotonic() - self.kept_at >= ctx.runtime.settings.checkpoint_seconds
            if ctx.should_keep() or (due and not self.stopped):
                with ctx.turns.away():  # the device does not wait for an upload
                    self._keep()
        return self.stopped

    def _keep(self) -> None:
        traces = {"loss": torch.stack(self.loss, 1).cpu(), "grad_norm": torch.stack(self.grad_norm, 1).cpu()}
        frames = {f"frame{step}": frame for step, frame in self.frames.items()}
        self.standing.ascends, self.standing.ascent = self.names, self.ascent.state() | traces | frames
        self.study.ctx.keep(pack(self.standing))
        self.kept_at = time.monotonic()

    def go_on(self, was: Standing) -> None:
        """From where an earlier claim left these rows, if it left all of them."""
        if not set(self.names) <= set(was.ascends):
            return
        rows = torch.tensor([was.ascends.index(name) for name in self.names])
        state = {name: tensor[rows] for name, tensor in was.ascent.items()}
        for own, name in ((self.loss, "loss"), (self.grad_norm, "grad_norm")):
            own += state[name].to(self.study.device).unbind(1)
        self.frames = {int(n.removeprefix("frame")): t for n, t in state.items() if n.startswith("frame")}
        self.ascent.load(state)

    def _report(self, step: int, loss: Tensor) -> None:
        value = self.problem.progress(loss.cpu(), self.items).nanmedian().item()
        self.study.ctx.report(step, step * len(loss), value)

    def _show(self, step: int, x: Tensor, loss: Tensor) -> None:
        if (previews := self.study.ctx.previews).due():
            items = chosen((row, item) for row, (item, _) in enumerate(self.names))
            rows = list(items)
            values = self.problem.progress(loss.cpu(), self.items).tolist()
            glances = glance([x[row] for row in rows], rows, [step] * len(rows))
            previews.take(glances, items, lambda row, _: values[row])

    def outcomes(self, x: Tensor, last: Tensor) -> list[Outcome]:
        """Each row's, with the loss of its untransformed result."""
        self._report(self.study.p.steps, last)
        if self.wanted:
            self.frames[self.study.p.steps] = as_frame(x).cpu()
        self.frames = dict(sorted(self.frames.items()))  # a file that they were kept in has an order of its own
        loss, norms = torch.stack([*self.loss, last]).T.cpu(), torch.stack(self.grad_norm).T.cpu()
        x, n = x.cpu(), len(self.numbers)
        shape = x.shape[1:]
        frames = torch.stack(list(self.frames.values()), dim=1) if self.frames else x.new_empty(n, 0, *shape).byte()
        fine = (x.flatten(1).isfinite().all(dim=1) & loss.isfinite().all(dim=1)).tolist()
        return [
            Outcome(number, x[i], loss[i], norms[i], frames[i], list(self.frames), n, None if fine[i] else NOT_FINITE)
            for i, number in enumerate(self.numbers)
        ]
