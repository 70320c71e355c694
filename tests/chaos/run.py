"""A run: load, faults, calm, and what is broken then."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service import collector
from service.client import Client
from tests.chaos import invariants
from tests.chaos.faults import STEADY, Fault, await_target, inject
from tests.chaos.load import BITWISE, Load, waited
from tests.chaos.violations import Violation
from tests.chaos.watch import ALL, Watch, handovers, too_long
from tests.chaos.world import HURRIED, World

SETTLE_SECONDS = 600.0
"""How long the service may take to end every job once faults have stopped."""
LOST_SECONDS = HURRIED["checkpoint_seconds"] + 2.5
"""Work that a crash costs at most: what is between two checkpoints, and the time that one takes on a busy machine."""
BEFORE, AFTER = 2.0, 5.0
"""How much longer than its fault a storm is: a checkpoint that it hits began before, and the next one takes a while."""


@dataclass
class Report:
    """What a run did, and what it broke."""

    faults: Counter[str] = field(default_factory=Counter)
    hits: int = 0
    jobs: int = 0
    items: int = 0
    lost: list[float] = field(default_factory=list)
    """Seconds of work that each claim but a shard's first did again."""
    broken: list[Violation] = field(default_factory=list)


def run(
    world: World,
    faults: Sequence[Fault],
    seed: int,
    minutes: float,
    say: Callable[[str], None],
    training: bool = False,
    lost_seconds: float = LOST_SECONDS,
) -> Report:
    """Inject faults under load until all are or the time is over, then wait for the end of every job and look."""
    report = Report()
    with (
        Watch(world.db) as watch,
        Client(world.url, timeout=60) as client,
        Load(client, world.storage, seed, training) as load,
    ):
        storms = _rage(world, faults, 60 * minutes, report, say)
        world.calm()
        load.finish()
        unbroken = _end(world, client, load, report)
    watch.look(ALL)
    say("all is over")
    world.rest()
    collector.collect(world.db, world.storage)
    handed_over = handovers(watch.seen)
    report.broken += world.broken + load.ledger.broken + watch.broken
    report.broken += too_long(handed_over, lost_seconds, storms)
    report.broken += invariants.check(world.db, world.storage, load.ledger)
    report.broken += invariants.same_bits(world.db, world.storage, load.ledger, unbroken)
    report.lost = [each.seconds for each in handed_over]
    report.jobs, report.items, report.hits = len(load.ledger.accepted), len(watch.ends), world.proxy.hits.total()
    return report


def _rage(
    world: World, faults: Sequence[Fault], seconds: float, report: Report, say: Callable[[str], None]
) -> list[tuple[float, float]]:
    """Inject the faults; answers from and until when checkpoints could not be kept everywhere."""
    storms, begun = [], time.monotonic()
    for fault in faults:
        world.live(fault.after)
        await_target(world, fault)
        since = time.monotonic()
        if since - begun > seconds:
            break
        say(f"{since - begun:7.1f} s  {fault}")
        inject(world, fault)
        if fault.kind not in STEADY:
            storms.append((since - BEFORE, time.monotonic() + fault.lasts + AFTER))
        report.faults[fault.kind] += 1
    say(f"{time.monotonic() - begun:7.1f} s  calm")
    return storms


def _end(world: World, client: Client, load: Load, report: Report) -> dict[str, str]:
    """Wait for every job; then run those again whose bits are compared, by label."""
    report.broken += waited(client, load.ledger, SETTLE_SECONDS, lambda: world.live(0.5))
    labels = {accepted.label for accepted in load.ledger.accepted.values()} & BITWISE.keys()
    unbroken = {label: load.submit(f"unbroken {label}", "unbroken", BITWISE[label]).job_id for label in sorted(labels)}
    report.broken += waited(client, load.ledger, SETTLE_SECONDS, lambda: world.live(0.5))
    return unbroken
