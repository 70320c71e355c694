"""`robustreps admin`: what an operator does, by the servers themselves and not by the API."""

import typer

from service.commands import access, operating

admin = typer.Typer(no_args_is_help=True, help="Operate the service, by its own settings: beside an API, or without.")
access.add_to(admin)
operating.add_to(admin)
