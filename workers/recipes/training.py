"""A training run in processes of its own, which this one starts, follows, stops, and keeps the checkpoints of.

A process writes what happens to a file of events, a JSON object a line; it knows no database, lease or storage. So it
may die in any way: its checkpoint is stored by then, and whoever claims the shard next goes on from there.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from service import registry
from service.joblog import Event
from service.keys import weights_key
from service.models import Item
from service.storage import ObjectNotFound
from service.training import TrainingParameters
from workers.context import ShardContext
from workers.recipes.following import Follower, lives

log = structlog.get_logger()
ERROR_BYTES = 2000
NEEDED = (
    "data_dir", "storage_url", "s3_endpoint", "s3_access_key", "s3_secret_key", "s3_region", "assets_dir",
    "datasets_dir", "cache_dir", "cache_bytes", "device", "worker_nice",
)  # fmt: skip
"""Settings of the processes: they read data sets, and nothing else of the service."""
TORCHRUN = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class TrainingFailed(RuntimeError):  # noqa: N818 - what happened
    """The processes ended without a result: the attempt failed, and the next goes on from the last checkpoint."""


def run(ctx: ShardContext) -> None:
    """Train to the end, register the network, and save it. Raises LeaseLost, StorageError or TrainingFailed."""
    for item in ctx.work.items:
        p = TrainingParameters.model_validate(ctx.work.parameters)
        with workplace(ctx) as folder:
            prepare(ctx, p, item, folder)
            with started(ctx, p, folder) as process:
                last = Follower(ctx, item, folder, process).follow()
            match last.get("event"):
                case "done":
                    save(ctx, p, item, folder)
                case "diverged":
                    ctx.fail(item.index, "Training diverged", last["detail"])
                case "failed":
                    ctx.fail(item.index, "Cannot be trained", last["detail"])
                case _ if last.get("event") == "stopped" or ctx.should_stop():
                    return
                case _:
                    tail = (folder / "stderr").read_bytes()[-ERROR_BYTES:].decode(errors="replace").strip()
                    raise TrainingFailed(f"the training process ended with status {process.returncode}: {tail}")


@contextmanager
def workplace(ctx: ShardContext) -> Iterator[Path]:
    """An empty folder for the run. Those that killed workers on this machine left behind are removed."""
    place, host = ctx.runtime.settings.cache / "training", socket.gethostname()
    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob(f"{host}.*"):
        if not lives(int(left.name.split(".")[-2])):
            shutil.rmtree(left, ignore_errors=True)
    folder = place / f"{host}.{os.getpid()}.{ctx.work.lease.job_id}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prepare(ctx: ShardContext, p: TrainingParameters, item: Item, folder: Path) -> None:
    """The folder as `workers.training` wants it: job.json, and the checkpoint to go on from, if there is one."""
    named = {name: ctx.runtime.catalog.datasets[name] for name in (p.dataset, p.validation) if name}
    datasets = {
        name: {"card": dataset.card.model_dump(mode="json"), "location": dataset.location}
        for name, dataset in named.items()
    }
    job = {"parameters": p.model_dump(mode="json"), "datasets": datasets, "worker": os.getpid()}
    (folder / "job.json").write_text(json.dumps(job))
    if item.checkpoint:
        checkpoint, found = folder / "checkpoint.pt", ""
        with suppress(ObjectNotFound):
            found = ctx.runtime.storage.download(item.checkpoint["key"], checkpoint).sha256
        if found == item.checkpoint["sha256"]:
            log.info("goes on", step=item.checkpoint["step"])
        else:
            log.error("a checkpoint is not what was stored; beginning anew", key=item.checkpoint["key"])
            ctx.note(Event.CHECKPOINT_LOST, why="it is not what was stored")
            checkpoint.unlink(missing_ok=True)


@contextmanager
def started(ctx: ShardContext, p: TrainingParameters, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The training processes, which do not outlive the block: those that torchrun starts end once it is gone."""
    command, nodes = [sys.executable, "-m"], ctx.runtime.settings.torchrun_options
    if nodes or p.processes > 1:
        how = shlex.split(nodes) if nodes else ["--standalone"]
        command += ["torch.distributed.run", *how, f"--nproc-per-node={p.processes}", "-m"]
    command += ["workers.training", str(folder)]
    inherited = {n: v for n, v in os.environ.items() if not n.startswith("ROBUSTREPS_") and n not in TORCHRUN}
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            command, env=inherited | ctx.runtime.settings.environment(NEEDED), stdin=subprocess.DEVNULL, stdout=errors,
            stderr=errors, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def save(ctx: ShardContext, p: TrainingParameters, item: Item, folder: Path) -> None:
    """Store the network and register it; under a name of its own if the wanted one is taken by now."""
    lease = ctx.work.lease
    result = json.loads((folder / "result.json").read_text())
    weights = ctx.put(weights_key(lease.job_id, lease.epoch), folder / "model.safetensors")
    own = f"{p.architecture}-{lease.job_id.removeprefix('job_')[:8]}"
    name = p.name if p.name and p.name not in ctx.runtime.refreshed().models else own
    card = result["card"] | {"name": name, "job": lease.job_id}
    provenance = {
        "parameters": p.model_dump(mode="json"), "code_version": version("robustreps"), "epoch": lease.epoch,
        **result["provenance"],
    }  # fmt: skip
    also = [registry.add_model(lease.job_id, card, weights.key)]
    if summary := result["evaluation"]:
        also.append(registry.add_evaluation(lease.job_id, name, card["digest"], str(p.validation), summary))
    files: Any = {
        "model.safetensors": (weights, "application/octet-stream"),
        "card.json": (json.dumps(card, indent=2).encode(), "application/json"),
    }
    ctx.save(item.index, result["metrics"] | {"model": name}, provenance, files, also)
