"""Representation inversion (paper, equations 1 and 4): parameters and items to engine calls to artifacts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from service import images
from service.models import Item
from service.schemas import InversionParameters
from service.storage import ObjectNotFound, image_key
from workers.context import ShardContext
from workers.engine import figures, metrics, objectives
from workers.engine.constraints import FLOOR
from workers.engine.models import Classifier
from workers.engine.pgd import pgd
from workers.engine.seeding import generator

BLOCK = 10
"""Steps between two looks at the host: progress, and whether to stop."""
PICTURES = {"target": "target", "start": "start", "result": "image"}
TRACE_POINTS = 512
"""Most points in trace.json; result.safetensors holds every step."""


@dataclass(frozen=True)
class Batch:
    """A shard's items side by side: targets and starts [N, 3, S, S] in [0, 1]."""

    items: Sequence[Item]
    target: Tensor
    start: Tensor


@dataclass(frozen=True)
class Trace:
    """Loss [steps + 1, N] at the start and after each step; gradient norm [steps, N] before each step.

    The last loss is the result's: with `best`, that of the best iterate.

    loss / scale [N] is the relative distance.
    """

    loss: Tensor
    grad_norm: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Judge:
    """An independent classifier and its class names."""

    name: str
    network: Classifier
    classes: Sequence[str]


def run(ctx: ShardContext) -> None:
    """Invert the shard's open items in one batch and save each. Raises Hopeless, LeaseLost or StorageError."""
    p = InversionParameters.model_validate(ctx.work.parameters)
    model = ctx.runtime.models.get(p.model, p.model_digest)
    judge = load_judge(ctx, p)
    batch = load(ctx, p)
    if not batch.items:
        return
    inverted = invert(ctx, p, model, batch)
    if inverted is None:
        return
    x, trace = inverted
    measures, tensors = evaluate(model, judge, batch, x)
    tensors |= {"loss": trace.loss.T, "grad_norm": trace.grad_norm.T, "loss_scale": trace.scale}
    provenance = describe(ctx, p, len(batch.items))
    for i, item in enumerate(batch.items):
        own = {name: tensor[i].cpu().contiguous() for name, tensor in tensors.items()}
        ctx.save(item.index, measures[i], provenance, artifacts(own, provenance))


def load_judge(ctx: ShardContext, p: InversionParameters) -> Judge | None:
    """The network that classifies the results, if the job names one."""
    if p.judge is None or p.judge_digest is None:
        return None
    return Judge(p.judge, ctx.runtime.models.get(p.judge, p.judge_digest), ctx.runtime.catalog.models[p.judge].classes)


def load(ctx: ShardContext, p: InversionParameters) -> Batch:
    """Targets and starts as tensors; an item whose image cannot be read is failed and left out."""
    size = ctx.runtime.catalog.models[p.model].input_size
    items, targets, starts = [], [], []
    for item in ctx.work.items:
        try:
            pair = read(ctx, p, item.target, item.index, size), read(ctx, p, item.start, item.index, size)
        except (ObjectNotFound, OSError, ValueError) as e:
            ctx.fail(item.index, "Input cannot be read", str(e))
            continue
        items.append(item)
        targets.append(pair[0])
        starts.append(pair[1])
    device = ctx.runtime.models.device
    return Batch(items, _stack(targets, device), _stack(starts, device))


def _stack(images_CHW: Sequence[Tensor], device: torch.device) -> Tensor:
    if not images_CHW:
        return torch.empty(0)
    return torch.stack(list(images_CHW)).to(device, memory_format=torch.channels_last)


def read(ctx: ShardContext, p: InversionParameters, source: dict[str, Any], index: int, size: int) -> Tensor:
    """One image [3, S, S] in [0, 1] from where the item's plan says."""
    if source["source"] == "noise":
        noise = torch.randn(3, size, size, generator=generator(p.seed, index))
        return (float(source["mean"]) + float(source["std"]) * noise).clamp(0, 1)
    if source["source"] == "dataset":
        image = Image.fromarray(ctx.runtime.catalog.datasets[source["dataset"]].images[source["index"]])
    else:
        image = images.decode(ctx.runtime.storage.get(image_key(source["image"])))
    return figures.to_tensor(images.fit(image, size, p.resize))


def invert(ctx: ShardContext, p: InversionParameters, model: Classifier, batch: Batch) -> tuple[Tensor, Trace] | None:
    """The batch's inverses [N, 3, S, S] and their traces; None if the context asked to stop."""

    represent = partial(model.represent, identity_relu=p.identity_relu)

    with torch.no_grad():
        target = model.represent(batch.target)
    relative = p.loss == "relative_distance"
    objective = objectives.inversion(target, relative)
    scale = torch.ones_like(target[:, 0]) if relative else target.norm(dim=1) + FLOOR
    n = len(batch.items)
    trace = Trace(target.new_empty(p.steps + 1, n), target.new_empty(p.steps, n), scale)
    stopped = False

    def observe(i: int, _: Tensor, loss: Tensor, grad_norm: Tensor) -> bool:
        nonlocal stopped
        trace.loss[i], trace.grad_norm[i] = loss, grad_norm
        if i % BLOCK == 0:
            ctx.report(i, n, (loss / scale).median().item())
            stopped = ctx.should_stop()
        return stopped

    x = pgd(represent, objective, batch.start, batch.start, p.eps, p.step_size, p.steps, p.best, observe)
    if stopped:
        return None
    with torch.no_grad():
        trace.loss[p.steps] = objective(represent(x))[0]
    ctx.report(p.steps, n, (trace.loss[p.steps] / scale).median().item())
    return x, trace


@torch.no_grad()
def evaluate(
    model: Classifier, judge: Judge | None, batch: Batch, x: Tensor
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The measures of each item, and the tensors they were taken on, [N, ...] by name."""
    t, r = model.represent(batch.target), model.represent(x)
    columns = {
        "relative_distance": metrics.relative_distance(r, t),
        "start_relative_distance": metrics.relative_distance(model.represent(batch.start), t),
        "pixel_l2": metrics.pixel_l2(x, batch.target),
        "pixel_l2_moved": metrics.pixel_l2(x, batch.start),
        "ssim": metrics.ssim(x, batch.target),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in torch.stack(list(columns.values()), dim=1).tolist()]
    tensors = {"image": x, "start": batch.start, "target": batch.target}
    tensors |= {"representation": r, "target_representation": t}
    return [row | verdict for row, verdict in zip(rows, verdicts(judge, batch, x), strict=True)], tensors


def verdicts(judge: Judge | None, batch: Batch, x: Tensor) -> list[dict[str, Any]]:
    """Whether the judge gives an inverse the target's class: its label, or else what the judge sees in the target."""
    if judge is None:
        return [{"judge": None, "target_class": item.target["label"]} for item in batch.items]
    names = judge.classes
    seen = [names[i] for i in judge.network(x).argmax(dim=1).tolist()]
    seen_in_target = [names[i] for i in judge.network(batch.target).argmax(dim=1).tolist()]
    return [
        {
            "judge": judge.name,
            "target_class": item.target["label"] or of_target,
            "target_class_from": "label" if item.target["label"] else "judge",
            "judge_prediction": of_result,
            "judge_agrees": of_result == (item.target["label"] or of_target),
        }
        for item, of_result, of_target in zip(batch.items, seen, seen_in_target, strict=True)
    ]


def describe(ctx: ShardContext, p: InversionParameters, batch_size: int) -> dict[str, Any]:
    """Everything that the result depends on, beside its target and start."""
    return {
        "parameters": p.model_dump(mode="json", exclude={"targets", "start"}),
        "code_version": version("robustreps"),
        "torch_version": torch.__version__,
        "device": ctx.runtime.device_name,
        "precision": "fp32",
        "batch_size": batch_size,
        "epoch": ctx.work.lease.epoch,
    }


def artifacts(tensors: dict[str, Tensor], provenance: dict[str, Any]) -> dict[str, tuple[bytes, str]]:
    """The files of one item, bytes and media type by name."""
    pictures = {f"{name}.png": (figures.png(tensors[key]), "image/png") for name, key in PICTURES.items()}
    tensor_file = save(tensors, metadata={"provenance": json.dumps(provenance)})
    return pictures | {
        "result.safetensors": (tensor_file, "application/octet-stream"),
        "trace.json": (json.dumps(thin(tensors)).encode(), "application/json"),
    }


def thin(tensors: dict[str, Tensor]) -> dict[str, list[float] | list[float | None]]:
    """At most TRACE_POINTS steps of the trace, the first and the last among them; no gradient is taken at the last."""
    loss, grad_norm = tensors["loss"], tensors["grad_norm"]
    steps = np.unique(np.linspace(0, len(loss) - 1, TRACE_POINTS).round().astype(int)).tolist()
    distance = loss / tensors["loss_scale"]
    return {
        "step": steps,
        "loss": [loss[i].item() for i in steps],
        "relative_distance": [distance[i].item() for i in steps],
        "grad_norm": [grad_norm[i].item() if i < len(grad_norm) else None for i in steps],
    }
