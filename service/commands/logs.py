"""`robustreps logs`: what happened to a job and to its shards."""

from functools import partial
from typing import Annotated, Any

import typer

from service.commands.completion import jobs as complete_jobs
from service.commands.errors import Limit
from service.commands.terminal import All, Terminal, escaped, some, spoken, when


@spoken
def logs(
    terminal: Terminal,
    job: Annotated[str, typer.Argument(help="The job", autocompletion=complete_jobs)],
    shard: Annotated[int | None, typer.Option(help="Only of this shard, by its number")] = None,
    level: Annotated[str, typer.Option(help="Only this level: info, warning or error")] = "",
    limit: Limit = 100,
    everything: All = False,
) -> None:
    """List what happened to a job, newest first: claims, checkpoints, failures, and what clients asked.

    With --json a line for each, as the API has it.
    """
    only = ({} if shard is None else {"shard": shard}) | ({"level": level} if level else {})
    found = some(None if everything else limit, partial(terminal.client.logs, job, **only))
    terminal.listing(("at", "level", "shard", "event", "worker", "detail"), found, _row)


def _row(line: dict[str, Any]) -> tuple[Any, ...]:
    detail = ", ".join(f"{name}={value}" for name, value in line["detail"].items())
    event, worker = line["event"].replace("_", " "), line["worker"]
    return when(line["at"]), line["level"], line["shard"], event, worker and escaped(worker), escaped(detail)
