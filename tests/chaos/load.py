"""Work for the service while faults go on: small jobs of every study, and clients who stop, pause and resume them."""

import io
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, TypeVar

import httpx2
import numpy as np
from PIL import Image

from service.client import TERMINAL, ApiError, Client
from service.storage import Storage, image_key
from tests.chaos.violations import Violation
from tests.service.bodies import NOISE, RECIPE_BODIES, ROBUST, cifar, study

T = TypeVar("T")
RETRY_SECONDS = 0.3
OPEN_JOBS = 5
"""So many jobs are under way at any time."""
TRAIN_EVERY = 50
"""Which of the jobs are training runs, if any: they take much longer than the others."""
UNREADABLE = "Input cannot be read"
TRAINING = "training"
BITWISE: dict[str, dict[str, Any]] = {
    "by pgd": study("inversion", targets=cifar(3, 14, 15, 92), start=NOISE, steps=40, deterministic=True, seed=1),
    "by momentum": study(
        "inversion", targets=cifar(6, 5, 35), start=NOISE, steps=40, solver="momentum", schedule="cosine", best=True,
        step_size=1.0, deterministic=True, seed=2,
    ),
    "restarts by adam": study(
        "feature_visualization", coordinates=[7, 9], steps=30, solver="adam", restarts=2, deterministic=True, seed=3
    ),
    TRAINING: {
        "kind": "training", "architecture": "cifar-resnet-slim", "dataset": "cifar10-sample", "preset": "cifar-small",
        "eps": 0.0, "epochs": 2, "batch_size": 100, "lr": 0.1, "checkpoint_seconds": 1,
    },
}  # fmt: skip
"""Jobs whose results must be bitwise those of an unbroken run."""


@dataclass
class Accepted:
    """A job that the API has answered for."""

    job_id: str
    label: str
    failing: frozenset[int] = frozenset()
    """Items whose input cannot be read."""
    stopped: bool = False
    """Whether its end may come early: it was cancelled, or has a deadline."""


@dataclass
class Ledger:
    """What clients were promised: accepted jobs by idempotency key, and every key that was ever sent."""

    accepted: dict[str, Accepted] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)
    broken: list[Violation] = field(default_factory=list)


class Load:
    """A thread that submits jobs and meddles with them, from `__enter__` to `finish`."""

    def __init__(self, client: Client, storage: Storage, seed: int, training: bool) -> None:
        self.ledger = Ledger()
        self._client, self._storage, self._rng = client, storage, random.Random(seed)
        self._over = threading.Event()
        self._open: list[Accepted] = []
        self._training = training
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()

    def finish(self) -> None:
        """Submit no more; every paused job is resumed. Raises TimeoutError if the API does not answer for a minute."""
        self._over.set()
        self._thread.join(60)
        if self._thread.is_alive():
            raise TimeoutError("the API gives no answer")

    def submit(self, key: str, label: str, body: Mapping[str, Any], **facts: Any) -> Accepted:
        """Send a job until the API accepts it, and sometimes once more. Raises ApiError if it will not."""
        self.ledger.sent.add(key)
        job_id = self._answer(lambda: self._post(key, label, body))
        self.ledger.accepted[key] = accepted = Accepted(job_id, label, **facts)
        if self._rng.random() < 0.3 and (again := self._answer(lambda: self._post(key, label, body))) != job_id:
            self.ledger.broken.append(Violation("a key makes one job", f"{key} made {job_id} and {again}"))
        return accepted

    def _post(self, key: str, label: str, body: Mapping[str, Any]) -> str:
        path = f"/v1/recipes/{label}" if label.startswith("figure-") else "/v1/jobs"
        answer = self._client.request("POST", path, json=body, headers={"Idempotency-Key": key})
        return str(answer.json()["id"])

    def _answer(self, call: Callable[[], T]) -> T:
        """What the API answers once it does."""
        while True:
            try:
                return call()
            except httpx2.TransportError:
                pass
            except ApiError as e:
                if e.problem.get("status") == 500:
                    self.ledger.broken.append(Violation("a fault of the world is answered 503", str(e)))
                elif e.retry_after is None:
                    raise
            time.sleep(RETRY_SECONDS)

    def _run(self) -> None:
        try:
            for number in range(1_000_000):
                while len(self._open) >= OPEN_JOBS and not self._over.is_set():
                    self._meddle()
                    self._open = [each for each in self._open if self._state(each) not in TERMINAL]
                    self._over.wait(RETRY_SECONDS)
                if self._over.is_set():
                    break
                try:
                    self._open.append(self._next(number))
                except ApiError as e:
                    if "deadline: has passed" not in str(e):  # the API was away for as long
                        raise
            for each in self._open:
                self._act(each, self._client.resume)
        except Exception as e:  # of a thread of its own, whose end must not go unnoticed
            self.ledger.broken.append(Violation("the API answers as documented", repr(e)))

    def _state(self, accepted: Accepted) -> str:
        return str(self._answer(lambda: self._client.job(accepted.job_id))["state"])

    def _act(self, accepted: Accepted, act: Callable[[str], object]) -> None:
        """Cancel, pause or resume a job, unless its state forbids it."""

        def call() -> None:
            try:
                act(accepted.job_id)
            except ApiError as e:
                if e.problem.get("status") != 409:
                    raise

        self._answer(call)

    def _meddle(self) -> None:
        chance, each = self._rng.random(), self._rng.choice(self._open)
        if chance < 0.01:
            each.stopped = True
            self._act(each, self._client.cancel)
        elif chance < 0.06:
            self._act(each, self._client.pause)
        elif chance < 0.30:
            self._act(each, self._client.resume)

    def _next(self, number: int) -> Accepted:
        rng, key = self._rng, f"chaos-{number}"
        if self._training and number % TRAIN_EVERY == 0:
            return self.submit(key, TRAINING, BITWISE[TRAINING])
        chance = rng.random()
        if chance < 0.25:
            label = rng.choice([label for label in BITWISE if label != TRAINING])
            return self.submit(key, label, BITWISE[label])
        if chance < 0.35:
            return self._failing(key)
        if chance < 0.42:
            body = {"model": ROBUST, "preset": "fast", "steps": 10, **RECIPE_BODIES["figure-4"]}
            return self.submit(key, "figure-4", body)
        if chance < 0.49:
            at = (datetime.now(UTC) + timedelta(seconds=rng.uniform(2, 15))).isoformat()
            return self.submit(key, "deadline", drawn(rng) | {"deadline": at}, stopped=True)
        if chance < 0.69:  # long enough that a worker is killed between two checkpoints
            return self.submit(key, "long", study("inversion", targets=cifar(*range(6)), steps=rng.randint(100, 250)))
        return self.submit(key, "plain", drawn(rng))

    def _failing(self, key: str) -> Accepted:
        """A job one of whose images is no longer there when a worker wants it."""
        rng = np.random.default_rng(self._rng.getrandbits(32))
        image = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(image, "png")
        image_id = self._answer(lambda: self._client.upload(image.getvalue()))
        self._storage.delete(image_key(image_id))
        images = {"source": "images", "images": [image_id]}
        targets = {"source": "mixed", "parts": [cifar(1), images, cifar(2, 3)]}
        return self.submit(key, "failing", study("inversion", targets=targets, steps=15), failing=frozenset({1}))


def drawn(rng: random.Random) -> dict[str, Any]:
    """A job of some seconds on a core."""
    some = rng.sample(range(192), 12)  # of 400 images, or of 192 coordinates
    priority = rng.choice(("low", "normal", "high"))
    common = {"steps": rng.randint(10, 60), "seed": rng.getrandbits(32), "priority": priority}
    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "inversion": lambda: {"targets": cifar(*some[: rng.randint(4, 12)])},
        "radius_sweep": lambda: {"targets": cifar(*some[:2]), "radii": [0.5, 1.0, 4.0]},
        "interpolation": lambda: {"first": cifar(some[0]), "second": cifar(some[1]), "lambdas": [0.0, 0.3, 0.6, 1.0]},
        "feature_visualization": lambda: {"coordinates": some[:4], "frames": rng.choice((0, 4))},
        "feature_manipulation": lambda: {"images": cifar(*some[:3]), "coordinates": some[3:4]},
    }
    kind = rng.choice(list(kinds))
    return study(kind, **kinds[kind](), **common)


def waited(client: Client, ledger: Ledger, seconds: float, tend: Callable[[], None]) -> list[Violation]:
    """Until every accepted job is over; a violation for each that is not after so many seconds."""
    end = time.monotonic() + seconds
    left = {accepted.job_id for accepted in ledger.accepted.values()}
    while left and time.monotonic() < end:
        left = {job_id for job_id in left if client.job(job_id)["state"] not in TERMINAL}
        tend()
    return [Violation("every job ends", f"{job_id} is {client.job(job_id)['state']}") for job_id in sorted(left)]
