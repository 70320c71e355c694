"""How smooth the page of a job with very many items is, in Chromium.

    python -m bench.dashboard [--items 50000] [--seconds 10] [--out FILE.json]

An embedded service on this machine, and a job whose items are copies of a few real ones. Told are when the page first
paints, when its first picture is there, and, while the grid is scrolled by the wheel and then dragged through by its
bar, the longest tasks of the page's main thread, by the browser's own trace, and the gaps between frames. On a machine
that does something else too, the clock says less of a task than its time on the processor.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
from playwright.sync_api import Browser, Page
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert, select

from deploy.browser import chromium
from deploy.servers import usable_port
from service.client import Client
from service.db import Database
from service.models import Artifact, Base, Item, Job, Shard, Transition
from service.settings import Settings
from workers.engine.bench import machine
from workers.runtime import pick_device

REAL: dict[str, Any] = {"kind": "inversion", "model": "cifar10-robust", "preset": "cifar", "steps": 20,
        "targets": {"source": "dataset", "dataset": "cifar10-sample", "indices": list(range(24))}}  # fmt: skip
WATCH = """
window.seen = {frames: []};
let last = performance.now();
const loaded = (image) => image.complete && image.naturalWidth;
const frame = (now) => {
  seen.frames.push(now - last);
  last = now;
  if (!seen.picture && [...document.querySelectorAll(".card img")].some(loaded)) seen.picture = now;
  requestAnimationFrame(frame);
};
requestAnimationFrame(frame);
"""
Found = dict[str, Any]


def rows(db: Database, model: type[Base], job_id: str) -> list[Found]:
    """All columns of a job's rows in a table."""
    table = model.__table__
    with db.reading() as session:
        own = table.c.id if model is Job else table.c.job_id
        return [dict(row) for row in session.execute(select(table).where(own == job_id)).mappings()]


def multiply(db: Database, job_id: str, count: int) -> str:
    """A job of `count` items, as if each had been computed, made of those of another. Answers its id."""
    many = f"{job_id[:-4]}aaaa"
    ((job,), items, files) = (rows(db, model, job_id) for model in (Job, Item, Artifact))
    shard = rows(db, Shard, job_id)[0] | {"id": f"{many}.0", "job_id": many, "first_item": 0, "item_count": count}
    job |= {"id": many, "items": count, "counts": {"succeeded": count}, "idempotency_key": None}
    moves = [row | {"job_id": many} for row in rows(db, Transition, job_id)]
    for row in moves:
        del row["id"]
    with db.transaction() as session:
        for table, made in ((Job, [job]), (Shard, [shard]), (Transition, moves)):
            session.execute(insert(table), made)
        for begin in range(0, count, 1000):
            like = [(i, i % len(items)) for i in range(begin, min(count, begin + 1000))]
            session.execute(insert(Item), [copy(items[k], many, shard["id"], i) for i, k in like])
            of = [row | {"job_id": many, "item_index": i} for i, k in like for row in files if row["item_index"] == k]
            session.execute(insert(Artifact), of)
    return many


def copy(item: Found, job_id: str, shard_id: str, index: int) -> Found:
    """The item as another one of another job, with another distance."""
    distance = item["metrics"]["relative_distance"] * (1 + index % 997 / 997)
    changed = {"metrics": item["metrics"] | {"relative_distance": distance}, "digest": None}
    return item | changed | {"job_id": job_id, "shard_id": shard_id, "index": index}


@contextmanager
def service(folder: Path) -> Iterator[tuple[Client, Settings]]:
    """An embedded service, a process of its own."""
    settings = Settings(data_dir=folder, port=usable_port(), auth="off")
    own = {"ROBUSTREPS_DATA_DIR": str(folder), "ROBUSTREPS_PORT": str(settings.port), "ROBUSTREPS_AUTH": "off"}
    process = subprocess.Popen([Path(sys.executable).with_name("robustreps"), "serve"], env=os.environ | own)
    try:
        with Client(f"http://127.0.0.1:{settings.port}") as client:
            while process.poll() is None:
                try:
                    client.request("GET", "/readyz")
                    break
                except httpx2.TransportError:
                    time.sleep(0.1)
            yield client, settings
    finally:
        process.terminate()
        process.wait(30)


def opened(page: Page, url: str) -> Found:
    """When a page painted and had its first picture, in milliseconds since it was asked for."""
    page.add_init_script(WATCH)
    page.goto(url)
    while not page.evaluate("seen.picture"):
        page.wait_for_timeout(50)
    paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    return {"first paint": page.evaluate(paint), "first picture": page.evaluate("seen.picture")}


def tasks(trace: bytes) -> list[Found]:
    """The tasks of the pages' main threads."""
    events = json.loads(trace)["traceEvents"]
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    return [e for e in events if e["ph"] == "X" and e["name"].endswith("::RunTask") and "tdur" in e
            and named.get((e["pid"], e["tid"])) == "CrRendererMain"]  # fmt: skip


def moved(browser: Browser, page: Page, name: str, seconds: float, move: Callable[[], object]) -> Found:
    """What the browser's main thread did while the grid moved: milliseconds, by the clock and of the processor."""
    page.evaluate("window.seen ??= {}; seen.frames = []")
    browser.start_tracing(page=page, categories=["toplevel"])
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        move()
        page.wait_for_timeout(16)
    page.wait_for_timeout(300)
    found = tasks(browser.stop_tracing())
    frames = sorted(page.evaluate("seen.frames")) or [0]
    clock, processor = (sorted(task[field] / 1000 for task in found) for field in ("dur", "tdur"))
    return {
        f"{name}: longest task, processor": processor[-1], f"{name}: longest task, clock": clock[-1],
        f"{name}: tasks over 100, clock": sum(task > 100 for task in clock),
        f"{name}: 99% of frames within": frames[int(0.99 * (len(frames) - 1))],
    }  # fmt: skip


def measured(browser: Browser, url: str, seconds: float) -> Found:
    """All that is told of a job's page."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    found = opened(page, url)
    found |= moved(browser, page, "wheel", seconds, lambda: page.mouse.wheel(0, 300))
    drag = "scrollTo(0, Math.random() * document.documentElement.scrollHeight)"
    found |= moved(browser, page, "bar", seconds, lambda: page.evaluate(drag))
    return found | {"cards in the page": page.locator(".card").count()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        client, settings = stack.enter_context(service(folder))
        job = client.wait(client.submit(**REAL)["id"])
        db = Database(settings.database)
        stack.callback(db.close)
        url = f"http://127.0.0.1:{settings.port}/ui/jobs/{multiply(db, job['id'], asked.items)}"
        browser = stack.enter_context(chromium())
        found = measured(browser, url, asked.seconds)
    table = Table("of a job with", f"{asked.items:,} items")
    for name, value in found.items():
        table.add_row(name, f"{value:,.0f}")
    Console().print(table)
    if asked.out:
        told = found | {"items": asked.items, "machine": machine(pick_device("cpu"))}
        asked.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
