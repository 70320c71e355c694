"""The command `robustreps`. A command's module is imported when it is called: the others cost no time.

Commands that compute are found as entry points, so that this imports no worker.
"""

import sys
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class Lazy(NamedTuple):
    """A command: where it is ("module:name"; empty: an entry point of its own name), its help, its panel."""

    target: str
    help: str
    panel: str


JOBS, OTHERS, SERVICE = "Jobs", "What jobs can name", "The service itself"
COMMANDS = {
    "submit": Lazy("service.commands.submit:submit", "Submit a job", JOBS),
    "status": Lazy("service.commands.jobs:status", "List jobs, or look at some", JOBS),
    "watch": Lazy("service.commands.jobs:watch", "Follow jobs until they are over", JOBS),
    "results": Lazy("service.commands.results:results", "List or download what a job found", JOBS),
    "errors": Lazy("service.commands.errors:errors", "List what failed of a job, and why", JOBS),
    "logs": Lazy("service.commands.logs:logs", "List what happened to a job", JOBS),
    "failed": Lazy("service.commands.errors:failed", "List the failed items of all jobs", JOBS),
    "cancel": Lazy("service.commands.jobs:cancel", "Stop jobs; what is finished stays", JOBS),
    "pause": Lazy("service.commands.jobs:pause", "Have workers let go of jobs for a while", JOBS),
    "resume": Lazy("service.commands.jobs:resume", "Go on with paused jobs", JOBS),
    "retry": Lazy("service.commands.jobs:retry", "Compute failed items again", JOBS),
    "clone": Lazy("service.commands.submit:clone", "Submit a job's request again, changed", JOBS),
    "update": Lazy("service.commands.update:update", "Change a job's labels, priority, deadline, ...", JOBS),
    "delete": Lazy("service.commands.jobs:delete", "Remove jobs with all their results", JOBS),
    "recipe": Lazy("service.recipe_cli:recipe", "Draw one of the paper's figures, from end to end", JOBS),
    "open": Lazy("service.commands.jobs:open_page", "Show the dashboard, or a job, in a browser", JOBS),
    "models": Lazy("service.commands.catalog:models", "List, show and register networks", OTHERS),
    "datasets": Lazy("service.commands.catalog:datasets", "List, show and register data sets", OTHERS),
    "webhooks": Lazy("service.commands.webhooks:webhooks", "List, add and look at webhooks", OTHERS),
    "upload": Lazy("service.commands.catalog:upload", "Store images, checkpoints, manifests; prints ids", OTHERS),
    "serve": Lazy("service.commands.serve:serve", "Serve the API; embedded, compute as well", SERVICE),
    "worker": Lazy("", "Compute what the queue holds", SERVICE),
    "workers": Lazy("service.commands.catalog:workers", "List the processes that compute", SERVICE),
    "migrate": Lazy("service.commands.server:migrate", "Bring the database's schema up to date", SERVICE),
    "health": Lazy("service.commands.health:health", "Say whether the API or worker here works", SERVICE),
    "admin": Lazy("service.commands.admin:admin", "Operate it: status, keys, tenants, requeue, gc, drain", SERVICE),
    "demo": Lazy("", "Invert 8 images under two networks, and draw them", SERVICE),
}


class Commands(TyperGroup):
    """The commands of COMMANDS. Only the one that is called is imported; in lists each is its name and help."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {n: TyperCommand(n, help=c.help, rich_help_panel=c.panel) for n, c in COMMANDS.items()}

    def list_commands(self, _: Any) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and loaded(str(name)), rest


def loaded(name: str) -> Any:
    """A command, imported. Exits if what it needs is not installed."""
    if target := COMMANDS[name].target:
        module, _, attribute = target.partition(":")
        found = getattr(import_module(module), attribute)
    else:
        from importlib.metadata import entry_points  # here: it takes longer than all the rest of a help page

        entries = list(entry_points(group="robustreps.commands", name=name))
        if not entries:
            sys.exit(f"{name} computes in this process: pip install 'robustreps[worker]'")
        found = entries[0].load()
    if isinstance(found, typer.Typer):
        group = typer.main.get_command(found)
        group.name = name
        return group
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # here: it takes longer than all the rest of a help page

        typer.echo(f"robustreps {version('robustreps')}")
        raise typer.Exit


@app.callback()
def robustreps(  # what stands here, commands look up
    api: Annotated[str, typer.Option(metavar="URL", help="The service's address; left out: ROBUSTREPS_API")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")] = False,
) -> None:
    """Inverts, interpolates, visualises and edits the representations of robust networks, as jobs."""


def main() -> None:
    """The console script. Settings that are wrong are a usage error."""
    try:
        app()
    except ValueError as e:
        from pydantic import ValidationError  # here: most commands need none of it

        if not isinstance(e, ValidationError):
            raise
        typer.echo("\n".join(f"{error['msg']} {error['loc'] or ''}".strip() for error in e.errors()), err=True)
        sys.exit(2)
