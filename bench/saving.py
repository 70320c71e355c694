"""What it costs a worker to store an item: measured searches to rows and objects, without the searches.

    python -m bench.saving [--items 256] [--steps 300] [--servers] [--rounds 3] [--code FOLDER]

A shard at a time, made-up outcomes of an inversion on the shipped network go through `workers.recipes.study.keep`
into SQLite and files, or with `--servers` into Postgres and S3. Told are milliseconds of the worker's processor for an
item: all, and those of the forward passes among them (`measure`), which a GPU makes short. `--code` names a checkout of
another version, which takes turns with this one.
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
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from fastapi.testclient import TestClient

from bench.worker import DATASET, IMAGES, MODEL
from deploy import servers, up
from service import leases
from service.app import create_app, open_context
from service.db import migrate
from service.settings import Settings
from workers.context import ShardContext
from workers.engine.rows import Outcome
from workers.recipes import inversion, study
from workers.runtime import ModelStore, Runtime, make_batcher, pick_device


def outcome(number: int, steps: int) -> Outcome:
    """As a search of so many steps leaves it."""
    x, loss = torch.rand(3, 32, 32), torch.rand(steps + 1)
    return Outcome(number, x, loss, torch.rand(steps), torch.empty(0, 3, 32, 32, dtype=torch.uint8), [], 1)


def stored(settings: Settings, items: int, steps: int) -> dict[str, float]:
    """Processor milliseconds an item, once all of a job's items are stored."""
    migrate(settings.database)
    context, device = open_context(settings), pick_device("cpu")
    store = ModelStore(context.catalog, device, context.storage)
    runtime = Runtime(settings, context.db, context.storage, context.broker, context.catalog, store,
                      make_batcher(settings, device))  # fmt: skip
    targets = {"source": "dataset", "dataset": DATASET, "indices": [i % IMAGES for i in range(items)]}
    body = {"kind": "inversion", "model": MODEL, "preset": "cifar", "steps": steps, "targets": targets}
    with TestClient(create_app(settings, open_context(settings))) as client:
        job = client.post("/v1/jobs", json=body).json()["id"]
    whole, forward = 0.0, 0.0
    for n in range(-(-items // settings.shard_items)):
        with context.db.transaction() as session:
            work = leases.claim(session, f"{job}.{n}", "bench", 600)
        assert work
        with ShardContext(runtime, work) as ctx:
            begun = study.begin(ctx)
            batch = study.load(begun)
            problem = inversion.prepare(begun, batch)

            def measure(*images: Any, inner: Any = problem.measure) -> Any:
                nonlocal forward
                before = time.process_time()
                found = inner(*images)
                forward += time.process_time() - before
                return found

            timed = replace(problem, measure=measure)
            over = [study.Found(i, outcome(i, steps), torch.rand(3, 32, 32)) for i in range(len(batch.items))]
            before = time.process_time()
            study.keep(begun, batch, timed, over)
            whole += time.process_time() - before
        with context.db.transaction() as session:
            leases.finish(session, work.lease)
    return {"all": 1000 * whole / items, "measure": 1000 * forward / items}


@contextmanager
def places(on_servers: bool) -> Iterator[dict[str, str]]:
    """The environment of a process with a database and a storage of its own."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data = Path(folder)
        data.chmod(0o711)
        if not on_servers:
            yield os.environ | {"ROBUSTREPS_DATA_DIR": folder}
            return
        database = stack.enter_context(servers.postgres(data / "postgres"))
        endpoint = stack.enter_context(servers.s3(data / "s3"))
        up.make_bucket(endpoint)
        yield up.environment(database, "redis://nobody", endpoint) | {"ROBUSTREPS_DATA_DIR": folder}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--servers", action="store_true")
    parser.add_argument("--code", type=Path, action="append", default=[])
    parser.add_argument("--once", action="store_true", help="in this process, where the settings say")
    a = parser.parse_args()
    if a.once:
        print(json.dumps(stored(Settings(auth="off"), a.items, a.steps)))
        return
    own = Path(__file__).parents[1]
    command = [sys.executable, str(Path(__file__)), "--once", "--items", str(a.items), "--steps", str(a.steps)]
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(a.rounds):
        for code in (own, *a.code):
            with places(a.servers) as env:
                path = f"{code}:{own}"  # the other version may lack this file
                done = subprocess.run(command, env=env | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, cwd=code,
                                      check=True, stdout=subprocess.PIPE)  # fmt: skip
            found.setdefault(str(code), []).append(json.loads(done.stdout.splitlines()[-1]))
            print(code, found[str(code)][-1], flush=True)
    medians = {code: {name: median(r[name] for r in rows) for name in rows[0]} for code, rows in found.items()}
    print(json.dumps(medians, indent=1))


if __name__ == "__main__":
    servers.exit_on_signals()
    main()
