"""Every study of the paper as searches: a shard's items to rows of the process's batcher, each to its artifacts.

A kind of study says what to aim at (`Problem`); how to search, choose among restarts and store is here, once.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from service.models import Item
from service.storage import ObjectNotFound
from service.studies import StudyParameters
from workers.context import ShardContext
from workers.engine import layers
from workers.engine.models import Network
from workers.engine.pgd import Function, batched
from workers.engine.rows import NOT_FINITE, Outcome
from workers.observing import phase
from workers.patience import is_disk
from workers.recipes import results
from workers.recipes.judging import Judge
from workers.recipes.sources import named, read, stack
from workers.runtime import Hopeless
from workers.tars import Computed

Measures = tuple[list[dict[str, Any]], dict[str, Tensor]]
"""Each item's metrics, and the tensors behind them, [n, ...] by name."""
Measure = Callable[[Tensor, Tensor, Tensor], Measures]
"""Which items, [n], their results and starts, both [n, 3, S, S], to their measures."""


@dataclass(frozen=True)
class Batch:
    """A shard's items side by side: their pictures by name, [N, 3, S, S] in [0, 1]; radius and step of each, [N]."""

    items: Sequence[Item]
    pictures: dict[str, Tensor]
    eps: Tensor
    step_size: Tensor


@dataclass(frozen=True)
class Study:
    """A shard's parameters with what they name: the network, the layer as results are measured, the judge."""

    ctx: ShardContext
    p: StudyParameters
    network: Network
    judge: Judge | None
    function: Function
    bucket: int | None
    """Rows of every batch that a deterministic job goes through, here and in the batcher."""

    @property
    def device(self) -> torch.device:
        return self.ctx.runtime.models.device


@dataclass(frozen=True)
class Problem:
    """What the items of a batch aim at: one row of `aim` [N, K] each, as `engine.rows.Row` has it."""

    aim: Tensor
    inverts: bool
    scale: Tensor
    """[N]: what the distance is divided by in the loss."""
    shown: Tensor
    """[N]: what the loss is divided by in curves."""
    measure: Measure
    stop_loss: Tensor | None = None
    exceeds: bool = False

    def progress(self, loss: Tensor, items: Tensor) -> Tensor:
        """Losses [..., n] of these items [n] as the quantity that curves show."""
        return loss / self.shown.to(loss)[items]


Prepare = Callable[[Study, Batch], Problem]


@dataclass(frozen=True)
class Found:
    """An item whose searches are over: its place in the batch, its best restart, and where that one started."""

    place: int
    outcome: Outcome
    start: Tensor


Search = Callable[[Study, Batch, Problem], Generator[list[Found]]]
"""Answers items as they are over, each once; stops early if the context asks to."""


def best_of(place: int, restarts: list[Outcome], x0s: Sequence[Tensor]) -> Found:
    """The restart of least loss; `x0s` are the starts of every row."""
    best = min(restarts, key=lambda outcome: (outcome.error is not None, outcome.loss[-1:].tolist(), outcome.number))
    return Found(place, best, x0s[best.number])


def run(prepare: Prepare, search: Search, ctx: ShardContext) -> None:
    """Search for the shard's open items and save each. Raises Hopeless, LeaseLost, StorageError or DeviceError."""
    with phase("load"):
        study = begin(ctx)
        batch = load(study)
    if not batch.items:
        return
    with study.ctx.turns:
        problem = prepare(study, batch)
    with closing(search(study, batch, problem)) as found:  # so that its rows leave the batch, whatever happens here
        for over in found:
            keep(study, batch, problem, over)


def begin(ctx: ShardContext) -> Study:
    """Raises Hopeless if this worker lacks the networks, or the network has no such layer."""
    p = StudyParameters.model_validate(ctx.work.parameters)
    models = ctx.runtime.models
    network = models.get(p.model, p.model_digest)
    bucket = ctx.runtime.settings.deterministic_rows if p.deterministic else None
    try:
        function = batched(layers.function(network, p.layer, False, p.pool), bucket)
    except ValueError as e:
        raise Hopeless(str(e)) from e
    return Study(ctx, p, network, Judge.load(ctx.runtime, p), function, bucket)


def load(study: Study) -> Batch:
    """The items' pictures as tensors; an item with one that cannot be read is failed and left out."""
    ctx, p = study.ctx, study.p
    items: list[Item] = []
    pictures: dict[str, list[Tensor]] = {}
    for item in ctx.work.items:
        try:
            own = {name: read(ctx.runtime, p, source) for name, source in named(item).items()}
        except (ObjectNotFound, OSError, ValueError) as e:
            if is_disk(e):
                raise
            ctx.fail(item.index, "Input cannot be read", str(e))
            continue
        items.append(item)
        for name, picture in own.items():
            pictures.setdefault(name, []).append(picture)

    def each(name: str) -> Tensor:
        return torch.tensor([float(item.settings.get(name, getattr(p, name))) for item in items])

    stacked = {name: stack(of_items, study.device) for name, of_items in pictures.items()}
    return Batch(items, stacked, each("eps"), each("step_size"))


def keep(study: Study, batch: Batch, problem: Problem, over: list[Found]) -> None:
    """Measure and store what was found; an item whose searches all failed is failed."""
    for lost in (found for found in over if found.outcome.error):
        title = "Result is not finite" if lost.outcome.error == NOT_FINITE else "Search failed"
        study.ctx.fail(batch.items[lost.place].index, title, str(lost.outcome.error))
    over = [found for found in over if not found.outcome.error]
    size = study.bucket or max(len(over), 1)
    parts = (over[first : first + size] for first in range(0, len(over), size))
    study.ctx.save_all(computed for part in parts for computed in measured(study, batch, problem, part))


def measured(study: Study, batch: Batch, problem: Problem, over: list[Found]) -> Iterator[Computed]:
    """What was found, measured in a batch of the job's bucket if it has one, and each item's files."""
    padded = over + over[-1:] * ((study.bucket or 0) - len(over))
    chosen = torch.tensor([found.place for found in padded])
    x, start = (
        torch.stack(images).to(study.device, memory_format=torch.channels_last)
        for images in ([found.outcome.x for found in padded], [found.start for found in padded])
    )
    with study.ctx.turns:
        measures, tensors = problem.measure(chosen.to(study.device), x, start)
        tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    came_about = {bucket: describe(study, bucket) for bucket in {found.outcome.bucket for found in over}}
    for i, found in enumerate(over):
        outcome = found.outcome
        own = {name: tensor[i] for name, tensor in tensors.items()}
        own |= {"loss": outcome.loss, "grad_norm": outcome.grad_norm}
        own[study.p.curve] = problem.progress(outcome.loss[:, None], chosen[i : i + 1])[:, 0]
        if len(outcome.frames):
            own |= {"frames": outcome.frames, "frame_steps": torch.tensor(outcome.frame_steps)}
        provenance = came_about[outcome.bucket]
        metrics = measures[i] | {"steps_taken": len(outcome.grad_norm)}
        yield Computed(batch.items[found.place], metrics, provenance, results.files(own, study.p.curve, provenance))


def describe(study: Study, bucket: int) -> dict[str, Any]:
    """Everything that a result depends on, beside its target and start."""
    in_items = {"targets", "start", "starts", "images", "first", "second", "coordinates", "combinations"}
    has_tf32 = study.device.type == "cuda"
    return {
        "parameters": study.p.model_dump(mode="json", exclude=in_items),
        "code_version": version("robustreps"),
        "torch_version": torch.__version__,
        "device": study.ctx.runtime.device_name,
        "threads": torch.get_num_threads(),
        "precision": "fp32" if study.p.precision == "tf32" and not has_tf32 else study.p.precision,
        "bucket": bucket,
        "epoch": study.ctx.work.lease.epoch,
    }
