"""A load that has something of everything: clients that each do one thing after another, at random."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

from bench.worker import DATASET, MODEL
from service.client import ApiError, Client, Job

KEPT = 10
"""Jobs that a client leaves in place: older ones it deletes."""
PATIENCE = 300.0
"""Seconds for an answer, and for the clients to end."""
CHANGED, LATE = (404, 409, 429), (503, 504)
"""Statuses of what another act has ended or deleted meanwhile, and of a service that is busy."""
IMAGES: dict[str, Any] = {"source": "dataset", "dataset": DATASET, "indices": [0, 1, 2, 3]}
TWO: dict[str, Any] = IMAGES | {"indices": [4, 5]}
SEARCH: dict[str, Any] = {"model": MODEL, "preset": "cifar", "steps": 6}
BODIES: dict[str, dict[str, Any]] = {
    "inversion": SEARCH | {"targets": IMAGES},
    "radius_sweep": SEARCH | {"targets": TWO},
    "interpolation": SEARCH | {"first": TWO, "second": TWO | {"indices": [6, 7]}},
    "feature_visualization": SEARCH | {"coordinates": [3, 5]},
    "feature_manipulation": SEARCH | {"images": TWO, "coordinates": [3]},
    "evaluation": {"model": MODEL, "dataset": DATASET, "preset": "cifar", "images": 16, "attacks": [{"steps": 3}]},
    "activating_images": {"model": MODEL, "dataset": DATASET, "coordinates": [3, 5]},
}
TRAINING: dict[str, Any] = {
    "architecture": "cifar-resnet-slim", "dataset": DATASET, "preset": "cifar-small", "eps": 0.0, "epochs": 1,
    "batch_size": 100, "lr": 0.1,
}  # fmt: skip


class OverError(Exception):
    """The time is."""


class WrongError(Exception):
    """A job did not end as it should."""


@dataclass
class Load:
    """What the clients did, what came too late, and what went wrong, each counted."""

    url: str
    over: threading.Event = field(default_factory=threading.Event)
    did: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def warm_up(self) -> None:
        """Everything once, one after the other, so that what is loaded and compiled is there."""
        with Client(self.url, PATIENCE) as client:
            visitor = Visitor(client, random.Random(0), self.over)
            for kind, body in BODIES.items():
                self._do(kind, partial(visitor.succeeded, kind=kind, **body))
            for act in SHARES:
                self._do(act.__name__, partial(act, visitor))

    def run(self, seed: int) -> None:
        """One client, until it is over."""
        with Client(self.url, PATIENCE) as client:
            visitor = Visitor(client, random.Random(seed), self.over)
            while not self.over.is_set():
                act = visitor.rng.choice(ACTS)
                self._do(act.__name__, partial(act, visitor))

    def _do(self, name: str, act: Callable[[], None]) -> None:
        """Count what becomes of it."""
        try:
            act()
            self.did[name] += 1
        except OverError:
            pass
        except ApiError as e:
            count = self.did if e.status in CHANGED else self.late if e.status in LATE else self.failed
            count[f"{name}: {e.status}"] += 1
        except httpx2.TransportError as e:
            self.late[f"{name}: {type(e).__name__}"] += 1
        except Exception as e:  # the thread's boundary: the load goes on, and the report has it
            self.failed[f"{name}: {e!r}"] += 1


@dataclass
class Visitor:
    """A client, and the jobs that it made."""

    client: Client
    rng: random.Random
    over: threading.Event
    mine: list[str] = field(default_factory=list)

    def submit(self, **body: Any) -> str:
        """A job; the oldest one goes, if there are enough."""
        self.mine.append(self.client.submit(**body, labels={"soak": body["kind"]})["id"])
        while len(self.mine) > KEPT:
            self.client.delete(self.mine.pop(0), cancel=True)
        return self.mine[-1]

    def succeeded(self, **body: Any) -> None:
        """Once the job is over. Raises OverError, or WrongError."""
        found = self.client.wait(self.submit(**body), on_poll=self._go_on)
        if found["state"] != "succeeded":
            raise WrongError(f"{body['kind']} has {found['state']}: {found['error']}")

    def _go_on(self, _: Job) -> None:
        if self.over.is_set():
            raise OverError

    def any(self) -> list[str]:
        return self.rng.sample(self.mine, min(len(self.mine), 1))


def small(visitor: Visitor) -> None:
    kind = visitor.rng.choice(list(BODIES))
    visitor.succeeded(kind=kind, seed=visitor.rng.randrange(1000), **BODIES[kind])


def large(visitor: Visitor) -> None:
    """More than is planned at once."""
    targets = {"source": "dataset", "dataset": DATASET, "random": 40, "seed": visitor.rng.randrange(1000)}
    visitor.succeeded(kind="inversion", **SEARCH | {"steps": 2, "targets": targets, "on_invalid": "skip"})


def train(visitor: Visitor) -> None:
    visitor.succeeded(kind="training", seed=visitor.rng.randrange(1000), **TRAINING)


def poll(visitor: Visitor) -> None:
    for job in visitor.mine:
        visitor.client.job(job)
        visitor.client.request("GET", f"/v1/jobs/{job}/items")


def look(visitor: Visitor) -> None:
    for path in ("/v1/jobs", "/v1/workers", "/v1/models", "/v1/dead-letters", "/metrics", "/readyz", "/ui/"):
        visitor.client.request("GET", path)


def listen(visitor: Visitor) -> None:
    """Follow a job's events, and hang up before they end."""
    for job in visitor.any():
        with visitor.client.stream("GET", f"/v1/jobs/{job}/events") as answer:
            next(answer.iter_lines(), None)


def download(visitor: Visitor) -> None:
    for job in visitor.any():
        with visitor.client.stream("GET", f"/v1/jobs/{job}/archive") as answer:
            for _ in answer.iter_bytes():
                pass


def cancel(visitor: Visitor) -> None:
    job = visitor.submit(kind="inversion", **SEARCH | {"steps": 50_000, "targets": IMAGES})
    visitor.over.wait(visitor.rng.random() * 5)
    visitor.client.pause(job)
    visitor.client.resume(job)
    visitor.client.cancel(job)


def refused(visitor: Visitor) -> None:
    with suppress(ApiError):
        visitor.client.submit(kind="inversion", model="nobody", targets=IMAGES)


SHARES: dict[Callable[[Visitor], None], int] = {
    small: 7, large: 1, train: 1, poll: 6, look: 3, listen: 3, download: 3, cancel: 2, refused: 1,
}  # fmt: skip
ACTS = [act for act, share in SHARES.items() for _ in range(share)]


@contextmanager
def told(load: Load) -> Iterator[str]:
    """The address of a webhook, whose deliveries are counted."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            load.did["webhook"] += 1
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
