"""Sessions of a tenant see its rows alone, whatever statement is asked of them.

`service.db.Database.of` makes such sessions. Every select, update and delete by the ORM is narrowed then: rows of
`Owned` tables to the tenant's, those of `Posted` ones to what it posted itself, and what hangs from a job or a webhook
to what hangs from the tenant's. A statement that cannot be narrowed, since it names tables or is text, is refused. A
session of nobody's, as workers, the reconciler and the threads that answer for several have them, sees everything.

The same statement is prepared once for all tenants: whose rows it asks for is a parameter, which is looked up as it is
sent. So one that is narrowed costs little more than one that is not.
"""

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    CompoundSelect,
    Delete,
    Insert,
    Select,
    Update,
    bindparam,
    event,
    exists,
)
from sqlalchemy.orm import LoaderCriteriaOption, Session, with_loader_criteria
from sqlalchemy.orm.interfaces import CriteriaOption
from sqlalchemy.sql import visitors
from sqlalchemy.sql.expression import ColumnClause

from service.access.principal import DEFAULT
from service.bulk_models import Webhook
from service.models import Base, Holding, Job, Owned, Posted

TENANT = "tenant"
EVERYBODY: dict[str, Any] = {"everybody": True}
"""Options of a statement that is not narrowed: it counts what all tenants have, and tells nothing else, or inserts."""
_asking = threading.local()
_whose: BindParameter[str] = bindparam("whose", callable_=lambda: _asking.tenant)


def tenant_of(session: Session) -> str | None:
    """Whose the session is; None if everybody's."""
    found: str | None = session.info.get(TENANT)
    return found


class Unnarrowed(Exception):  # noqa: N818 - a mistake in the code, which no client makes
    """A statement of a tenant's session could not be narrowed to what is the tenant's."""


@cache
def _criteria() -> tuple[LoaderCriteriaOption, ...]:
    tables = {mapper.class_ for mapper in Base.registry.mappers}
    return tuple(
        with_loader_criteria(each, where, include_aliases=True)
        for each in sorted(tables, key=lambda table: table.__name__)
        if (where := own(each)) is not None
    )


def own(table: Any) -> ColumnElement[bool] | None:
    """What holds of a tenant's rows; None for a table that knows of no tenants."""
    if "tenant" in table.__table__.columns:
        tenants: ColumnElement[bool] = table.tenant == _whose
        return tenants
    if issubclass(table, Posted):
        held, of_any = Holding.__table__.alias().c, Holding.__table__.alias().c
        mine = exists().where(held.tenant == _whose, held.kind == table.__tablename__, held.id == table.id)
        # Posted to an API of the release before, which knew of no tenants, after the migration.
        nobodys = ~exists().where(of_any.kind == table.__tablename__, of_any.id == table.id)
        return mine | ((_whose == DEFAULT) & nobodys)
    for column, parent in (("webhook_id", Webhook), ("job_id", Job)):
        if column in table.__table__.columns:
            owners = parent.__table__.alias()  # not the one that the statement may have
            return exists().where(owners.c.id == getattr(table, column), owners.c.tenant == _whose)
    return None


class _Narrowing(CriteriaOption):
    """All criteria as one option, of which the key of a statement in SQLAlchemy's cache has only the name."""

    __slots__ = ()
    _traverse_internals: Any = []  # noqa: RUF012
    propagate_to_loaders = False  # they ask the session, which narrows what they ask

    def process_compile_state(self, compile_state: Any) -> None:
        self.get_global_criteria(compile_state.global_attributes)

    def process_compile_state_replaced_entities(self, compile_state: Any, mapper_entities: Any) -> None:  # noqa: ARG002
        self.process_compile_state(compile_state)

    def get_global_criteria(self, attributes: dict[str, Any]) -> None:
        for each in _criteria():
            each.get_global_criteria(attributes)


NARROWING = _Narrowing()
ORMS = (Select, CompoundSelect, Update, Delete)


def _of_classes(statement: Any) -> bool:
    """Whether it asks for nothing but by classes, which is what narrowing goes by: the time, whether there is a row."""
    if statement._propagate_attrs.get("compile_state_plugin") == "orm":
        return True
    columns = (
        each for each in visitors.iterate(statement) if isinstance(each, ColumnClause) and each.table is not None
    )
    return isinstance(statement, Select) and not statement._from_obj and all(c._annotations for c in columns)


class TenantSession(Session):
    """A session of the tenant that its `info` names. All that asks the database for rows comes through these three."""

    def execute(self, statement: Any, *args: Any, **options: Any) -> Any:
        return super().execute(self._narrowed(statement, args, options), *args, **options)

    def scalar(self, statement: Any, *args: Any, **options: Any) -> Any:
        return super().scalar(self._narrowed(statement, args, options), *args, **options)

    def scalars(self, statement: Any, *args: Any, **options: Any) -> Any:
        return super().scalars(self._narrowed(statement, args, options), *args, **options)

    def _narrowed(self, statement: Any, args: Sequence[Any], options: dict[str, Any]) -> Any:
        if "everybody" in options.get("execution_options", ()):
            return statement
        if isinstance(statement, Insert) and statement.select is None:
            return statement
        by_keys = isinstance(args[0] if args else options.get("params"), list)  # rows by their keys, whosever they are
        if by_keys or not isinstance(statement, ORMS) or not _of_classes(statement):
            raise Unnarrowed(f"{type(statement).__name__} of the kind that is not narrowed")
        _asking.tenant = self.info[TENANT]
        # What `options` does, at a third of its price: every statement of a request comes by here.
        narrowed = statement._generate()
        narrowed._with_options += (NARROWING,)
        return narrowed


@event.listens_for(TenantSession, "before_flush")
def _mark(session: Session, *_: Any) -> None:
    """What is added is the tenant's."""
    for row in session.new:
        if isinstance(row, Owned):
            row.tenant = session.info[TENANT]
