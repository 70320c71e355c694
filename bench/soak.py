"""Does anything leak? API and worker on real servers under a mixed load, for as long as one likes.

    python -m bench.soak [--minutes 60] [--clients 3] [--out FILE.json]

Clients submit jobs of every kind with a few steps, poll them, follow their events, download and list what they made,
ask for large jobs, cancel, pause, and delete. Every few seconds each process's memory, files and threads, and the
servers' connections, are looked at. The first sixth is for what grows once: caches, pools, compiled queries. After it
the trend of each (Theil and Sen's: the median of the slopes of all pairs) may not lead beyond what `MOST` allows by the
end of an hour, and no answer may be an error of the service. All of it runs on this machine and ends by itself.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import psycopg
from redis import Redis
from rich.console import Console
from rich.table import Table
from sqlalchemy import make_url

from bench.worker import DATASET, MODEL, Service, tell
from deploy import servers, up
from service.client import ApiError, Client
from service.db import migrate
from workers.engine.bench import machine
from workers.runtime import pick_device

EVERY = 5.0
"""Seconds between two looks."""
WARM = 6
"""The first of so many parts of the time is for what grows once."""
KEPT = 25
"""Jobs that a client leaves in place: older ones it deletes."""
MOST = {"memory_mb": (0.10, 30.0), "files": (0.0, 8.0), "threads": (0.0, 4.0), "connections": (0.0, 8.0)}
"""How much each may grow in an hour by its trend: of its median, plus so much."""
SHORTEST = 20
"""Looks that a trend is told of at least."""
Samples = dict[str, list[tuple[float, float]]]
IMAGES: dict[str, Any] = {"source": "dataset", "dataset": DATASET, "indices": [0, 1, 2, 3]}
BODIES: dict[str, dict[str, Any]] = {
    "inversion": {"targets": IMAGES},
    "radius_sweep": {"targets": IMAGES | {"indices": [0, 1]}},
    "interpolation": {"first": IMAGES | {"indices": [0, 1]}, "second": IMAGES | {"indices": [2, 3]}},
    "feature_visualization": {"coordinates": [3, 5]},
    "feature_manipulation": {"images": IMAGES | {"indices": [0, 1]}, "coordinates": [3]},
}


@dataclass
class Load:
    """What the clients did, counted, and what went wrong."""

    url: str
    over: threading.Event = field(default_factory=threading.Event)
    did: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def run(self, seed: int) -> None:
        """One client, until it is over."""
        rng, mine = random.Random(seed), list[str]()
        with Client(self.url, timeout=120) as client:
            while not self.over.is_set():
                name, act = rng.choice(ACTS)
                try:
                    act(client, rng, mine)
                    self.did[name] += 1
                except (ApiError, httpx2.TransportError, TimeoutError) as e:
                    status = e.problem.get("status", 0) if isinstance(e, ApiError) else 0
                    # Another act may have ended, paused or deleted the job meanwhile.
                    (self.did if status in (404, 409, 429) else self.failed)[f"{name}: {status or repr(e)}"] += 1


Act = Callable[[Client, random.Random, list[str]], object]


def submit(client: Client, rng: random.Random, mine: list[str]) -> None:
    kind, seed = rng.choice(list(BODIES)), rng.randrange(1000)
    body: dict[str, Any] = {"kind": kind, "model": MODEL, "preset": "cifar", "steps": rng.randint(3, 12), "seed": seed}
    mine.append(client.submit(**body, **BODIES[kind], labels={"soak": kind})["id"])
    client.wait(mine[-1], 120)
    while len(mine) > KEPT:
        client.request("DELETE", f"/v1/jobs/{mine.pop(0)}", params={"cancel": "true"})


def large(client: Client, rng: random.Random, mine: list[str]) -> None:
    targets = {"source": "dataset", "dataset": DATASET, "random": 40, "seed": rng.randrange(1000)}
    body: dict[str, Any] = {"kind": "inversion", "model": MODEL, "preset": "cifar", "steps": 2, "on_invalid": "skip"}
    mine.append(client.submit(**body, targets=targets)["id"])
    client.wait(mine[-1], 240)


def poll(client: Client, rng: random.Random, mine: list[str]) -> None:
    for job in rng.sample(mine, min(len(mine), 10)):
        client.job(job)
        client.request("GET", f"/v1/jobs/{job}/items")


def look(client: Client, _: random.Random, __: list[str]) -> None:
    for path in ("/v1/jobs", "/v1/workers", "/v1/models", "/v1/dead-letters", "/metrics", "/readyz", "/ui/"):
        client.request("GET", path)


def listen(client: Client, rng: random.Random, mine: list[str]) -> None:
    """Follow a job's events, and hang up before they end."""
    if mine:
        with client.stream("GET", f"/v1/jobs/{rng.choice(mine)}/events") as answer:
            next(answer.iter_lines(), None)


def download(client: Client, rng: random.Random, mine: list[str]) -> None:
    if mine:
        with client.stream("GET", f"/v1/jobs/{rng.choice(mine)}/archive") as answer:
            for _ in answer.iter_bytes():
                pass


def cancel(client: Client, rng: random.Random, mine: list[str]) -> None:
    body: dict[str, Any] = {"kind": "inversion", "model": MODEL, "preset": "cifar", "steps": 50_000, "targets": IMAGES}
    mine.append(client.submit(**body)["id"])
    time.sleep(rng.random())
    client.request("POST", f"/v1/jobs/{mine[-1]}/pause")
    client.request("POST", f"/v1/jobs/{mine[-1]}/resume")
    client.request("POST", f"/v1/jobs/{mine[-1]}/cancel")


def refused(client: Client, _: random.Random, __: list[str]) -> None:
    with suppress(ApiError):
        client.submit(kind="inversion", model="nobody", targets=IMAGES)


CHOICES: tuple[tuple[Act, int], ...] = (
    (submit, 6), (large, 1), (poll, 6), (look, 3), (listen, 3), (download, 3), (cancel, 1), (refused, 1),
)  # fmt: skip
ACTS: list[tuple[str, Act]] = [(act.__name__, act) for act, share in CHOICES for _ in range(share)]


def of_process(pid: int) -> dict[str, float]:
    """Memory that is resident, open files and threads of a process and its children."""
    found: defaultdict[str, float] = defaultdict(float)
    for each in tree(pid):
        with suppress(OSError, StopIteration):  # it has just ended
            lines = (Path("/proc") / str(each) / "status").read_text().splitlines()
            named = dict(line.split(":", 1) for line in lines if ":" in line)
            found["memory_mb"] += int(named["VmRSS"].split()[0]) / 1024
            found["threads"] += int(named["Threads"])
            found["files"] += len(list(Path(f"/proc/{each}/fd").iterdir()))
    return dict(found)


def tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from tree(int(child))


def connections(database: str, broker: str) -> dict[str, float]:
    conninfo = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        postgres = row.fetchall()[0][0]
    with Redis.from_url(broker) as redis:
        return {"postgres": postgres, "redis": len(redis.client_list())}


def trend(values: Sequence[tuple[float, float]]) -> float:
    """By how much a value grows in an hour."""
    pairs = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(values[:: max(len(values) // 200, 1)], 2)]
    return 3600 * median(pairs)


def judged(samples: Samples, since: float) -> dict[str, dict[str, Any]]:
    """Of each quantity: its median and trend after `since`, what it may grow, and whether it does not."""
    found = {}
    for name, values in samples.items():
        later = [(at, value) for at, value in values if at >= since]
        share, plus = MOST[name.rpartition(" ")[2]]
        usual, grows = median(value for _, value in later), trend(later)
        most = share * usual + plus
        told = {"median": usual, "an_hour": grows, "allowed": most, "looks": len(later)}
        found[name] = told | {"first": later[0][1], "last": later[-1][1], "ok": grows <= most}
    return found


@contextmanager
def everything(folder: Path, stack: ExitStack) -> Iterator[tuple[Service, Mapping[str, int], tuple[str, str]]]:
    """The service, with the processes to look at, and its servers."""
    folder.chmod(0o711)  # Postgres runs as another account
    database = stack.enter_context(servers.postgres(folder / "postgres"))
    broker = stack.enter_context(servers.redis(folder / "redis"))
    endpoint = stack.enter_context(servers.s3(folder / "s3"))
    up.make_bucket(endpoint)
    migrate(database)
    env = up.environment(database, broker, endpoint) | {
        "ROBUSTREPS_DATA_DIR": str(folder), "ROBUSTREPS_MAX_ITEMS": "32", "ROBUSTREPS_RECONCILE_SECONDS": "5",
        "ROBUSTREPS_COLLECT_SECONDS": "120", "OMP_NUM_THREADS": "1",
        "ROBUSTREPS_METRICS_PORT": str(servers.usable_port()),
    }  # fmt: skip
    service = Service(stack, folder, env)
    with service.workers(1):
        api, worker = (process.pid for process in service.processes)
        yield service, {"api": api, "worker": worker}, (database, broker)


def soak(minutes: float, clients: int) -> dict[str, Any]:
    samples: Samples = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        service, pids, of_servers = stack.enter_context(everything(Path(folder), stack))
        load = Load(service.url)
        threads = [threading.Thread(target=load.run, args=(seed,), daemon=True) for seed in range(clients)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        while (at := time.monotonic() - began) < 60 * minutes:
            seen = {f"{name} {what}": value for name, pid in pids.items() for what, value in of_process(pid).items()}
            seen |= {f"{name} connections": value for name, value in connections(*of_servers).items()}
            for name, value in seen.items():
                samples.setdefault(name, []).append((at, value))
            time.sleep(EVERY)
        load.over.set()
        for thread in threads:
            thread.join(300)
        hangs = sum(thread.is_alive() for thread in threads)
    return {
        "minutes": minutes, "did": dict(load.did), "failed": dict(load.failed), "clients that hang": hangs,
        "trends": judged(samples, 60 * minutes / WARM), "samples": samples,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    report = {"machine": machine(pick_device("auto")), "cores": os.cpu_count(), **soak(a.minutes, a.clients)}
    tell({name: value for name, value in report.items() if a.out or name != "samples"}, a.out)
    table = Table("", "first", "last", "median", "grows an hour", "allowed", title=report["machine"])
    for name, found in report["trends"].items():
        numbers = (f"{found[key]:,.1f}" for key in ("first", "last", "median", "an_hour", "allowed"))
        table.add_row(name, *numbers, style="" if found["ok"] else "red")
    Console(width=120).print(table)
    print(json.dumps({"did": report["did"], "failed": report["failed"]}))
    leaks = [name for name, found in report["trends"].items() if not found["ok"]]
    short = min(found["looks"] for found in report["trends"].values()) < SHORTEST
    if short:
        print("too short to tell leaks: trends of so few looks mean nothing")
    if (leaks and not short) or report["failed"] or report["clients that hang"]:
        sys.exit(f"leaks: {', '.join(leaks) or 'none'}; failed: {report['failed']}")


if __name__ == "__main__":
    servers.exit_on_signals()
    main()
