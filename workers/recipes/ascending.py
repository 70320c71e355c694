"""Regularised visualisation (figure 10): a shard's items side by side through random transformations, step by step.

It has a loop of its own, since what it steps is no image, and takes turns on the device with the batcher.
"""

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from workers.engine import objectives, regularised
from workers.engine.rows import NOT_FINITE, Outcome, as_frame
from workers.engine.seeding import generator
from workers.recipes.searching import frame_steps, starts
from workers.recipes.study import Batch, Found, Problem, Study, best_of

BLOCK = 10
"""Steps between two looks at the host."""


def ascended(study: Study, batch: Batch, problem: Problem) -> Generator[list[Found]]:
    """All items together, unless the context asks to stop. A deterministic job's go in batches of its bucket's rows."""
    xs, x0s = starts(study, batch)
    restarts, size = study.p.restarts, study.bucket or len(xs)
    outcomes: list[Outcome] = []
    for first in range(0, len(xs), size):
        numbers = list(range(first, min(first + size, len(xs))))
        padded = numbers + numbers[-1:] * (size - len(numbers)) if study.bucket else numbers
        found = _ascend(study, batch, problem, padded, [xs[n] for n in padded])
        if found is None:
            return
        outcomes += found[: len(numbers)]
    yield [best_of(i, outcomes[i * restarts : (i + 1) * restarts], x0s) for i in range(len(batch.items))]


def _ascend(
    study: Study, batch: Batch, problem: Problem, numbers: Sequence[int], xs: Sequence[Tensor]
) -> list[Outcome] | None:
    """The rows of these numbers, which start at `xs` [3, S, S]; None if the context asked to stop."""
    p = study.p
    assert p.regularization
    scale = xs[0].shape[-1] / 224
    settings = regularised.Regularization(
        **p.regularization.model_dump(exclude={"jitter", "final_jitter"}),
        jitter=p.regularization.jitter * scale, final_jitter=p.regularization.final_jitter * scale,
    )  # fmt: skip
    items = torch.tensor([n // p.restarts for n in numbers])
    draws = [generator(p.seed, batch.items[n // p.restarts].index, n % p.restarts, 2) for n in numbers]
    watch = Watch(study, problem, items)
    with study.ctx.turns:
        f = study.ctx.runtime.models.descent(p, study.network, p.precision)
        objective = objectives.activation(problem.aim[items.to(study.device)])
        start = torch.stack(list(xs)).to(study.device, memory_format=torch.channels_last)
        x = regularised.ascend(f, objective, start, draws, p.steps, settings, watch)
        if watch.stopped:
            return None
        with torch.no_grad():
            return watch.outcomes(numbers, x, objective(f(x))[0])


class Watch:
    """Follows an ascent: its trace, its frames, the progress that clients see, and whether to stop."""

    def __init__(self, study: Study, problem: Problem, items: Tensor) -> None:
        self.study, self.problem, self.items, self.stopped = study, problem, items, False
        self.loss: list[Tensor] = []
        self.grad_norm: list[Tensor] = []
        self.frames: dict[int, Tensor] = {}
        self.wanted = frame_steps(study)

    def __call__(self, i: int, x: Tensor, loss: Tensor, grad_norm: Tensor) -> bool:
        self.loss.append(loss)
        self.grad_norm.append(grad_norm)
        if i in self.wanted:
            self.frames[i] = as_frame(x).cpu()
        if i % BLOCK == 0:
            self._report(i, loss)
            self.study.ctx.turns.pass_on()
            self.stopped = self.study.ctx.should_stop()
        return self.stopped

    def _report(self, i: int, loss: Tensor) -> None:
        value = self.problem.progress(loss.cpu(), self.items).nanmedian().item()
        self.study.ctx.report(i, i * len(loss), value)

    def outcomes(self, numbers: Sequence[int], x: Tensor, last: Tensor) -> list[Outcome]:
        """Each row's, with the loss of its untransformed result."""
        self._report(self.study.p.steps, last)
        if self.wanted:
            self.frames[self.study.p.steps] = as_frame(x).cpu()
        loss, norms = torch.stack([*self.loss, last]).T.cpu(), torch.stack(self.grad_norm).T.cpu()
        x, n = x.cpu(), len(numbers)
        shape = x.shape[1:]
        frames = torch.stack(list(self.frames.values()), dim=1) if self.frames else x.new_empty(n, 0, *shape).byte()
        fine = (x.flatten(1).isfinite().all(dim=1) & loss.isfinite().all(dim=1)).tolist()
        return [
            Outcome(number, x[i], loss[i], norms[i], frames[i], list(self.frames), n, None if fine[i] else NOT_FINITE)
            for i, number in enumerate(numbers)
        ]
