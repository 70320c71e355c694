"""What clients read of a job's results as a whole: tars of items' files, and a table of its items."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy import Select, select
from sqlalchemy.orm import Session, load_only

from service import cursors
from service.bulk_models import ResultShard as Row
from service.db import Database
from service.errors import NotFound
from service.keys import result_shard_key
from service.models import Item
from service.objects import StorageError
from service.queries import require

PAGE = 1000
"""Items that are read at once."""
NAME = re.compile(r"(\d{1,9})-(\d{1,10})-(\d{1,9})\.tar")
ITEM = ("index", "id", "label", "state", "error")
"""The table's columns before the metrics."""
Format = Literal["csv", "jsonl"]


class ResultShard(BaseModel):
    """A tar of items' files in the layout of WebDataset; its items need not follow one another."""

    name: str
    first_item: int = Field(description="The least index in it")
    items: int
    size: int = Field(description="Bytes")
    sha256: str
    url: str


class ResultShardList(BaseModel):
    result_shards: list[ResultShard]
    next_cursor: str | None


def shard_name(key: str) -> str:
    """What clients call a tar: its shard, claim and number."""
    *_, shard, epoch, name = key.split("/")
    return f"{shard}-{epoch}-{name}"


def result_shards(session: Session, job_id: str, limit: int, cursor: str | None) -> ResultShardList:
    """In order of their first items. Raises NotFound, or InvalidInput for a bad cursor."""
    require(session, job_id)
    query = select(Row).where(Row.job_id == job_id)
    rows, following = cursors.page(session, query, limit, cursor, Row.first_item, Row.key)
    return ResultShardList(result_shards=[_shown(row) for row in rows], next_cursor=following)


def result_shard(session: Session, job_id: str, name: str) -> Row:
    """Raises NotFound."""
    require(session, job_id)
    parts = NAME.fullmatch(name)
    key = result_shard_key(job_id, f"{job_id}.{parts[1]}", int(parts[2]), int(parts[3])) if parts else ""
    if (row := session.get(Row, key)) is None:
        raise NotFound(f"no result shard {name} in job {job_id}")
    return row


def _shown(row: Row) -> ResultShard:
    name = shard_name(row.key)
    url = f"/v1/jobs/{row.job_id}/result-shards/{name}"
    return ResultShard(name=name, first_item=row.first_item, items=row.items, size=row.size, sha256=row.sha256, url=url)


def table(db: Database, job_id: str, form: Format) -> Iterator[bytes]:
    """A row an item, a page at a time, with no transaction open in between.

    As CSV the metrics' columns are those of the first page that has any; what later items have beside them stands as
    JSON in the last column, `more`.
    """
    columns: list[str] | None = None
    for page in _pages(db, job_id):
        rows = [(_item(item), item.metrics or {}) for item in page]
        if form == "jsonl":
            yield b"".join(json.dumps(own | {"metrics": metrics}).encode() + b"\n" for own, metrics in rows)
            continue
        if columns is None:
            columns = list(dict.fromkeys(name for _, metrics in rows for name in metrics))
            yield _lines([[*ITEM, *columns, "more"]])
        yield _lines([_line(own, metrics, columns) for own, metrics in rows])


def rows_of(job_id: str, after: int) -> Select[Item]:
    """A job's items after that index, in order, with no more of them than tables show."""
    shown = load_only(Item.target, Item.state, Item.error, Item.metrics)
    of_job = (Item.job_id == job_id) & (Item.index > after) & (Item.target["source"].as_string() != "table")
    return select(Item).options(shown).where(of_job).order_by(Item.index)


def _pages(db: Database, job_id: str) -> Iterator[list[Item]]:
    """Raises StorageError if the job is deleted meanwhile."""
    after = -1
    while True:
        with db.reading() as session:
            page = list(session.scalars(rows_of(job_id, after).limit(PAGE)))
            try:  # after the page: rows go only once this would tell
                require(session, job_id)
            except NotFound as e:
                raise StorageError(f"job {job_id} was deleted while its table was being sent") from e
        if not page:
            return
        yield page
        after = page[-1].index


def _item(item: Item) -> dict[str, Any]:
    return {
        "index": item.index, "id": item.target.get("id"), "label": item.target.get("label"), "state": item.state,
        "error": (item.error or {}).get("title"),
    }  # fmt: skip


def _line(own: Mapping[str, Any], metrics: Mapping[str, Any], columns: list[str]) -> list[Any]:
    more = {name: value for name, value in metrics.items() if name not in columns}
    return [*own.values(), *(_cell(metrics.get(name)) for name in columns), json.dumps(more) if more else ""]


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list | bool) else value


def _lines(rows: list[list[Any]]) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue().encode()
