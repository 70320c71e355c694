"""`robustreps migrate`, `gc`: what keeps a service."""

from contextlib import closing
from typing import Annotated

import typer
from sqlalchemy import make_url

from service import db
from service.collector import collect
from service.db import Database
from service.settings import get_settings
from service.storage import open_storage


def migrate(revision: Annotated[str, typer.Argument(help="Alembic revision")] = "head") -> None:
    """Bring the database's schema up to date."""
    settings = get_settings()
    db.migrate(settings.database, revision)
    typer.echo(f"schema at {revision}: {make_url(settings.database).render_as_string()}")


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count")] = False,
    strangers: Annotated[
        bool,
        typer.Option("--strangers", help="Also what the database never heard of, if it is the right one"),
    ] = False,
) -> None:
    """Remove objects from the storage that no row points to; safe at any time, beside workers too."""
    settings = get_settings()
    with closing(Database(settings.database)) as database:
        found = collect(database, open_storage(settings), dry_run, strangers)
    doing = "would remove" if dry_run else "removed"
    typer.echo(
        f"{doing} {found.orphans:,} of {found.seen:,} objects ({found.size:,} bytes), {found.unfinished} unfinished"
    )
