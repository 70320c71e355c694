"""What a list of a large job's items costs: by index, by a metric, by state, at its beginning and in its middle.

    python -m bench.items [--items 50000] [--rounds 20]

Finished items, as large as an inversion's, are inserted into SQLite and into Postgres; told are, for a page of 100 with
its `total`, milliseconds of the clock (the median of the rounds) and of the processor, also that of Postgres's backend.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import insert, text

from deploy import servers
from service import queries
from service.db import Database, migrate
from service.item_lists import Wanted
from service.models import Artifact, Item, Job, Shard
from service.states import ItemState

JOB, FILES = "job_large", ("path.gif", "result.png", "start.png", "target.png", "tensors.safetensors", "trace.json")
NAMES = (
    "relative_distance",
    "start_relative_distance",
    "pixel_l2",
    "pixel_l2_moved",
    "judge_confidence",
    "steps_taken",
)
PROVENANCE = {f"parameter_{n}": "a value of a usual length" for n in range(32)}
DIGEST = "0" * 64


def pages(items: int) -> dict[str, Wanted]:
    """What is asked for."""
    return {
        "by index, first page": Wanted(),
        "by index, in the middle": Wanted(offset=items // 2),
        "succeeded, in the middle": Wanted([ItemState.SUCCEEDED], offset=items // 2),
        "by a metric, first page": Wanted(sort="ssim", order="desc"),
        "by a metric, in the middle": Wanted(sort="ssim", offset=items // 2),
        "narrowed by a metric, first page": Wanted(metrics=["ssim<0.5"]),
        "failed in one way, by a metric": Wanted(error="Cause 1", sort="ssim"),
    }


def item(index: int) -> dict[str, Any]:
    """An item's row: one of a hundred has failed, in one of three ways."""
    failed = index % 100 == 99
    metrics = {name: random.random() for name in NAMES} | {"judge": "cifar10-judge", "ssim": random.random()}
    return {
        "job_id": JOB, "index": index, "shard_id": f"{JOB}.{index // 100}", "epoch": 1, "finished_at": 0.0,
        "state": ItemState.FAILED if failed else ItemState.SUCCEEDED, "settings": {}, "start": {"source": "noise"},
        "target": {"source": "dataset", "dataset": "cifar10-sample", "index": index % 400, "label": "cat"},
        "metrics": None if failed else metrics, "provenance": None if failed else PROVENANCE,
        "error": {"title": f"Cause {index // 100 % 3}", "detail": "so it is"} if failed else None,
    }  # fmt: skip


def artifact(index: int, name: str) -> dict[str, Any]:
    return {"job_id": JOB, "item_index": index, "name": name, "key": f"jobs/{JOB}/items/{index}/{name}", "size": 3000,
            "media_type": "image/png", "sha256": DIGEST, "offset": None}  # fmt: skip


def fill(db: Database, items: int) -> None:
    with db.transaction() as session:
        session.execute(insert(Job), [{
            "id": JOB, "kind": "inversion", "state": "succeeded", "parameters": {}, "warnings": [], "items": items,
            "created_at": 0.0, "request_digest": DIGEST,
        }])  # fmt: skip
        for n in range(0, items, 100):
            shard = {"id": f"{JOB}.{n // 100}", "job_id": JOB, "state": "done", "first_item": n, "item_count": 100}
            session.execute(insert(Shard), [shard])
            session.execute(insert(Item), [item(i) for i in range(n, n + 100)])
            session.execute(insert(Artifact), [artifact(i, name) for i in range(n, n + 100) for name in FILES])
    with db.transaction() as session:
        session.execute(text("ANALYZE"))


def processor(db: Database) -> float:
    """Seconds of this process, and of the backend that answers it."""
    if db.sqlite:
        return time.process_time()
    with db.reading() as session:
        backend = session.scalar(text("SELECT pg_backend_pid()"))
    fields = Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def measure(db: Database, items: int, rounds: int) -> Iterator[tuple[str, float, float]]:
    """What was asked for, and its seconds: the median by the clock, the mean of the processor."""
    for name, wanted in pages(items).items():
        times, before = [], processor(db)
        for _ in range(rounds):
            began = time.perf_counter()
            with db.reading() as session:
                assert queries.items(session, JOB, 100, wanted, counted=True).items
            times.append(time.perf_counter() - began)
        yield name, median(times), (processor(db) - before) / rounds


@contextmanager
def databases() -> Iterator[dict[str, Database]]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        Path(folder).chmod(0o711)
        urls = {
            "SQLite": f"sqlite:///{folder}/items.db",
            "Postgres": stack.enter_context(servers.postgres(Path(folder) / "postgres")),
        }
        for url in urls.values():
            migrate(url)
        yield {name: Database(url) for name, url in urls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    with databases() as made:
        for name, db in made.items():
            fill(db, asked.items)
            for what, clock, cost in measure(db, asked.items, asked.rounds):
                print(f"{name:9} {what:32} {1000 * clock:6.0f} ms, {1000 * cost:6.0f} ms of the processor")
            db.close()


if __name__ == "__main__":
    main()
