"""Evaluation of a network on a data set: runs of images, each on its own, and one item that puts them together."""

import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from sqlalchemy import select
from torch import Tensor

from service import registry
from service.catalog import Dataset
from service.evaluation import DatasetParameters, EvaluationParameters
from service.models import Artifact, Item
from service.states import ItemState
from service.storage import read_file
from workers.context import ShardContext
from workers.engine.attacks import Attack, controls
from workers.engine.evaluate import evaluate
from workers.engine.models import Network
from workers.engine.outcomes import Outcome, summarise
from workers.engine.pgd import Function
from workers.recipes.reading import at_once, read_pixels
from workers.recipes.results import table
from workers.runtime import Hopeless

OUTCOME = "outcome.npz"


class Stopped(Exception):  # noqa: N818 - what happened
    """The context asked to stop."""


def run(ctx: ShardContext) -> None:
    """Evaluate the shard's runs of images, or put all of them together. Raises Hopeless, LeaseLost or StorageError."""
    p = EvaluationParameters.model_validate(ctx.work.parameters)
    share(ctx, partial(evaluated, ctx, p), partial(summarised, ctx, p))


def share(ctx: ShardContext, one: Callable[[Item], None], together: Callable[[Item], None]) -> None:
    """Do the shard's items: `one` run of images, or all runs `together`; until the context asks to stop."""
    for item in ctx.work.items:
        try:
            (together if item.target["source"] == "summary" else one)(item)
        except Stopped:
            return


def attacks(p: EvaluationParameters) -> list[Attack]:
    """Those asked for, and what exposes a network that hides its gradients."""
    asked = [Attack(a.kind, p.norm, p.eps, a.steps, a.restarts, a.step_size) for a in p.attacks]
    return asked + (list(controls(p.norm, p.eps)) if p.controls else [])


def labels(p: EvaluationParameters) -> list[str]:
    """The attacks as tables call them: those that expose hidden gradients have another radius, and say so."""
    names = [a.name + (f" step {a.step_size:g}" if a.step_size else "") for a in attacks(p)]
    own = len(p.attacks)
    return names[:own] + [f"control {a.name}" for a in attacks(p)[own:]]


def chosen(ctx: ShardContext, p: DatasetParameters, item: Item) -> tuple[Dataset, list[int]]:
    """The data set, and the places of this run's images in it. Raises Hopeless."""
    dataset = ctx.runtime.catalog.datasets.get(p.dataset)
    if dataset is None or dataset.card.digest != p.dataset_digest:
        raise Hopeless(f"this worker has no data set {p.dataset} with digest {p.dataset_digest}")
    first = item.target["first"]
    return dataset, p.selection(dataset.card.size)[first : first + item.target["count"]]


def logits(network: Network, precision: str, x: Tensor) -> Tensor:
    """float32 [N, classes]; `bf16` computes by autocast."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        found: Tensor = network(x).float()
    return found


def evaluated(ctx: ShardContext, p: EvaluationParameters, item: Item) -> None:
    """One run of images, each with what became of it. Raises Stopped."""
    dataset, wanted = chosen(ctx, p, item)
    network, device = ctx.runtime.models.get(p.model, p.model_digest), ctx.runtime.models.device
    size = ctx.runtime.catalog.models[p.model].input_size
    x, places = read_pixels(dataset, wanted, size, p.resize)
    if not places:
        ctx.fail(item.index, "Images cannot be read", f"none of the {len(wanted)} images of this run can be read")
        return
    classes = torch.tensor([p.class_of[dataset.labels[i]] for i in places])
    f: Function = partial(logits, network, p.precision)
    steps, before = 0, p.steps * list(ctx.work.items).index(item)

    def observe(_: str, rows: int) -> None:
        nonlocal steps
        if ctx.should_stop():
            raise Stopped
        steps += rows
        ctx.report(steps // len(places), before + steps // len(places))
        ctx.turns.pass_on()

    try:
        batch = at_once(size, device)
        with ctx.turns:
            found = evaluate(f, x.to(device), classes.to(device), attacks(p), places, p.seed, batch, observe)
    except FloatingPointError as e:
        ctx.fail(item.index, "Result is not finite", str(e))
        return
    file = io.BytesIO()
    np.savez_compressed(file, **found._asdict())
    right = zip(["clean", *labels(p)], found.stood().mean(axis=0).tolist(), strict=True)
    metrics = {"images": len(places), "missing": len(wanted) - len(places), "accuracy": dict(right)}
    ctx.save(item.index, metrics, provenance(ctx), {OUTCOME: (file.getvalue(), "application/octet-stream")})


def provenance(ctx: ShardContext) -> dict[str, Any]:
    """How a result over a data set's images came about."""
    return {
        "parameters": dict(ctx.work.parameters), "code_version": version("robustreps"),
        "torch_version": torch.__version__, "device": ctx.runtime.device_name, "epoch": ctx.work.lease.epoch,
    }  # fmt: skip


def stored(ctx: ShardContext, name: str, job_id: str) -> list[bytes]:
    """The artifact of this name of every item of a job that succeeded, in order.

    Raises Hopeless if there is none, StorageError, or Stopped.
    """
    with ctx.runtime.db.reading() as session:
        files = session.execute(
            select(Artifact.key, Artifact.offset, Artifact.size)
            .join(Item, (Item.job_id == Artifact.job_id) & (Item.index == Artifact.item_index))
            .where(Artifact.job_id == job_id, Artifact.name == name, Item.state == ItemState.SUCCEEDED)
            .order_by(Artifact.item_index)
        ).all()
    if not files:
        raise Hopeless("no images could be evaluated, so there is nothing to put together")
    found = []
    for file in files:
        if ctx.should_stop():
            raise Stopped
        found.append(read_file(ctx.runtime.storage, *file))
        ctx.alive()
    return found


def outcome(data: bytes) -> Outcome:
    """What an evaluation's item stored."""
    with np.load(io.BytesIO(data), allow_pickle=False) as f:
        return Outcome(**f)


def summarised(ctx: ShardContext, p: EvaluationParameters, item: Item) -> None:
    """Every run together: accuracies with intervals, the table by class, and what each image came to."""
    outcomes = [outcome(data) for data in stored(ctx, OUTCOME, ctx.work.lease.job_id)]
    classes = ctx.runtime.catalog.models[p.model].classes
    summary = summarise(outcomes, attacks(p), classes)
    summary["missing"] = p.images - summary["images"]
    for each in (summary, *summary["classes"]):
        each["attacks"] = [row | {"name": name} for row, name in zip(each["attacks"], labels(p), strict=True)]
    files: Any = {
        "summary.json": (json.dumps(summary, indent=1).encode(), "application/json"),
        "classes.csv": (by_class(summary), "text/csv"),
        "images.csv": (by_image(outcomes, labels(p), classes), "text/csv"),
    }
    headline = {attack["name"]: attack["accuracy"] for attack in summary["attacks"]}
    metrics = {
        "images": summary["images"], "accuracy": {"clean": summary["clean"]["accuracy"], **headline},
        "suspicions": summary["suspicions"],
    }  # fmt: skip
    job = ctx.work.lease.job_id
    also = registry.add_evaluation(job, p.model, p.model_digest, p.dataset, summary)
    ctx.save(item.index, metrics, provenance(ctx), files, [also])


def by_class(summary: dict[str, Any]) -> bytes:
    """A row a class, and one for all, as CSV."""
    rows = []
    for each in [{"label": "all", **summary}, *summary["classes"]]:
        shares = {"clean": each["clean"], **{attack["name"]: attack for attack in each["attacks"]}}
        row = {"class": each["label"], "images": each["images"]}
        for name, share in shares.items():
            row |= {name: share["accuracy"], f"{name}_low": share["low"], f"{name}_high": share["high"]}
        rows.append(row)
    return table(rows)


def by_image(outcomes: Sequence[Outcome], tried: Sequence[str], classes: Sequence[str]) -> bytes:
    """A row an image as CSV: its class, what it was taken for, and under each attack the class it fell to."""
    rows = []
    for o in outcomes:
        for i, index in enumerate(o.image.tolist()):
            row = {"index": index, "label": classes[o.label[i]], "clean": classes[o.clean[i]]}
            for a, name in enumerate(tried):
                row |= {name: classes[o.prediction[i, a]], f"{name}_margin": float(o.margin[i, a])}
            rows.append(row)
    return table(rows)
