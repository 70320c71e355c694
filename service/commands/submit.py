"""`robustreps submit` and `clone`: a request from a file, from options, or both."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from service.client import Job
from service.commands.completion import jobs as complete_jobs
from service.commands.completion import models as complete_models
from service.commands.jobs import follow
from service.commands.terminal import Set, Terminal, coloured, escaped, spoken
from service.remote.pictures import UsageError
from service.remote.sources import SPEC

Images = Annotated[list[str] | None, typer.Option(metavar="IMAGES", help=f"{SPEC}; several times")]
Label = Annotated[list[str] | None, typer.Option(metavar="KEY[=VALUE]", help="To list it by; several times")]
Key = Annotated[str, typer.Option(metavar="KEY", help="Idempotency key: sent twice, it is one job")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it is over; the status says how it ended")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what it would do, and how long it would take")]


@spoken
def submit(
    terminal: Terminal,
    file: Annotated[str, typer.Argument(help="The request as JSON or YAML; -: from standard input")] = "",
    kind: Annotated[str, typer.Option(help="inversion, radius_sweep, training, evaluation, ...")] = "",
    model: Annotated[str, typer.Option(help="The network", autocompletion=complete_models)] = "",
    preset: Annotated[str, typer.Option(help="paper, notebook, cifar, fast, ...")] = "",
    targets: Images = None,
    start: Annotated[list[str] | None, typer.Option(metavar="IMAGES", help="The same, or noise, gray, blend")] = None,
    images: Images = None,
    first: Images = None,
    second: Images = None,
    settings: Set = None,
    description: Annotated[str, typer.Option(help="A note of your own")] = "",
    label: Label = None,
    priority: Annotated[str, typer.Option(help="low, normal, high")] = "",
    deadline: Annotated[str, typer.Option(metavar="TIME", help="When it ends, whatever is unfinished")] = "",
    key: Key = "",
    dry_run: DryRun = False,
    watch: Watch = False,
) -> None:
    """Submit a job. Options stand over the file's fields, and --set over both.

    Files and folders that it names are uploaded. Prints the job's id; with --json the job.
    """
    plain = {"kind": kind, "model": model, "preset": preset, "description": description, "priority": priority,
             "deadline": deadline}  # fmt: skip
    named = {"targets": targets, "start": start, "images": images, "first": first, "second": second}
    body = read(file) if file else {}
    body |= {name: value for name, value in {**plain, **named}.items() if value}
    body |= ({"labels": labelled(label)} if label else {}) | overrides(settings or [])
    if dry_run:
        return planned(terminal, terminal.client.plan(body))
    return submitted(terminal, terminal.client.submit(body, idempotency_key=key or None), watch)


@spoken
def clone(
    terminal: Terminal,
    job: Annotated[str, typer.Argument(help="The job to repeat", autocompletion=complete_jobs)],
    settings: Set = None,
    key: Key = "",
    watch: Watch = False,
) -> None:
    """Submit a job's request again; --set changes fields of it, and null takes them out."""
    made = terminal.client.clone(job, key or None, **overrides(settings or []))
    submitted(terminal, made, watch)


def read(file: str) -> dict[str, Any]:
    """The request in a file, or in standard input. Raises UsageError, or OSError."""
    import yaml  # of which JSON is a part, but for its errors

    text = sys.stdin.read() if file == "-" else Path(file).read_text()
    name = "standard input" if file == "-" else file
    try:
        body = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as e:
        raise UsageError(f"{name} is neither JSON nor YAML: {' '.join(str(e).split())}") from e
    if not isinstance(body, dict):
        raise UsageError(f"{name} is no request: allowed: fields and their values, as POST /v1/jobs takes them")
    return body


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=JSON, or NAME=word. Raises UsageError."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"{pair} is not NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def labelled(pairs: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE, or KEY, whose value is empty."""
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


def submitted(terminal: Terminal, job: Job, watch: bool) -> None:
    """Print a job that was accepted, and follow it if asked."""
    if terminal.as_json:
        terminal.line(job) if watch else terminal.document(job)
    else:
        for warning in job["warnings"]:
            terminal.side.print(f"[yellow]{escaped(warning)}[/]")
        typer.echo(job["id"])
    if watch:
        follow(terminal, [job["id"]])


def planned(terminal: Terminal, plan: dict[str, Any]) -> None:
    """Print what a job would do."""
    if terminal.as_json:
        return terminal.document(plan)
    estimate, say = plan["estimate"] or {}, terminal.console.print
    say(f"[bold]{plan['kind']}[/]")
    for name in ("items", "shards", "image_steps"):
        say(f"  {name.replace('_', '-'):<12} {plan[name]:,}")
    seconds = estimate.get("seconds")
    say(
        f"  estimate     {'unknown' if seconds is None else f'{seconds:,.0f} s'} ({escaped(estimate.get('basis', ''))})"
    )
    if waiting := plan.get("waiting"):
        say(f"  waiting      {coloured(waiting['reason'])}: {escaped(waiting.get('detail') or '')}")
    for warning in plan["warnings"]:
        say(f"  [yellow]{escaped(warning)}[/]")
    return None
