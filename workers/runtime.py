"""What one worker process has: connections, models in memory, and whether it is shutting down."""

import os
import platform
import socket
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors.torch import load, load_file
from sqlalchemy import text
from sqlalchemy.orm import Session
from torch import Tensor

from service.broker import Broker
from service.cards import ModelCard
from service.catalog import Catalog
from service.db import Database
from service.leases import Lease
from service.settings import Settings
from service.storage import ObjectNotFound, Storage
from service.studies import StudyParameters
from workers.engine import models
from workers.engine.batcher import Batcher
from workers.engine.descent import Precision, descent
from workers.engine.pgd import Function
from workers.patience import DATABASE_SECONDS, is_away, patiently

# Results say fp32: on a GPU, PyTorch would otherwise keep 10 bits of a convolution's mantissa.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.matmul.allow_tf32 = False


T = TypeVar("T")
GPU_ROWS, CPU_ROWS = 256, 32
"""Most searches in one batch: on a CPU more are no faster, and make each step longer."""
MOST_LOADED = 8
"""Networks that stay in memory, the last used; a shard keeps its own as long as it computes."""


class Hopeless(Exception):  # noqa: N818 - trying again cannot help, whatever is at fault
    """What is left of the shard cannot succeed on any worker: fail it now."""


def pick_device(wanted: str) -> torch.device:
    """`auto` is the first CUDA device if there is one."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def give_way(settings: Settings) -> None:
    """A process that computes on processors leaves them to the API beside it: call it before there are threads.

    It has no effect on who runs in a container of his own, which has its share of the machine.
    """
    if pick_device(settings.device).type != "cpu":
        return
    os.setpriority(os.PRIO_PROCESS, 0, max(settings.worker_nice, os.getpriority(os.PRIO_PROCESS, 0)))
    if os.getsid(0) == os.getpid():  # where Linux shares processors out by session, niceness counts only within one
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(settings.worker_nice))


def make_batcher(settings: Settings, device: torch.device) -> Batcher:
    """The process's one batcher, not yet started."""
    most = settings.batch_rows or (GPU_ROWS if device.type == "cuda" else CPU_ROWS)
    return Batcher(most, most_of_tenant=settings.batch_rows_per_job)


class Recent(Generic[T]):
    """What was made last, by key: made once for all threads, and while it is made only those wait who want some too."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept for the key, or what `make` makes of it. Raises what `make` raises."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
                while len(self._kept) > self.most:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


class ModelStore:
    """Networks by name, each loaded once a process and shared by its threads; registered ones lie in the storage."""

    def __init__(
        self, catalog: Catalog, device: torch.device, storage: Storage | None = None, compiled: bool = False
    ) -> None:
        self.catalog, self.device, self.storage, self.compiled = catalog, device, storage, compiled
        self._loaded: Recent[models.Network] = Recent(MOST_LOADED)
        # Apart, since it is asked during a turn on the device, which must not wait for weights on their way.
        self._descents: Recent[Function] = Recent(MOST_LOADED)

    def get(self, name: str, digest: str) -> models.Network:
        """Raises Hopeless if the catalog has no such model, or its weights are not the ones that the job was given.

        Raises StorageError if the weights cannot be read now.
        """
        card = self.catalog.models.get(name)
        if card is None or card.digest != digest:
            raise Hopeless(f"this worker has no model {name} with digest {digest}")
        return self._loaded.get(digest, lambda: self._load(card))

    def descent(self, p: StudyParameters, network: models.Network, precision: Precision) -> Function:
        """The study's layer as its searches descend it, made once for all jobs that share it; take a turn before."""
        asked = p.layer, p.identity_relu, p.pool, precision, self.catalog.models[p.model].input_size
        return self._descents.get((p.model_digest, *asked), lambda: descent(network, *asked, self.compiled))

    def _load(self, card: ModelCard) -> models.Network:
        state = self._weights(card.name, card.digest)
        if models.digest(state) != card.digest:
            raise Hopeless(f"the weights of {card.name} do not have the digest on its card")
        return models.load(card.architecture, state, self.device)

    def _weights(self, name: str, digest: str) -> dict[str, Tensor]:
        if self.storage and (key := self.catalog.stored.get(digest)):
            try:
                return load(self.storage.get(key))
            except ObjectNotFound as e:
                raise Hopeless(f"the weights of {name} are not in the storage") from e
        return load_file(self.catalog.weights(name))


@dataclass(frozen=True)
class Runtime:
    settings: Settings
    db: Database
    storage: Storage
    broker: Broker
    catalog: Catalog
    models: ModelStore
    batcher: Batcher
    alone: bool = False
    """Whether this process was made to run one shard, which may have killed others."""
    draining: threading.Event = field(default_factory=threading.Event)
    """Whether this process lets go of everything; `ended`, whether the time for that is over too."""
    ended: threading.Event = field(default_factory=threading.Event)
    training: threading.Lock = field(default_factory=threading.Lock)
    """Held by the one training run that a process has at a time."""
    held: dict[str, Lease] = field(default_factory=dict)
    """Leases by the shard that they are of."""

    def written(self, write: Callable[[Session], T]) -> T:
        """What `write` answers, committed; tried again while the database is away.

        It must bear being committed twice. Raises what it raises, or the database for too long.
        """

        def once() -> T:
            with self.db.transaction() as session:
                return write(session)

        return patiently(once, DATABASE_SECONDS, self.ended.is_set)

    def outage(self) -> bool:
        """Whether the database cannot be reached, or nothing can be stored at all."""
        probe = f"probes/{uuid.uuid4().hex}"
        try:
            self.storage.put(probe, b"", "text/plain")
            self.storage.delete(probe)
            with self.db.reading() as session:
                session.execute(text("SELECT 1"))
        except Exception as e:
            return is_away(e)
        return False

    def refreshed(self) -> Catalog:
        """The catalog, with everything that is registered by now."""
        with self.db.reading() as session:
            return self.catalog.refresh(session)

    @property
    def worker(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}:{threading.current_thread().name}"

    @property
    def device_name(self) -> str:
        device = self.models.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}"
