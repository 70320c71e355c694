"""A training run in processes of its own, which this one starts, follows, stops, and keeps the checkpoints of.

A process writes what happens to a file of events, a JSON object a line; it knows no database, lease or storage. So it
may die in any way: its checkpoint is stored by then, and whoever claims the shard next goes on from there.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import structlog

from service import registry
from service.keys import weights_key
from service.models import Item
from service.training import TrainingParameters
from workers.context import ShardContext

log = structlog.get_logger()
POLL_SECONDS = 0.2
STOP_SECONDS = 30
"""How long a run may take to write its checkpoint once it is asked to stop."""
ERROR_BYTES = 2000


class TrainingFailed(RuntimeError):  # noqa: N818 - what happened
    """The processes ended without a result: the attempt failed, and the next goes on from the last checkpoint."""


def run(ctx: ShardContext) -> None:
    """Train to the end, register the network, and save it. Raises LeaseLost, StorageError or TrainingFailed."""
    for item in ctx.work.items:
        parameters = TrainingParameters.model_validate(ctx.work.parameters)
        with TemporaryDirectory(prefix="robustreps-training-") as name:
            folder = Path(name)
            prepare(ctx, parameters, item, folder)
            with started(ctx, parameters, folder) as process:
                last = Follower(ctx, item, folder, process).follow()
            match last.get("event"):
                case "done":
                    save(ctx, parameters, item, folder)
                case "diverged":
                    ctx.fail(item.index, "Training diverged", last["detail"])
                case "stopped":
                    return
                case _:
                    tail = (folder / "stderr").read_bytes()[-ERROR_BYTES:].decode(errors="replace").strip()
                    raise TrainingFailed(f"the training process ended with status {process.returncode}: {tail}")


def prepare(ctx: ShardContext, p: TrainingParameters, item: Item, folder: Path) -> None:
    """The folder as `workers.training` wants it: job.json, and the checkpoint to go on from, if there is one."""
    named = {name: ctx.runtime.catalog.datasets[name] for name in (p.dataset, p.validation) if name}
    datasets = {name: {"card": d.card.model_dump(mode="json"), "location": d.location} for name, d in named.items()}
    job = {"parameters": p.model_dump(mode="json"), "datasets": datasets, "worker": os.getpid()}
    (folder / "job.json").write_text(json.dumps(job))
    if item.checkpoint:
        ctx.runtime.storage.download(item.checkpoint["key"], folder / "checkpoint.pt")
        log.info("goes on", step=item.checkpoint["step"])


@contextmanager
def started(ctx: ShardContext, p: TrainingParameters, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The training processes, in a group of their own that does not outlive the block."""
    command = [sys.executable, "-m"]
    nodes = ctx.runtime.settings.torchrun_options
    if nodes or p.processes > 1:
        how = shlex.split(nodes) if nodes else ["--standalone"]
        command += ["torch.distributed.run", *how, f"--nproc-per-node={p.processes}", "-m"]
    command += ["workers.training", str(folder)]
    environment = os.environ | ctx.runtime.settings.environment()
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Follower:
    """Reads a run's events as they come, and passes them on to the database and the storage."""

    def __init__(self, ctx: ShardContext, item: Item, folder: Path, process: "subprocess.Popen[bytes]") -> None:
        self.ctx, self.item, self.folder, self.process = ctx, item, folder, process
        self.read = 0
        self.uploads = ThreadPoolExecutor(1)  # an upload may take longer than a lease without a heartbeat lives
        self.upload: Future[None] | None = None

    def follow(self) -> dict[str, Any]:
        """The last event, once the processes have ended. Raises LeaseLost or StorageError."""
        asked, last = None, dict[str, Any]()
        with self.uploads:
            while True:
                ended = self._ended()
                for event in self._events():
                    self._take(event)
                    last = event
                if self.upload and self.upload.done():
                    self.upload.result()
                if ended:
                    break
                if self.ctx.should_stop() and asked is None:
                    asked = time.monotonic()
                    os.killpg(self.process.pid, signal.SIGTERM)
                elif asked is not None and time.monotonic() - asked > STOP_SECONDS:
                    os.killpg(self.process.pid, signal.SIGKILL)
            if self.upload:
                self.upload.result()
        return last

    def _ended(self) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(POLL_SECONDS)
        return self.process.returncode is not None

    def _events(self) -> Iterator[dict[str, Any]]:
        """Those that are whole and were not read before."""
        path = self.folder / "events.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self.read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.read += len(line)
                yield json.loads(line)

    def _take(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "progress":
                self.ctx.report(event["step"], 1, event["loss"])
            case "epoch":
                self.ctx.epoch(event["epoch"], event["metrics"])
            case "checkpoint":
                self._keep(event["step"])
            case _:
                self.ctx.alive()

    def _keep(self, step: int) -> None:
        """Upload the checkpoint that is there now; the process replaces it, but never writes into it."""
        if self.upload:
            self.upload.result()
        kept = self.folder / f"checkpoint-{step}.pt"
        kept.unlink(missing_ok=True)
        os.link(self.folder / "checkpoint.pt", kept)
        self.upload = self.uploads.submit(self._store, kept, step)

    def _store(self, path: Path, step: int) -> None:
        self.ctx.checkpoint(self.item.index, path, step)
        path.unlink()


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
