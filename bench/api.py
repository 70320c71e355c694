"""How many jobs the API takes and tells of a second, on Postgres and Redis, while a worker computes.

    python -m bench.api [--processes 1] [--connections 32] [--seconds 10] [--rounds 3] [--out FILE.json]

Beside it FastAPI's own hello-world, by as many processes of uvicorn, in the same rounds. All of it runs on this
machine: the servers (durable, as `make up` runs them), the API, a worker with one thread that searches all the while,
and the load, a process of its own (`bench/load.py`) over connections that are kept.

- **submissions**: inversions of one image, each another one, half of them with an idempotency key of their own. They
  stay queued: the worker has more than enough to do.
- **polls** of `JOBS` jobs by chance, most queued, some finished, one running; each is a `GET` of the whole job.
- **unchanged**: polls of one finished job by If-None-Match, answered 304.

`most` is what the connections get through, with the processor time of a request by process; `all` is that of everything
but the worker, the load included, and says more than the clock on a machine that does something else too. `steady` has
latencies at half of the goal's rate, from when each request was due.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

from rich.console import Console
from rich.table import Table

from bench.load import NUMBER
from bench.worker import DATASET, MODEL, Environment, Service, tell
from deploy import servers
from workers.engine.bench import machine
from workers.runtime import pick_device

GOALS = {"hello": 0, "submissions": 500, "polls": 1500, "unchanged": 1500}
JOBS, FINISHED, LONG, SHARDS = 1000, 10, 100_000, 5
"""Jobs that are polled, how many of them have ended, the steps of jobs that do not end, and the shards of the one that
a worker is at: more than it holds at once."""
Found = dict[str, Any]


def used(root: int) -> float:
    """Seconds of processor of a process and all that descend from it, ended or not."""
    spent, parents = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        pid = int(stat.parent.name)
        parents[pid], spent[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return sum(spent.get(pid, 0) for pid in tree) / os.sysconf("SC_CLK_TCK")


def get(path: str, *headers: str) -> str:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: bench", *headers, "", ""])


def inversion(steps: int, indices: list[int]) -> Found:
    targets = {"source": "dataset", "dataset": DATASET, "indices": indices}
    return {"kind": "inversion", "model": MODEL, "preset": "cifar", "steps": steps, "targets": targets}


def post(*headers: str) -> str:
    """A submission with a seed of its own."""
    body = json.dumps(inversion(LONG, [0]) | {"seed": int(NUMBER)})
    head = ["POST /v1/jobs HTTP/1.1", "Host: bench", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, *headers, "", body])


def load(port: int, requests: list[str], connections: int, seconds: float, rate: float | None = None) -> Found:
    """What `bench/load.py` answers, with the ids of the jobs that were submitted as `kept`."""
    asked = {"port": port, "requests": requests, "connections": connections, "seconds": seconds, "rate": rate,
             "keep": '"id":"(job_[0-9a-f]+)"'}  # fmt: skip
    command = [sys.executable, "-m", "bench.load"]
    done = subprocess.run(command, input=json.dumps(asked), check=True, stdout=subprocess.PIPE, text=True)
    found: Found = json.loads(done.stdout)
    return found


class Bench:
    """The running service and hello-world, and what each is asked."""

    def __init__(self, service: Service, hello: int, pids: dict[str, int], a: argparse.Namespace) -> None:
        self.a, self.pids = a, pids
        port = int(service.env["ROBUSTREPS_PORT"])
        self.ports = dict.fromkeys(GOALS, port) | {"hello": hello}
        ended = [service.client.submit(**inversion(1, [0]))["id"] for _ in range(FINISHED)]
        for one in ended:
            service.client.wait(one)
        running = service.client.submit(**inversion(LONG, list(range(SHARDS * 64))))["id"]
        queued = load(port, [post()], 4, 5)["kept"][: JOBS - FINISHED - 1]
        with urlopen(f"{service.url}/v1/jobs/{ended[0]}") as answer:
            unchanged = get(f"/v1/jobs/{ended[0]}", f"If-None-Match: {answer.headers['ETag']}")
        self.requests = {
            "hello": [get("/")], "submissions": [post(), post(f"Idempotency-Key: k{NUMBER.decode()}")],
            "polls": [get(f"/v1/jobs/{one}") for one in (*ended, running, *queued)], "unchanged": [unchanged],
        }  # fmt: skip

    def measure(self, what: str, rate: float | None = None) -> Found:
        before = {name: used(pid) for name, pid in self.pids.items()}
        found = load(self.ports[what], self.requests[what], self.a.connections, self.a.seconds, rate)
        spent = {name: used(pid) - before[name] for name, pid in self.pids.items()} | {"load": found.pop("processor")}
        del found["kept"]
        return found | {"processor_ms": {name: 1000 * s / found["requests"] for name, s in spent.items()}}

    def rounds(self) -> Iterator[dict[str, dict[str, Found]]]:
        for _ in range(self.a.rounds):
            yield {
                what: {"most": self.measure(what)} | ({"steady": self.measure(what, goal / 2)} if goal else {})
                for what, goal in GOALS.items()
            }


@contextmanager
def hello(processes: int) -> Iterator[tuple[int, int]]:
    """FastAPI's first example, by so many processes: its port and the process that has them."""
    port = servers.usable_port()
    command = [sys.executable, "-m", "uvicorn", "bench.hello:app", "--port", str(port), "--workers", str(processes)]
    process = subprocess.Popen([*command, "--no-access-log", "--log-level", "warning"], start_new_session=True)
    try:
        yield port, process.pid
    finally:
        servers.stopped(process)


@contextmanager
def everything(a: argparse.Namespace, env: Environment) -> Iterator[Bench]:
    """Servers, API, worker and hello-world, in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data, enter = Path(folder), stack.enter_context
        data.chmod(0o711)  # Postgres runs as another account
        env = env | {
            "ROBUSTREPS_DATABASE_URL": enter(servers.postgres(data / "postgres")),
            "ROBUSTREPS_BROKER_URL": enter(servers.redis(data / "redis")),
            "ROBUSTREPS_DATA_DIR": folder, "ROBUSTREPS_API_PROCESSES": str(a.processes),
        }  # fmt: skip
        migrate = [str(Path(sys.executable).with_name("robustreps")), "migrate"]
        subprocess.run(migrate, env=env, check=True, stdout=subprocess.DEVNULL)
        service = Service(stack, data, env)
        enter(service.workers(1))
        port, process = enter(hello(a.processes))
        pids = {name: int((data / name / "pid").read_text()) for name in ("postgres", "redis")}
        api, worker = (each.pid for each in service.processes)
        yield Bench(service, port, {"api": api, "hello": process, "worker": worker} | pids, a)


def row(what: str, rounds: list[dict[str, dict[str, Found]]]) -> list[str]:
    """A line of the table: medians of the rounds."""
    most = [each[what]["most"] for each in rounds]
    steady = [each[what]["steady"] for each in rounds if "steady" in each[what]]
    spent = {name: median(each["processor_ms"][name] for each in most) for name in most[0]["processor_ms"]}
    share = median(each["processor_ms"]["worker"] * each["per_second"] / 1000 for each in most)
    own = spent["hello"] if what == "hello" else spent["api"]
    whole = own + spent["postgres"] + spent["redis"] + spent["load"]
    return [
        what, f"{GOALS[what] or ''}", f"{median(each['per_second'] for each in most):,.0f}",
        *(f"{median(each[p] for each in most):.1f}" for p in ("p50", "p99")),
        *((f"{median(each[p] for each in steady):.1f}" if steady else "") for p in ("p50", "p99")),
        f"{own:.2f}", f"{spent['postgres']:.2f}", f"{whole:.2f}", f"{share:.0%}",
    ]  # fmt: skip


HEADINGS = ("", "goal/s", "most/s", "p50 ms", "p99", "steady p50", "p99", "API ms", "Postgres ms", "all ms", "worker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, value in {"processes": 1, "connections": 32, "seconds": 10, "rounds": 3}.items():
        parser.add_argument("--" + flag, type=int, default=value)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    with everything(a, os.environ | {"OMP_NUM_THREADS": "1"}) as bench:
        rounds = list(bench.rounds())
    table = Table(*HEADINGS, title=machine(pick_device("auto")))
    for what in GOALS:
        table.add_row(*row(what, rounds))
    report = {
        "machine": machine(pick_device("auto")), "cores": os.cpu_count(),
        "load_per_core": os.getloadavg()[0] / (os.cpu_count() or 1), "processes": a.processes,
        "connections": a.connections, "seconds": a.seconds, "goals": GOALS, "rounds": rounds,
    }  # fmt: skip
    tell(report, a.out)
    Console(width=140).print(table)


if __name__ == "__main__":
    servers.exit_on_signals()
    main()
