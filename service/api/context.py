"""What a route needs: the process's database, storage, broker, catalog and settings."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Query, Request
from sqlalchemy.orm import Session

from service.broker import Broker
from service.catalog import Catalog
from service.db import Database
from service.settings import Settings
from service.storage import Storage


@dataclass(frozen=True)
class Context:
    settings: Settings
    db: Database
    storage: Storage
    broker: Broker
    catalog: Catalog


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Ctx = Annotated[Context, Depends(_context)]


def _reading(ctx: Ctx) -> Iterator[Session]:
    with ctx.db.reading() as session:
        yield session


Reading = Annotated[Session, Depends(_reading)]
# What a database could not even compare (NUL, integers beyond its own) is refused here.
Id = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]
Index = Annotated[int, Path(ge=0, lt=2**31)]
Limit = Annotated[int, Query(ge=1, le=500, description="Most entries in the answer")]
Cursor = Annotated[str | None, Query(max_length=500, description="next_cursor of the page before")]
