"""Items a second of one worker and of two, on a job of many small items through Postgres, Redis and S3.

    python -m bench.scaling [--items 1024] [--steps 10] [--most 2] [--rounds 3] [--out FILE.json]

The servers and the API stay; the workers are started anew for each turn, and each computes with one thread. An item
takes so few steps that storing it takes as long as finding it. Workers on one machine share its cores with the servers:
what two of them gain there says little of two machines. `cores` is how many there are.
"""

import argparse
import os
from pathlib import Path
from statistics import median

import torch

from bench.worker import WARM, job, on_servers, tell
from deploy import servers
from workers.engine.bench import machine
from workers.runtime import pick_device

SHARD = 16
"""Items that a worker takes at once, so that there are enough to share out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, value in {"items": 1024, "steps": 10, "most": 2, "rounds": 3}.items():
        parser.add_argument("--" + flag, type=int, default=value)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    rates: dict[int, list[float]] = {count: [] for count in range(1, a.most + 1)}
    env = os.environ | {"OMP_NUM_THREADS": "1", "ROBUSTREPS_SHARD_ITEMS": str(SHARD)}
    with on_servers(env) as service:
        for _ in range(a.rounds):
            for count, found in rates.items():
                with service.workers(count):
                    job(service.client, WARM * SHARD * count, 1)
                    found.append(a.items / job(service.client, a.items, a.steps))
                print(f"{count} workers: {found[-1]:.1f} items/s", flush=True)
    torch.set_num_threads(1)
    medians = {count: median(found) for count, found in rates.items()}
    report = {
        "machine": machine(pick_device("auto")), "cores": os.cpu_count(), "items": a.items, "steps": a.steps,
        "items_per_second": rates, "median": medians,
        "over_one": {count: rate / medians[1] for count, rate in medians.items()},
    }  # fmt: skip
    tell(report, a.out)


if __name__ == "__main__":
    servers.exit_on_signals()
    main()
