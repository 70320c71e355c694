"""Every study of the paper as one search: a shard's items side by side through the engine, each to its artifacts.

A kind of study says what to aim at (`Problem`); how to search, stop, choose among restarts and store is here, once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from service.models import Item
from service.storage import ObjectNotFound
from service.studies import StudyParameters
from workers.context import ShardContext
from workers.engine import layers, regularised
from workers.engine.constraints import random_start
from workers.engine.models import Network
from workers.engine.objectives import Objective
from workers.engine.pgd import Function, pgd
from workers.engine.seeding import generator
from workers.recipes import results
from workers.recipes.judging import Judge
from workers.recipes.sources import named, read, stack
from workers.runtime import Hopeless

BLOCK = 10
"""Steps between two looks at the host: progress, and whether to stop."""

Measures = tuple[list[dict[str, Any]], dict[str, Tensor]]
"""Each item's metrics, and the tensors behind them, [N, ...] by name."""
Measure = Callable[[Tensor, Tensor], Measures]
"""The items' results and starts, both [N, 3, S, S], to their measures."""


@dataclass(frozen=True)
class Batch:
    """A shard's items side by side: their pictures by name, [N, 3, S, S] in [0, 1]; radius and step of each, [N]."""

    items: Sequence[Item]
    pictures: dict[str, Tensor]
    eps: Tensor
    step_size: Tensor


@dataclass(frozen=True)
class Study:
    """A shard's parameters with what they name: the network, the layer's function, the judge."""

    ctx: ShardContext
    p: StudyParameters
    network: Network
    judge: Judge | None
    function: Function
    descent: Function
    """`function` as the gradient sees it: with the identity in place of the last ReLU's backward, if asked."""

    @property
    def device(self) -> torch.device:
        return self.ctx.runtime.models.device


@dataclass(frozen=True)
class Problem:
    """What the items of a batch aim at: one row of `aim` [N, ...] each, which `objective` takes."""

    aim: Tensor
    objective: Callable[[Tensor], Objective]
    progress: Callable[[Tensor], Tensor]
    """Losses [..., N] as the quantity that curves show; N may be the items, or the restarts of each."""
    measure: Measure


Prepare = Callable[[Study, Batch], Problem]


@dataclass(frozen=True)
class Search:
    """What came of a batch: results `x` around `start`, [N, 3, S, S]. `loss` [steps + 1, N] is that of the first x and
    after each step, and at its end the result's; `grad_norm` [steps, N] before each step; `frames` [F, N, 3, S, S]
    uint8 at `frame_steps`."""

    x: Tensor
    start: Tensor
    loss: Tensor
    grad_norm: Tensor
    frames: Tensor
    frame_steps: Tensor

    def of(self, chosen_N: Tensor) -> "Search":
        """The rows `chosen` alone."""
        return Search(self.x[chosen_N], self.start[chosen_N], self.loss[:, chosen_N], self.grad_norm[:, chosen_N],
                      self.frames[:, chosen_N.cpu()], self.frame_steps)  # fmt: skip


def run(prepare: Prepare, ctx: ShardContext) -> None:
    """Compute the shard's open items in one batch and save each. Raises Hopeless, LeaseLost or StorageError."""
    study = begin(ctx)
    batch = load(study)
    if not batch.items:
        return
    problem = prepare(study, batch)
    found = search(study, batch, problem)
    if found is None:
        return
    measures, tensors = problem.measure(found.x, found.start)
    moved = (found.grad_norm > 0).sum(dim=0).tolist()
    tensors |= {"loss": found.loss.T, "grad_norm": found.grad_norm.T, study.p.curve: problem.progress(found.loss).T}
    if len(found.frames):
        tensors |= {"frames": found.frames.transpose(0, 1), "frame_steps": found.frame_steps.expand(len(moved), -1)}
    provenance = describe(study, len(batch.items))
    finite = torch.isfinite(found.x.flatten(1)).all(dim=1) & torch.isfinite(found.loss).all(dim=0)
    for i, item in enumerate(batch.items):
        if not finite[i]:
            ctx.fail(item.index, "Result is not finite", "the search met a number that is infinite or not a number")
            continue
        own = {name: tensor[i].cpu().contiguous() for name, tensor in tensors.items()}
        files = results.files(own, study.p.curve, provenance)
        ctx.save(item.index, measures[i] | {"steps_taken": moved[i]}, provenance, files)


def begin(ctx: ShardContext) -> Study:
    """Raises Hopeless if this worker lacks the networks, or the network has no such layer."""
    p = StudyParameters.model_validate(ctx.work.parameters)
    network = ctx.runtime.models.get(p.model, p.model_digest)
    try:
        function = layers.function(network, p.layer, False, p.pool)
        descent = layers.function(network, p.layer, p.identity_relu, p.pool)
    except ValueError as e:
        raise Hopeless(str(e)) from e
    return Study(ctx, p, network, Judge.load(ctx.runtime, p), function, descent)


def load(study: Study) -> Batch:
    """The items' pictures as tensors; an item with one that cannot be read is failed and left out."""
    ctx, p = study.ctx, study.p
    items: list[Item] = []
    pictures: dict[str, list[Tensor]] = {}
    for item in ctx.work.items:
        try:
            own = {name: read(ctx.runtime, p, source) for name, source in named(item).items()}
        except (ObjectNotFound, OSError, ValueError) as e:
            ctx.fail(item.index, "Input cannot be read", str(e))
            continue
        items.append(item)
        for name, picture in own.items():
            pictures.setdefault(name, []).append(picture)

    def each(name: str) -> Tensor:
        return torch.tensor([float(item.settings.get(name, getattr(p, name))) for item in items], device=study.device)

    stacked = {name: stack(of_items, study.device) for name, of_items in pictures.items()}
    return Batch(items, stacked, each("eps"), each("step_size"))


def rows(study: Study, batch: Batch) -> tuple[Tensor, Tensor]:
    """The first x and its x0 for every restart of every item, [N * restarts, 3, S, S]."""
    p, size = study.p, batch.pictures["start"].shape[-1]
    if p.restarts == 1 and not p.random_start:
        return batch.pictures["start"], batch.pictures["start"]
    every = [(item, restart) for item in batch.items for restart in range(p.restarts)]
    x0 = stack([read(study.ctx.runtime, p, named(item)["start"], restart) for item, restart in every], study.device)
    if not p.random_start:
        return x0, x0
    noise = [torch.randn(3, size, size, generator=generator(p.seed, item.index, r, 1)) for item, r in every]
    return random_start(x0, batch.eps.repeat_interleave(p.restarts), stack(noise, study.device)), x0


def search(study: Study, batch: Batch, problem: Problem) -> Search | None:
    """Each item's best restart; None if the context asked to stop."""
    p, n = study.p, len(batch.items)
    x, x0 = rows(study, batch)
    objective = problem.objective(problem.aim.repeat_interleave(p.restarts, dim=0))
    watch = Watch(study, problem)
    if p.regularization:
        scale = x.shape[-1] / 224
        settings = regularised.Regularization(
            **p.regularization.model_dump(exclude={"jitter", "final_jitter"}),
            jitter=p.regularization.jitter * scale, final_jitter=p.regularization.final_jitter * scale,
        )  # fmt: skip
        draws = [generator(p.seed, item.index, r, 2) for item in batch.items for r in range(p.restarts)]
        x = regularised.ascend(study.descent, objective, x, draws, p.steps, settings, watch)
    else:
        eps, step_size = (t.repeat_interleave(p.restarts) for t in (batch.eps, batch.step_size))
        x = pgd(study.descent, objective, x, x0, eps, step_size, p.steps, p.best, watch)
    if watch.stopped:
        return None
    found = watch.close(x, x0, objective)
    best_N = found.loss[-1].view(n, p.restarts).argmin(dim=1)
    return found.of(best_N + torch.arange(n, device=best_N.device) * p.restarts)


class Watch:
    """Follows a search: its trace, its frames, the progress that clients see, and whether to stop."""

    def __init__(self, study: Study, problem: Problem) -> None:
        self.study, self.problem, self.stopped = study, problem, False
        self.loss: list[Tensor] = []
        self.grad_norm: list[Tensor] = []
        self.frames: list[Tensor] = []
        steps, count = study.p.steps, study.p.frames
        self.wanted = {round(i * steps / (count - 1)) for i in range(count)}
        self.frame_steps: list[int] = []

    def __call__(self, i: int, x: Tensor, loss: Tensor, grad_norm: Tensor) -> bool:
        self.loss.append(loss)
        self.grad_norm.append(grad_norm)
        if i in self.wanted:
            self._frame(i, x)
        if i % BLOCK:
            return False
        self._report(i, loss)
        self.stopped = self.study.ctx.should_stop()
        if self.study.p.regularization:  # whose steps are random: a gradient that is gone may come back
            return self.stopped
        return self.stopped or not bool(grad_norm.any())  # where no gradient is left, no step would move anything

    def _frame(self, i: int, x: Tensor) -> None:
        self.frame_steps.append(i)
        self.frames.append((x * 255).round().to(torch.uint8).cpu())

    def _report(self, i: int, loss: Tensor) -> None:
        self.study.ctx.report(i, len(loss), self.problem.progress(loss).nanmedian().item())

    def close(self, x: Tensor, start: Tensor, objective: Objective) -> Search:
        """The finished search, with the loss of the result itself."""
        with torch.no_grad():
            loss = objective(self.study.descent(x))[0]
        self._report(self.study.p.steps, loss)
        if self.wanted:
            self._frame(len(self.grad_norm), x)
        frames = torch.stack(self.frames) if self.frames else torch.empty(0, len(x), dtype=torch.uint8)
        return Search(
            x, start, torch.stack([*self.loss, loss]), torch.stack(self.grad_norm), frames,
            torch.tensor(self.frame_steps),
        )  # fmt: skip


def describe(study: Study, batch_size: int) -> dict[str, Any]:
    """Everything that the result depends on, beside its target and start."""
    in_items = {"targets", "start", "starts", "images", "first", "second", "coordinates", "combinations"}
    return {
        "parameters": study.p.model_dump(mode="json", exclude=in_items),
        "code_version": version("robustreps"),
        "torch_version": torch.__version__,
        "device": study.ctx.runtime.device_name,
        "precision": "fp32",
        "batch_size": batch_size,
        "epoch": study.ctx.work.lease.epoch,
    }
