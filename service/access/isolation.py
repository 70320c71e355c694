"""Sessions of a tenant see its rows alone, whatever statement is asked of them.

A session's `info` says whose it is (`service.db.Database.of`). Every select, update and delete by the ORM is narrowed
then: rows of `Owned` tables to the tenant's, those of `Posted` ones to what it posted itself. What hangs from a job has
no column of its own, and is asked for by the id of a job that was found first. A session of nobody's, as workers, the
reconciler and the threads that answer for several have them, sees everything.
"""

from functools import cache
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria

from service.bulk_models import Manifest
from service.models import Holding, Image, Owned, Upload

TENANT = "tenant"
EVERYBODY: dict[str, Any] = {"everybody": True}
"""Options of a statement that counts what all tenants have, and tells nothing else of it."""


def tenant_of(session: Session) -> str | None:
    """Whose the session is; None if everybody's."""
    found: str | None = session.info.get(TENANT)
    return found


@cache
def _narrowed(tenant: str) -> tuple[Any, ...]:
    def posted(cls: Any) -> Any:
        own = (Holding.tenant == tenant) & (Holding.kind == cls.__tablename__)
        return cls.id.in_(select(Holding.id).where(own))

    return (
        with_loader_criteria(Owned, lambda cls: cls.tenant == tenant, include_aliases=True),
        *(with_loader_criteria(table, posted(table)) for table in (Image, Upload, Manifest)),
    )


@event.listens_for(Session, "do_orm_execute")
def _narrow(state: ORMExecuteState) -> None:
    tenant = tenant_of(state.session)
    if tenant is None or "everybody" in state.execution_options:
        return
    if state.is_select or state.is_update or state.is_delete:
        state.statement = state.statement.options(*_narrowed(tenant))


@event.listens_for(Session, "before_flush")
def _mark(session: Session, *_: Any) -> None:
    """What is added is the tenant's."""
    if (tenant := tenant_of(session)) is not None:
        for row in session.new:
            if isinstance(row, Owned):
                row.tenant = tenant
