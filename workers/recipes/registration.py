"""Networks and data sets checked, and entered into the registries: what is wrong with one is its item's error."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np

from service import registry
from service.data.formats import Spec, scan
from service.data.index import Arrays, DatasetError
from service.data.reader import check
from service.evaluation import selection
from service.keys import dataset_key, weights_key
from service.models import Item
from service.objects import Source
from service.registration import DatasetRegistration, ModelRegistration, RegistrationParameters
from service.storage import LocalFolder, ObjectNotFound
from service.training import NORMALISATION
from workers.context import ShardContext
from workers.loading import published_size
from workers.recipes.evaluation import Stopped
from workers.recipes.reading import read_pixels
from workers.runtime import Hopeless

SAMPLE, LOADING_SECONDS, POLL_SECONDS = 200, 1800, 0.2
"""Images that a network is tried on; how long that may take."""
KEPT_IN_ENVIRONMENT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "TORCH_HOME", "https_proxy")
ERROR_BYTES = 2000


def model(ctx: ShardContext) -> None:
    """Load a network in a process of its own, try it, and register it. Raises LeaseLost or StorageError."""
    for item in ctx.work.items:
        p = RegistrationParameters.model_validate(ctx.work.parameters)
        request = ModelRegistration.model_validate(p.request)
        with TemporaryDirectory(prefix="robustreps-loading-") as name:
            folder = Path(name)
            try:
                prepare(ctx, request, p.resolved, folder)
                report = loaded(ctx, folder)
            except Stopped:
                return
            except ObjectNotFound as e:
                report = {"error": f"no object {e.args[0]} in the storage"}
            if "error" in report:
                ctx.fail(item.index, "Model refused", report["error"])
            else:
                save_model(ctx, request, item, report, folder)


def prepare(ctx: ShardContext, request: ModelRegistration, resolved: dict[str, Any], folder: Path) -> None:
    """The folder as `workers.loading` wants it. Raises ObjectNotFound or StorageError."""
    trained = resolved.get("training") or {}
    known = {name: trained.get(name) for name in ("input_size", "classes")} | {"architecture": resolved["architecture"]}
    asked = request.model_dump(include={"input_size", "mean", "std", "classes", "least_accuracy"}, exclude_none=True)
    job = known | asked
    if request.source.source == "torchvision":
        weights_dir = ctx.runtime.settings.weights_dir
        job |= {"weights": request.source.weights, "weights_dir": str(weights_dir) if weights_dir else None}
    else:
        job["format"] = getattr(request.source, "format", "auto")
        ctx.runtime.storage.download(resolved["key"], folder / "checkpoint")
    if request.dataset is not None:
        sample(ctx, request, job, folder)
    (folder / "job.json").write_text(json.dumps(job))


def sample(ctx: ShardContext, request: ModelRegistration, job: dict[str, Any], folder: Path) -> None:
    """Labelled images for the network to be tried on, and their data set's classes for its own, unless it has some."""
    dataset = ctx.runtime.catalog.datasets[str(request.dataset)]
    names = job.get("classes") or dataset.card.classes
    job["classes"] = names
    usual = ctx.runtime.catalog.architectures[job["architecture"]].input_size
    published = published_size(job["weights"]) if "weights" in job else None
    size = job["input_size"] = job.get("input_size") or published or usual
    x, places = read_pixels(dataset, selection(dataset.card.size, SAMPLE, 0), size, "imagenet")
    labels = [names.index(dataset.card.classes[dataset.labels[i]]) for i in places]
    np.savez(folder / "images.npz", pixels=x.numpy(), labels=np.array(labels, np.int64))


def loaded(ctx: ShardContext, folder: Path) -> dict[str, Any]:
    """What the process reports. Raises Stopped, or RuntimeError if it dies."""
    environment = {name: os.environ[name] for name in KEPT_IN_ENVIRONMENT if name in os.environ}
    command = [sys.executable, "-m", "workers.loading", str(folder)]
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        try:
            begun = time.monotonic()
            while process.poll() is None:
                if ctx.should_stop():
                    raise Stopped
                if time.monotonic() - begun > LOADING_SECONDS:
                    return {"error": f"loading it and trying it took more than {LOADING_SECONDS} seconds"}
                time.sleep(POLL_SECONDS)
                ctx.alive()
        finally:
            process.kill()
            process.wait()
    if not (folder / "report.json").exists():
        tail = (folder / "stderr").read_bytes()[-ERROR_BYTES:].decode(errors="replace").strip()
        raise RuntimeError(f"the process that loads the checkpoint ended with status {process.returncode}: {tail}")
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def save_model(ctx: ShardContext, request: ModelRegistration, item: Item, report: dict[str, Any], folder: Path) -> None:
    """Store the weights, and the card with the row. A name that is taken by now is the item's error."""
    lease = ctx.work.lease
    trained = (ctx.work.parameters["resolved"] or {}).get("training") or {}
    weights = ctx.put(weights_key(lease.job_id, lease.epoch), folder / "model.safetensors")
    card = report | {
        "name": request.name, "title": request.title or f"{report['architecture']}, {request.source.source}",
        "epsilon": trained.get("eps") if request.eps is None else request.eps,
        "norm": request.norm or trained.get("norm"),
        "twin": request.twin, "judge": request.judge, "licence": request.licence, "job": lease.job_id,
        "source": request.source.model_dump(mode="json"),
    }  # fmt: skip
    files: Any = {
        "model.safetensors": (weights, "application/octet-stream"),
        "card.json": (json.dumps(card, indent=2).encode(), "application/json"),
    }
    found = ("architecture", "features", "parameters", "digest", "format", "notes", "sample_accuracy", "alternatives")
    metrics = {"model": request.name, **{name: report[name] for name in found}}
    _save(ctx, item, metrics, files, registry.add_model(lease.job_id, card, weights.key))


def _save(ctx: ShardContext, item: Item, metrics: dict[str, Any], files: Any, also: registry.Also) -> None:
    provenance = {"code_version": version("robustreps"), "epoch": ctx.work.lease.epoch}
    try:
        ctx.save(item.index, metrics, provenance, files, [also])
    except registry.NameTaken as e:
        ctx.fail(item.index, "Name is taken", str(e))


class Watched:
    """A place to read from that tells the context of each read, and stops when it asks."""

    def __init__(self, source: Source, ctx: ShardContext) -> None:
        self.source, self.ctx, self.url = source, ctx, source.url

    def _look(self) -> None:
        if self.ctx.should_stop():
            raise Stopped
        self.ctx.alive()

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            self._look()
            return getattr(self.source, name)(*args)

        return call

    def entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        for n, entry in enumerate(self.source.entries(prefix)):
            if n % 1000 == 0:
                self._look()
            yield entry


def dataset(ctx: ShardContext) -> None:
    """Scan a data set, look at a sample of its images, and register it. Raises Hopeless, LeaseLost or StorageError."""
    for item in ctx.work.items:
        request = DatasetRegistration.model_validate(ctx.work.parameters["request"])
        folder = ctx.runtime.settings.datasets_dir
        if request.root == "folder" and folder is None:
            raise Hopeless("this worker has no datasets_dir")
        place = LocalFolder(folder) if request.root == "folder" and folder else ctx.runtime.storage
        source = cast(Source, Watched(place, ctx))
        spec = Spec(request.format, request.path, request.split, request.balanced)
        try:
            found = scan(source, spec)
            seen = check(source, found, request.sample)
        except Stopped:
            return
        except (DatasetError, ObjectNotFound) as e:
            ctx.fail(item.index, "Data set refused", str(e.detail if isinstance(e, DatasetError) else e))
            continue
        save_dataset(ctx, request, item, found, seen)


def save_dataset(ctx: ShardContext, request: DatasetRegistration, item: Item, found: Any, seen: Any) -> None:
    """Store the index, or the pixels, and the card with the row."""
    lease, kind = ctx.work.lease, "arrays" if isinstance(found, Arrays) else "index"
    stored = ctx.put(dataset_key(lease.job_id, lease.epoch, f"{kind}.npz"), found.save())
    usual = NORMALISATION.get(request.format, NORMALISATION["imagenet"])
    sizes = [{"width": w, "height": h, "images": n} for (w, h), n in seen.sizes]
    card = {
        "name": request.name, "title": request.title or f"{request.format} in {request.path or '/'}",
        "size": len(found), "image_size": seen.image_size, "classes": list(found.classes), "digest": found.digest,
        "licence": request.licence, "mean": request.mean or usual["mean"], "std": request.std or usual["std"],
        "format": request.format, "root": request.root, "path": request.path, "split": request.split,
        "balanced": request.balanced, "class_counts": list(seen.class_counts), "sampled": seen.sampled,
        "common_sizes": sizes, "smallest": seen.smallest, "largest": seen.largest, "modes": seen.modes,
        "unlabelled": len(found) - sum(seen.class_counts) if found.classes else 0, "job": lease.job_id,
    }  # fmt: skip
    metrics = {
        name: card[name] for name in ("size", "unlabelled", "image_size", "digest", "sampled", "common_sizes", "modes")
    }
    metrics |= {"dataset": request.name, "classes": len(found.classes), "empty_classes": list(seen.empty)}
    location = {"root": request.root, kind: stored.key}
    files: Any = {"card.json": (json.dumps(card, indent=2).encode(), "application/json")}
    _save(ctx, item, metrics, files, registry.add_dataset(lease.job_id, card, location))
