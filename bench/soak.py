"""Does anything leak? API and worker on real servers under a mixed load, for as long as one likes.

    python -m bench.soak [--minutes 60] [--clients 3] [--out FILE.json]

Clients submit jobs of every kind with a few steps, poll them, follow their events, download and list what they made,
ask for large jobs, cancel, pause, and delete; a webhook is told of all of it. Every few seconds each process's memory,
files, threads and children, and the servers' connections, are looked at. It fails if one of these grows
(`bench.growth` says how that is told), if a process ends, if a job does, or if an answer is an error of the service.
It does not fail because it is slow: what came too late is counted, and that is all. All of it runs on this machine and
ends by itself; a line a minute says how far it is.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from redis import Redis
from rich.console import Console
from rich.table import Table
from sqlalchemy import make_url

from bench.growth import Growth, growth
from bench.mixed import PATIENCE, Load, told
from bench.worker import Service, tell
from deploy import servers, up
from service.db import migrate
from workers.engine.bench import machine
from workers.runtime import pick_device

EVERY, TELL = 5.0, 60.0
"""Seconds between two looks, and between two lines."""
Looks = dict[str, list[tuple[float, float]]]


def of_process(pid: int) -> dict[str, float]:
    """Memory that is resident, open files, threads and children of a process; nothing if it has ended."""
    folder = Path("/proc") / str(pid)
    try:
        named = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        files = len(list((folder / "fd").iterdir()))
        children = sum(len(each.read_text().split()) for each in folder.glob("task/*/children"))
        memory, threads = int(named["VmRSS"].split()[0]) / 1024, int(named["Threads"])
    except (OSError, KeyError):  # a thread or file of it, or all, ended under this
        return {}
    return {"memory_mb": memory, "files": files, "threads": threads, "processes": children}


def connections(database: str, broker: str) -> dict[str, float]:
    conninfo = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        postgres = row.fetchall()[0][0]
    with Redis.from_url(broker) as redis:
        return {"postgres": postgres, "redis": len(redis.client_list())}


@contextmanager
def everything(folder: Path) -> Iterator[tuple[Service, Callable[[], dict[str, float]]]]:
    """The service with one worker, and how to look at it."""
    with ExitStack() as stack:
        folder.chmod(0o711)  # Postgres runs as another account
        database = stack.enter_context(servers.postgres(folder / "postgres"))
        broker = stack.enter_context(servers.redis(folder / "redis"))
        endpoint = stack.enter_context(servers.s3(folder / "s3"))
        up.make_bucket(endpoint)
        migrate(database)
        service = Service(stack, folder, up.environment(database, broker, endpoint) | {
            "ROBUSTREPS_DATA_DIR": str(folder), "ROBUSTREPS_MAX_ITEMS": "32", "ROBUSTREPS_RECONCILE_SECONDS": "5",
            "ROBUSTREPS_COLLECT_SECONDS": "120", "ROBUSTREPS_METRICS_PORT": str(servers.usable_port()),
            "ROBUSTREPS_WEBHOOK_HTTP": "true", "ROBUSTREPS_WEBHOOK_PRIVATE": "true", "OMP_NUM_THREADS": "1",
        })  # fmt: skip
        stack.enter_context(service.workers(1))

        def seen() -> dict[str, float]:
            pids = zip(("api", "worker"), (process.pid for process in service.processes), strict=True)
            found = {f"{name} {what}": value for name, pid in pids for what, value in of_process(pid).items()}
            return found | {f"{name} connections": n for name, n in connections(database, broker).items()}

        yield service, seen


def soak(minutes: float, clients: int) -> dict[str, Any]:
    """The report; `growth` in it has what is to be judged."""
    looks: Looks = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        service, seen = stack.enter_context(everything(Path(folder)))
        load = Load(service.url)
        service.client.add_webhook(stack.enter_context(told(load)))
        load.warm_up()
        threads = [threading.Thread(target=load.run, args=(seed,), daemon=True) for seed in range(clients)]
        for thread in threads:
            thread.start()
        began = said = time.monotonic()
        while (now := time.monotonic()) - began < 60 * minutes and all(p.poll() is None for p in service.processes):
            found = seen()
            for name, value in found.items():
                looks.setdefault(name, []).append((now - began, value))
            if now - said >= TELL:
                said = now
                print(json.dumps({"seconds": round(now - began)} | found | {"did": load.did.total()}), flush=True)
            time.sleep(EVERY)
        load.over.set()
        for thread in threads:
            thread.join(PATIENCE)
        ended = [process.poll() for process in service.processes]
        log = service.log.read_text()[-2000:] if any(status is not None for status in ended) else ""
    grown = {name: growth(name.rpartition(" ")[2], values, 60 * minutes) for name, values in looks.items()}
    return {
        "minutes": minutes, "did": dict(load.did), "late": dict(load.late), "failed": dict(load.failed),
        "ended": ended, "log": log, "growth": grown, "looks": looks,
    }  # fmt: skip


def verdict(report: dict[str, Any]) -> str:
    """What is wrong, or nothing."""
    growths: dict[str, Growth] = report["growth"]
    wrong = [f"{name} grows by {found.rises:.0f}" for name, found in growths.items() if found.leaks]
    wrong += [f"{what} ({count} times)" for what, count in report["failed"].items()]
    wrong += [f"a process ended with {status}" for status in report["ended"] if status is not None]
    if not report["did"].get("small"):
        wrong.append("no job has ended")
    return "; ".join(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    report = {"machine": machine(pick_device("auto")), "cores": os.cpu_count(), **soak(a.minutes, a.clients)}
    growths: dict[str, Growth] = report["growth"]
    wrong = verdict(report)
    shown = report | {"growth": {name: found.as_json() for name, found in growths.items()}, "wrong": wrong}
    tell({name: value for name, value in shown.items() if a.out or name != "looks"}, a.out)
    table = Table("", "first floor", "last floor", "rises", "allowed", title=report["machine"])
    for name, found in growths.items():
        numbers = (found.floors[0], found.floors[-1], found.rises, found.allowed) if found.told else ()
        table.add_row(name, *(f"{number:,.1f}" for number in numbers), style="red" if found.leaks else "")
    Console(width=100).print(table)
    if not all(found.told for found in growths.values()):
        print("too short to tell leaks")
    if wrong:
        sys.exit(wrong)


if __name__ == "__main__":
    servers.exit_on_signals()
    main()
