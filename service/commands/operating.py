"""`robustreps admin status`, `requeue`, `gc`, `workers drain`: an operator's, by the database, storage and broker."""

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated, NoReturn

import typer

from service.commands.terminal import FAILED, REFUSED, USAGE
from service.db import Database
from service.errors import Problem
from service.settings import get_settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done")]
SPAN = re.compile(r"([1-9][0-9]{0,5})([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
workers = typer.Typer(no_args_is_help=True, help="Tell workers to end.")


def add_to(admin: typer.Typer) -> None:
    for command in (status, requeue, gc):
        admin.command()(command)
    admin.add_typer(workers, name="workers")


@contextmanager
def opened() -> Iterator[Database]:
    """The service's database; what is refused ends the command with a line."""
    with closing(Database(get_settings().database)) as db:
        try:
            yield db
        except Problem as e:
            refused(e.detail)


def refused(why: str, status: int = REFUSED) -> NoReturn:
    typer.echo(why, err=True)
    raise typer.Exit(status)


def status(as_json: Json = False) -> None:
    """Show on one screen how the service does; the status is 1 if a server of it does not work."""
    from service import overview

    found = overview.read(get_settings())
    typer.echo(json.dumps(found) if as_json else "\n".join(overview.lines(found)))
    if not found["works"]:
        raise typer.Exit(FAILED)


def requeue(
    names: Annotated[list[str] | None, typer.Argument(metavar="JOB|SHARD...", help="By id: job-..., job-....0")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All jobs that have failed items")] = False,
    title: Annotated[str, typer.Option(help="With --failed: only where an item failed by this cause")] = "",
    within: Annotated[str, typer.Option(metavar="24h", help="With --failed: only where one failed so lately")] = "",
    take: Annotated[bool, typer.Option("--take", help="Also from workers that hold it, which are fenced out")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Take up jobs or shards again: what failed, and what waits, as if nothing had been tried yet.

    It stands in their logs, with who asked. Any API process sends for what then waits within a few seconds.
    """
    from service import requeue as by_hand

    if bool(names) == failed or ((title or within) and not failed):
        refused("allowed: ids of jobs or shards, or --failed, which alone takes --title and --within", USAGE)
    refusals = 0
    with opened() as db:
        with db.reading() as session:
            asked = list(names or by_hand.failed(session, title, span(within)))
        for name in asked:
            try:
                with db.transaction() as session:
                    done = by_hand.requeue(session, name, whoever(), take)
                    if dry_run:
                        session.rollback()
            except Problem as e:
                refusals += not failed  # of a part whose recipe was taken up before it, nothing is left
                typer.echo(f"{name}: {e.detail}", err=True)
            else:
                told = {"id": name} | done._asdict()
                line = f"{name}: {done.items:,} failed items, {done.shards:,} waiting shards, {done.taken:,} taken"
                typer.echo(json.dumps(told) if as_json else line)
    if refusals:
        raise typer.Exit(REFUSED)


def gc(
    dry_run: DryRun = False,
    strangers: Annotated[
        bool, typer.Option("--strangers", help="Also what the database never heard of, if it is the right one")
    ] = False,
) -> None:
    """Remove objects from the storage that no row points to; safe at any time, beside workers too."""
    from service.collector import collect
    from service.storage import open_storage

    with opened() as db:
        found = collect(db, open_storage(get_settings()), dry_run, strangers)
    doing = "would remove" if dry_run else "removed"
    typer.echo(
        f"{doing} {found.orphans:,} of {found.seen:,} objects ({found.size:,} bytes), {found.unfinished} unfinished"
    )


@workers.command()
def drain(
    names: Annotated[list[str], typer.Argument(metavar="WORKER...", help="HOST:PID, as `robustreps workers` lists it")],
    wait: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait until they have ended")] = 120,
) -> None:
    """Have workers keep where their searches stand, let go of them, and end; what started them may start them again."""
    from service import fleet
    from service import requeue as by_hand

    if get_settings().embedded:
        refused("broker_url is memory://: the worker is `robustreps serve` itself, which drains as it ends", USAGE)
    until = time.monotonic() + wait
    with opened() as db:
        with db.transaction() as session:
            for name in names:
                by_hand.drain(session, name)
        left = set(names)
        while left and time.monotonic() < until:
            time.sleep(min(0.5, wait))
            with db.reading() as session:
                ended = {each.id for each in fleet.workers(session) if each.state != "alive"} & left
            for name in sorted(ended):
                typer.echo(f"{name} has ended")
            left -= ended
    if left:
        refused(f"told, and still alive after {wait:g} s: {', '.join(sorted(left))}", FAILED)


def whoever() -> str:
    """Who asks, for a job's log."""
    return f"{os.environ.get('USER') or f'uid {os.getuid()}'}@{socket.gethostname()}"


def span(text: str) -> float | None:
    """Seconds; None for nothing. Exits if it is none."""
    if not text:
        return None
    if (found := SPAN.fullmatch(text)) is None:
        refused(f"{text} is no span of time; allowed: a number and s, m, h or d, such as 24h", USAGE)
    return float(int(found[1]) * SECONDS[found[2]])
