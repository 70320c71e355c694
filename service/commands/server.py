"""`robustreps migrate`."""

from typing import Annotated

import typer

from service import db
from service.settings import get_settings


def migrate(revision: Annotated[str, typer.Argument(help="Alembic revision")] = "head") -> None:
    """Bring the database's schema up to date."""
    settings = get_settings()
    at = revision if db.migrate(settings.database, revision) else "a newer revision"
    typer.echo(f"schema at {at}: {settings.database_shown}")
