"""What the service costs over the bare loop: a job through the HTTP API against the same searches in a batcher alone.

    python -m bench.worker [--items 1000] [--steps 300] [--servers] [--workers 2] [--rounds 3] [--out FILE.json]

The job is an inversion of `--items` images with the preset cifar on the shipped robust network. It runs in the embedded
mode, `robustreps serve` with SQLite and files in a folder that goes away; or with `--servers`, as `deploy.up` does it,
on Postgres, Redis and S3 with that many workers. Its time is from when the API took it until its last item was stored,
after a job that loaded the network. The bare loop is the worker's batcher in a process of its own, with the same
network, targets and steps, and nothing measured or stored. They take turns.

Two costs are told. `wall` is what a user sees, and means something on a machine that does nothing else. `processor`
compares the seconds of processors that the API and the workers used (servers not counted) with the bare loop's: other
programs do not stretch it, but it counts as cost what a second core does while the device computes. `busy` is the share
of the job's time in which the device made steps, by the worker's own count: of a worker on servers, since it says so
when it ends.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import torch
from PIL import Image

from deploy import servers, up
from service.app import open_context
from service.client import Client
from service.settings import Settings
from workers.engine.bench import machine
from workers.engine.descent import descent
from workers.engine.figures import to_tensor
from workers.engine.lanes import Program
from workers.engine.rows import Row
from workers.engine.seeding import generator
from workers.runtime import ModelStore, make_batcher, pick_device

MODEL, DATASET, IMAGES, SIZE = "cifar10-robust", "cifar10-sample", 400, 32
"""The shipped network and data set, with its number of images and their pixels a side."""
STEP_SIZE, EPS = 0.1, 1000.0
"""The preset's."""
WARM = 8
"""Items of the job that loads the network."""
Environment = dict[str, str]
Process = subprocess.Popen[bytes]


def job(client: Client, items: int, steps: int) -> float:
    """Seconds of an inversion job by the service's clock. Ends the program if an item failed."""
    targets = {"source": "dataset", "dataset": DATASET, "indices": [i % IMAGES for i in range(items)]}
    sent = client.submit(kind="inversion", model=MODEL, preset="cifar", steps=steps, targets=targets)
    over = client.wait(sent["id"])
    if over["state"] != "succeeded":
        sys.exit(f"the job has {over['state']}: {over['items']} {over['error']}")
    began, ended = (datetime.fromisoformat(over[name]) for name in ("created_at", "finished_at"))
    return (ended - began).total_seconds()


def bare(items: int, steps: int) -> dict[str, float]:
    """The same searches in the worker's batcher, without a worker: seconds, and what the batcher counted."""
    settings = Settings()
    context, device = open_context(settings), pick_device(settings.device)
    network = ModelStore(context.catalog, device).get(MODEL, context.catalog.models[MODEL].digest)
    f = descent(network, "penultimate", False, "mean", "fp32", SIZE)
    images = context.catalog.datasets[DATASET]
    x = torch.stack([to_tensor(Image.fromarray(images.image(i % IMAGES))) for i in range(items)])
    with torch.no_grad():
        aims = torch.cat([network.represent(x[i : i + 64].to(device)) for i in range(0, items, 64)]).cpu()
    rows = []
    for i, aim in enumerate(aims):
        start = (0.5 + torch.randn(3, SIZE, SIZE, generator=generator(0, i, 0)) / 20).clamp(0, 1)
        rows.append(Row(start, start, aim, True, EPS, STEP_SIZE, steps))
    program = Program(MODEL, f, (3, SIZE, SIZE), aims.shape[1], device)
    batcher = make_batcher(settings, device)
    batcher.submit(program, rows[:WARM])
    batcher.step()
    while batcher.step():
        pass
    began, processor, before = time.perf_counter(), time.process_time(), batcher.stats.image_steps
    batcher.submit(program, rows)
    while batcher.step():
        pass
    return {"wall": time.perf_counter() - began, "processor": time.process_time() - processor,
            "image_steps": batcher.stats.image_steps - before}  # fmt: skip


def tell(report: dict[str, Any], out: Path | None) -> None:
    """Print a report, and keep it in a file if one is named."""
    print(json.dumps(report, indent=1))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")


def processor_seconds(process: Process) -> float:
    """What a process has used until now, all of its threads."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def start(stack: ExitStack, command: str, env: Environment, log: Path) -> Process:
    """A process of the service, which ends with the stack; what it says goes to a file."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("robustreps"), command], env=env, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    stack.callback(servers.stopped, process)
    return process


def ready(process: Process, url: str, log: Path) -> None:
    """Wait for the API. Ends the program if its process did."""
    while True:
        try:
            urlopen(f"{url}/readyz", timeout=5).close()
        except (URLError, OSError):
            if process.poll() is not None:
                sys.exit(f"the API ended: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        else:
            return


class Service:
    """An API with its client, the environment of its processes, and those of them that compute or serve."""

    def __init__(self, stack: ExitStack, folder: Path, env: Environment) -> None:
        self.stack, self.log = stack, folder / "log"
        self.env = (
            {"ROBUSTREPS_AUTH": "off"}
            | env
            | {"ROBUSTREPS_PORT": str(servers.usable_port()), "ROBUSTREPS_LOG_FORMAT": "json"}
        )
        self.url = f"http://127.0.0.1:{self.env['ROBUSTREPS_PORT']}"
        self.processes = [start(stack, "serve", self.env, self.log)]
        ready(self.processes[0], self.url, self.log)
        self.client = stack.enter_context(Client(self.url))

    @contextmanager
    def workers(self, count: int) -> Iterator[None]:
        """So many workers, as long as this lasts."""
        with ExitStack() as stack:
            workers = [start(stack, "worker", self.env, self.log) for _ in range(count)]
            self.processes += workers
            yield
        self.processes = self.processes[:1]

    def timed(self, items: int, steps: int) -> dict[str, float]:
        before = sum(map(processor_seconds, self.processes))
        wall = job(self.client, items, steps)
        return {"wall": wall, "processor": sum(map(processor_seconds, self.processes)) - before}


@contextmanager
def embedded(env: Environment) -> Iterator[Service]:
    """One process, in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        yield Service(stack, Path(folder), env | {"ROBUSTREPS_DATA_DIR": folder})


@contextmanager
def on_servers(env: Environment) -> Iterator[Service]:
    """Postgres, Redis, S3 and an API, without a worker yet, in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data = Path(folder)
        database = stack.enter_context(servers.postgres(data / "postgres"))
        broker = stack.enter_context(servers.redis(data / "redis"))
        endpoint = stack.enter_context(servers.s3(data / "s3"))
        up.make_bucket(endpoint)
        env = up.environment(database, broker, endpoint) | env | {"ROBUSTREPS_DATA_DIR": folder}
        robustreps = Path(sys.executable).with_name("robustreps")
        subprocess.run([robustreps, "migrate"], env=env, check=True, stdout=subprocess.DEVNULL)
        yield Service(stack, data, env)


def bare_apart(items: int, steps: int, env: Environment) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.worker", "--bare", "--items", str(items), "--steps", str(steps)]
    found: dict[str, float] = json.loads(
        subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, start_new_session=True).stdout
    )
    return found


def costs(rounds: list[dict[str, dict[str, float]]], items: int) -> dict[str, Any]:
    """Medians of the rounds: the service's cost over the bare loop, as a share of the loop's."""
    wall, processor = (
        median(each["service"][clock] / each["bare"][clock] for each in rounds) for clock in ("wall", "processor")
    )
    return {
        "items_per_second": {name: median(items / r[name]["wall"] for r in rounds) for name in ("bare", "service")},
        "bare_image_steps_per_second": median(r["bare"]["image_steps"] / r["bare"]["wall"] for r in rounds),
        "cost_wall": wall - 1, "cost_processor": processor - 1,
        "milliseconds_per_item_of_processor": median(
            1000 * (r["service"]["processor"] - r["bare"]["processor"]) / items for r in rounds
        ),
    }  # fmt: skip


def busy(service: Service, workers: int, rounds: list[dict[str, dict[str, float]]]) -> float | None:
    """The share of the jobs' time in which a worker's device searched, as workers say when they end; None: embedded."""
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    searched = [line["seconds"] for line in lines if line.get("event") == "worker ends"]
    return sum(searched) / (workers * sum(each["service"]["wall"] for each in rounds)) if searched else None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--servers", action="store_true", help="Postgres, Redis, S3 and workers; else embedded")
    parser.add_argument("--workers", type=int, default=1, help="on servers")
    parser.add_argument("--threads", type=int, default=max((os.cpu_count() or 1) // 2, 1), help="of every computation")
    parser.add_argument("--bare", action="store_true", help="the bare loop alone, in this process")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    a = arguments()
    if a.bare:
        print(json.dumps(bare(a.items, a.steps)))
        return
    env = os.environ | {"OMP_NUM_THREADS": str(a.threads)}
    rounds = []
    with on_servers(env) if a.servers else embedded(env) as service:
        with service.workers(a.workers if a.servers else 0):
            job(service.client, WARM * a.workers, 1)
            for _ in range(a.rounds):
                rounds.append({"bare": bare_apart(a.items, a.steps, env), "service": service.timed(a.items, a.steps)})
                print(json.dumps(rounds[-1]), flush=True)
        busy_share = busy(service, a.workers, rounds)
    torch.set_num_threads(a.threads)
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    setup = f"servers, {a.workers} workers" if a.servers else "embedded"
    report = {
        "machine": machine(pick_device("auto")), "load_per_core": load, "service": setup, "items": a.items,
        "steps": a.steps, "rounds": rounds, **costs(rounds, a.items), "busy": busy_share,
    }  # fmt: skip
    tell(report, a.out)


if __name__ == "__main__":
    servers.exit_on_signals()
    main()
