"""python -m tests.chaos --seed 7 --faults 500 --minutes 30: break the service at random, and see that nothing is lost.

Exits with 1 if a promise was broken. The same seed, faults and workers give the same faults in the same order.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from deploy import servers
from tests.chaos.faults import FAULTS, schedule
from tests.chaos.run import Report, run
from tests.chaos.world import living
from tests.servers import Bucket, s3_client


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a command's output


def table(report: Report) -> list[str]:
    """Faults by kind, what the load was, and what was broken."""
    broken = Counter(violation.promise for violation in report.broken)
    lost = [seconds for seconds in report.lost if seconds]
    again = f"{len(lost)} of which did work again, {sum(lost):.1f} s in all, {max(lost, default=0):.1f} s at most"
    counted = dict(report.faults.most_common()) | {
        "faults": report.faults.total(), "requests to S3 hit": report.hits, "jobs": report.jobs, "items": report.items,
        f"claims that went on with another's work, {again}": len(report.lost),
    }  # fmt: skip
    violations = [f"BROKEN  {violation.promise}: {violation.evidence}" for violation in report.broken]
    return [
        "",
        *(f"{n:6}  {what}" for what, n in (counted | dict(broken) | {"violations": len(report.broken)}).items()),
        *violations,
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)), help="default: any")
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=30, help="no more faults after so many")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pace", type=float, default=3.0, help="seconds between two faults, on average")
    parser.add_argument("--only", nargs="*", default=[], choices=list(FAULTS), metavar="KIND", help="only such faults")
    parser.add_argument("--training", action="store_true", help="also train networks, which takes long on a CPU")
    parser.add_argument("--keep", type=Path, help="folder for logs and data, which is kept")
    args = parser.parse_args()
    servers.exit_on_signals()
    only = " ".join(["--only", *(f"'{kind}'" for kind in args.only)]) if args.only else ""
    replay = f"{parser.prog} --seed {args.seed} --faults {args.faults} --minutes {args.minutes:g}"
    replay += f" --workers {args.workers} --pace {args.pace:g} {'--training' if args.training else ''} {only}"
    say(replay)
    folder = args.keep.absolute() if args.keep else Path(tempfile.mkdtemp(prefix="robustreps-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)  # Postgres runs as another account
    faults = schedule(args.seed, args.faults, args.workers, args.pace, args.only)
    with ExitStack() as exits:
        bucket = Bucket(exits.enter_context(servers.s3(folder / "s3")), "chaos")
        with s3_client(bucket.endpoint) as client:
            client.create_bucket(Bucket=bucket.name)
        world = exits.enter_context(living(folder, bucket, args.workers, args.seed))
        report = run(world, faults, args.seed, args.minutes, say, args.training)
    for line in table(report):
        say(line)
    if report.broken:
        say(f"logs are in {folder}; again: {replay}")
        sys.exit(1)
    if not args.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
