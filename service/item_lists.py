"""Which of a job's items a list has, and in what order: by index, or by a metric, whichever numbers items have."""

import math
import operator
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Double, bindparam, func, select, tuple_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.functions import FunctionElement

from service.cursors import decoded, encode_cursor
from service.errors import FieldError, InvalidInput
from service.models import Item, Job
from service.states import ItemState

INDEX = "index"
MOST_SORTED = 200_000
"""Items of a job whose metrics are all read to put them in order, or for one page of those that match."""
MOST_COMPARED = 4
COMPARED = r"^([A-Za-z0-9_.-]{1,100})(<=|>=|<|>|=)(-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?)$"
"""A condition on a metric: its name, how it compares, and with what number."""
ALLOWED = "allowed: a metric's name, one of < <= > >= =, and a number, such as ssim>=0.5"
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}
LAST = 1.7976931348623157e308
"""The rank of what has no number: none is greater."""


class number(FunctionElement[float]):  # noqa: N801 - reads as SQL
    """The number that a JSON object has under a name, or null."""

    type, inherit_cache = Double(), True

    def __init__(self, column: Any, name: str) -> None:
        super().__init__(column, bindparam(None, name))


@compiles(number, "postgresql")
def _number_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    column, name = (compiler.process(each, **options) for each in element.clauses)
    value = f"{column} -> {name}::text"
    return f"CASE WHEN json_typeof({value}) = 'number' THEN ({value})::text::double precision END"


@compiles(number, "sqlite")
def _number_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    column, name = (compiler.process(each, **options) for each in element.clauses)
    path = f"""'$."' || {name} || '"'"""
    return f"CASE WHEN json_type({column}, {path}) IN ('integer', 'real') THEN json_extract({column}, {path}) END"


class Wanted(NamedTuple):
    """All that is given must hold. `error` is the title of a failure; `sort` is INDEX or the name of a metric.

    `metrics` are conditions as COMPARED has them, which hold of no item whose metric is no number; in an order such
    items come last, in either direction. `offset` many are left out, or those to `cursor`.
    """

    states: Sequence[ItemState] = ()
    error: str | None = None
    sort: str = INDEX
    order: Literal["asc", "desc"] = "asc"
    offset: int = 0
    cursor: str | None = None
    metrics: Sequence[str] = ()

    @property
    def named(self) -> str:
        return f"{self.order} {self.sort}"

    def conditions(self, job_id: str) -> Iterator[ColumnElement[bool]]:
        """What must hold of a row. Raises InvalidInput."""
        yield Item.job_id == job_id
        if self.states:
            yield Item.state.in_(self.states)
        if self.error is not None:
            yield (Item.state == ItemState.FAILED) & (Item.error["title"].as_string() == self.error)
        for n, text in enumerate(self.metrics):
            found = re.fullmatch(COMPARED, text)
            if found is None or not math.isfinite(value := float(found[3])):
                raise InvalidInput(FieldError(f"metric.{n}", f"is no condition; {ALLOWED}"))
            yield COMPARE[found[2]](number(Item.metrics, found[1]), value)

    def keys(self) -> list[Any]:
        """What rises from row to row, or for INDEX against `order` falls; the last of them is the index."""
        if self.sort == INDEX:
            return [Item.index]
        measured = number(Item.metrics, self.sort)
        return [func.coalesce(-measured if self.order == "desc" else measured, LAST).label("rank"), Item.index]


def find(session: Session, job_id: str, wanted: Wanted, limit: int) -> tuple[list[Item], str | None]:
    """At most so many of these items, and the cursor of those that follow, if any do.

    Rows are ordered by their keys alone, and read whole once they are few. A page by index of a job of more than
    MOST_SORTED items looks through no more of them for a metric that matches, so that it may be short, even empty,
    before the last. Raises InvalidInput for a cursor of another order, and for what cannot stand beside it.
    """
    keys, size = wanted.keys(), _size(session, job_id)
    falling = wanted.sort == INDEX and wanted.order == "desc"
    query = select(*keys).where(*wanted.conditions(job_id)).order_by(*(key.desc() if falling else key for key in keys))
    if wanted.sort != INDEX and size > MOST_SORTED:
        raise InvalidInput(FieldError("sort", f"a job of more than {MOST_SORTED:,} items is only listed by {INDEX}"))
    ended = () if wanted.cursor is None else _ended(wanted, keys)
    if ended:
        here = tuple_(*keys)
        query = query.where(here < ended if falling else here > ended)
    edge = None
    if wanted.metrics and size > MOST_SORTED:
        if wanted.offset:
            raise InvalidInput(FieldError("offset", _beyond("cursor")))
        begun = ended[-1] if ended else size if falling else -1
        edge = begun - MOST_SORTED if falling else begun + MOST_SORTED
        query = query.where(Item.index >= edge if falling else Item.index <= edge)
    found = session.execute(query.limit(limit + 1).offset(wanted.offset or None)).all()
    shown = [int(row[-1]) for row in found[:limit]]
    of_page = select(Item).where(Item.job_id == job_id, Item.index.in_(shown))
    rows = {row.index: row for row in session.scalars(of_page)}
    following = None
    if len(found) > limit:
        following = encode_cursor(wanted.named, *found[limit - 1])
    elif edge is not None and 0 < edge < size - 1:
        following = encode_cursor(wanted.named, edge)
    return [rows[index] for index in shown if index in rows], following


def count(session: Session, job_id: str, wanted: Wanted) -> int:
    """How many there are, on whatever page. Raises InvalidInput where too many metrics would have to be read."""
    if wanted.metrics and _size(session, job_id) > MOST_SORTED:
        raise InvalidInput(FieldError("counted", _beyond("false")))
    return session.scalar(select(func.count()).select_from(Item).where(*wanted.conditions(job_id))) or 0


def _size(session: Session, job_id: str) -> int:
    return session.scalar(select(Job.items).where(Job.id == job_id)) or 0


def _beyond(allowed: str) -> str:
    return f"cannot stand beside metric in a job of more than {MOST_SORTED:,} items; allowed: {allowed}"


def _ended(wanted: Wanted, keys: Sequence[Any]) -> tuple[Any, ...]:
    """The keys of the last row of the page before."""
    if wanted.offset:
        raise InvalidInput(FieldError("offset", "cannot stand beside cursor; allowed: one of them"))
    order, *ended = decoded(wanted.cursor or "", [str, *(key.type.python_type for key in keys)])
    if order != wanted.named:
        raise InvalidInput(FieldError("cursor", "is of another order; allowed: next_cursor of the page before"))
    return tuple(ended)
