"""Faults of the world. A schedule of them is drawn from a seed alone, so that a run can be replayed."""

import random
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from tests.chaos.proxy import Mode
from tests.chaos.world import HURRIED, World, computes

PATIENCE = 15.0
"""Seconds that a fault waits for work to hit."""


class Fault(NamedTuple):
    """What happens, how many seconds after the fault before it, to which worker, for how long, how often."""

    kind: str
    after: float
    worker: int
    seconds: float
    probability: float
    skew: int

    @property
    def lasts(self) -> float:
        """How many seconds it goes on after it was injected."""
        if self.kind == "worker frozen past its lease":
            return float(HURRIED["lease_seconds"] + HURRIED["reconcile_seconds"] + self.seconds)
        return 2 * self.seconds if self.kind == "s3 unreachable" else self.seconds

    def __str__(self) -> str:
        details = {
            "worker": f"worker {self.worker}",
            "clock": f"worker {self.worker} by {self.skew:+} s",
            "s3": f"{self.probability:.0%} for {self.seconds:.1f} s",
        }
        where = details.get(self.kind.split()[0], "")
        return f"{self.kind}: {where}" if where else self.kind


def schedule(seed: int, count: int, workers: int, pace: float, kinds: Sequence[str] = ()) -> list[Fault]:
    """So many faults, `pace` seconds apart on average, in rounds of `kinds`, or of all kinds, each in random order."""
    rng, drawn = random.Random(seed), list[Fault]()
    while len(drawn) < count:
        around = list(kinds or FAULTS)
        rng.shuffle(around)
        drawn += (_drawn(rng, kind, workers, pace) for kind in around)
    return drawn[:count]


def _drawn(rng: random.Random, kind: str, workers: int, pace: float) -> Fault:
    return Fault(
        kind,
        round(min(rng.expovariate(1 / pace), 4 * pace), 2),
        rng.randrange(workers),
        round(rng.uniform(0.5, 3), 1),
        round(rng.uniform(0.1, 1), 2),
        rng.choice((-1, 1)) * rng.randint(60, 600),
    )


def await_target(world: World, fault: Fault) -> None:
    """Most faults of a worker wait until it has computed for a while, so that there is something to lose."""
    if fault.kind.startswith("worker") and fault.probability < 0.8:
        world.live_until(lambda: computes(world.db, world.workers[fault.worker]), PATIENCE)
        world.live(2 * fault.seconds)


def inject(world: World, fault: Fault) -> None:
    """Let it happen. What lasts ends by itself, while other faults come."""
    FAULTS[fault.kind](world, fault)


def _kill_worker(world: World, fault: Fault) -> None:
    world.workers[fault.worker].kill()


def _drain_worker(world: World, fault: Fault) -> None:
    world.workers[fault.worker].drain()


def _stop_worker(world: World, fault: Fault) -> None:
    process = world.workers[fault.worker].process
    process.send_signal(signal.SIGSTOP)
    world.later(fault.lasts, lambda: process.send_signal(signal.SIGCONT))


def _skew_clock(world: World, fault: Fault) -> None:
    world.set_clock(fault.worker, fault.skew)


def _kill_api(world: World, _: Fault) -> None:
    world.api.kill()


def _drain_api(world: World, _: Fault) -> None:
    world.api.drain()


def _flush_redis(world: World, _: Fault) -> None:
    with Redis.from_url(world.redis.url, socket_timeout=5) as redis, suppress(RedisError):
        redis.flushall()


def _freeze_redis(world: World, fault: Fault) -> None:
    world.redis.freeze()
    world.later(fault.lasts, world.redis.thaw)


def _kill_redis(world: World, _: Fault) -> None:
    world.redis.restart(signal.SIGKILL)


def _kill_postgres(world: World, _: Fault) -> None:
    world.postgres.restart(signal.SIGKILL)


def _stop_postgres(world: World, _: Fault) -> None:
    """Postgres' "immediate" shutdown: no transaction is ended in order, and the log is replayed at the start."""
    world.postgres.restart(signal.SIGQUIT)


def _freeze_postgres(world: World, fault: Fault) -> None:
    world.postgres.freeze()
    world.later(fault.lasts, world.postgres.thaw)


def _disconnect(world: World, _: Fault) -> None:
    world.disconnect()


def _storage(mode: Mode) -> Callable[[World, Fault], None]:
    return lambda world, fault: world.proxy.misbehave(mode, fault.lasts, fault.probability)


def _lose_storage(world: World, fault: Fault) -> None:
    world.proxy.misbehave(Mode.REFUSED, fault.lasts)


FAULTS: dict[str, Callable[[World, Fault], None]] = {
    "worker killed": _kill_worker,
    "worker drained": _drain_worker,
    "worker frozen past its lease": _stop_worker,
    "worker paused": _stop_worker,
    "clock wrong": _skew_clock,
    "api killed": _kill_api,
    "api drained": _drain_api,
    "redis flushed": _flush_redis,
    "redis frozen": _freeze_redis,
    "redis killed": _kill_redis,
    "postgres killed": _kill_postgres,
    "postgres stopped at once": _stop_postgres,
    "postgres frozen": _freeze_postgres,
    "postgres connections ended": _disconnect,
    "s3 unreachable": _lose_storage,
    **{f"s3 {mode}": _storage(mode) for mode in Mode},
}

STEADY = {"worker killed", "worker drained", "worker frozen past its lease", "clock wrong", "api killed", "api drained"}
"""Through which a worker that is not hit can go on keeping checkpoints."""
