"""The last item of a job planned in bulk: every other item as a row of a Parquet file, `items.parquet`.

Its columns are an item's index, its key as a WebDataset sample, `id` and `label`, state and error, each metric by name,
and where its files lie. Rows are read a page at a time, twice: the metrics' names and types are those of all pages.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import select

from service.models import Artifact, Item
from service.results import rows_of, shard_name
from workers.context import ShardContext
from workers.tars import sample

NAME, MEDIA_TYPE = "items.parquet", "application/vnd.apache.parquet"
PAGE = 5000
"""Items of a row group."""
ITEM = {"index": pa.int64(), "sample": pa.string(), "id": pa.string(), "label": pa.string(), "state": pa.string(),
        "error": pa.string()}  # fmt: skip
FILE = {"name": pa.string(), "key": pa.string(), "offset": pa.int64(), "size": pa.int64(), "sha256": pa.string()}
"""`offset` is null where a file is an object of its own."""
FILES = {"result_shard": pa.string(), "files": pa.list_(pa.struct(list(FILE.items())))}
Columns = dict[str, Any]
"""The type of each metric."""


class Stopped(Exception):  # noqa: N818 - what happened
    """The context asked to stop."""


def write(ctx: ShardContext) -> None:
    """Write the table and save it as the file of the shard's item. Raises LeaseLost or StorageError."""
    if not ctx.work.items:
        return
    own, job_id = ctx.work.items[0].index, ctx.work.lease.job_id
    provenance = {"parameters": dict(ctx.work.parameters), "code_version": version("robustreps"),
                  "epoch": ctx.work.lease.epoch}  # fmt: skip
    try:
        columns = _metrics(ctx, job_id, own)
        schema = pa.schema([*ITEM.items(), *columns.items(), *FILES.items()])
        schema = schema.with_metadata({"robustreps": json.dumps({"job": job_id, **provenance})})
        with tempfile.TemporaryDirectory() as folder:
            path, rows = Path(folder) / NAME, 0
            with pq.ParquetWriter(path, schema, compression="zstd") as file:
                for page in _pages(ctx, job_id, own):
                    file.write_table(pa.Table.from_pylist(_rows(ctx, job_id, page, columns), schema))
                    rows += len(page)
            ctx.save(own, {"rows": rows, "columns": len(schema)}, provenance, {NAME: (path, MEDIA_TYPE)})
    except Stopped:
        return


def _pages(ctx: ShardContext, job_id: str, own: int) -> Iterator[Sequence[Item]]:
    """All items but the table's. Raises Stopped."""
    after = -1
    while True:
        if ctx.should_stop():
            raise Stopped
        others = rows_of(job_id, after).where(Item.index != own).limit(PAGE)
        with ctx.runtime.db.reading() as session:
            page = session.scalars(others).all()
        if not page:
            return
        yield page
        after = page[-1].index
        ctx.alive()


def _metrics(ctx: ShardContext, job_id: str, own: int) -> Columns:
    """Every metric's type: that of all its values, or text where they have none in common."""
    found: Columns = {}
    for page in _pages(ctx, job_id, own):
        for item in page:
            for name, value in (item.metrics or {}).items():
                kind = _kind(value)
                if found.setdefault(name, kind) != kind:
                    found[name] = _common(found[name], kind)
    taken = {*ITEM, *FILES}
    return {name: pa.string() if kind == pa.null() else kind for name, kind in found.items() if name not in taken}


def _kind(value: Any) -> Any:
    if value is None:
        return pa.null()
    kinds = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return kinds.get(type(value), pa.string())


def _common(one: Any, other: Any) -> Any:
    kinds = {one, other} - {pa.null()}
    if kinds == {pa.int64(), pa.float64()}:
        return pa.float64()
    return kinds.pop() if len(kinds) == 1 else pa.string()


def _rows(ctx: ShardContext, job_id: str, page: Sequence[Item], columns: Columns) -> list[dict[str, Any]]:
    files: dict[int, list[dict[str, Any]]] = {}
    with ctx.runtime.db.reading() as session:
        of_page = (Artifact.job_id == job_id) & Artifact.item_index.between(page[0].index, page[-1].index)
        named = select(Artifact.item_index, *(getattr(Artifact, name) for name in FILE))
        for index, *file in session.execute(named.where(of_page).order_by(Artifact.item_index, Artifact.name)):
            files.setdefault(index, []).append(dict(zip(FILE, file, strict=True)))
    return [_row(item, files.get(item.index, []), columns) for item in page]


def _row(item: Item, files: Sequence[dict[str, Any]], columns: Columns) -> dict[str, Any]:
    metrics, folder = item.metrics or {}, f"jobs/{item.job_id}/"  # another's for items that were taken over
    tars = [file["key"] for file in files if file["offset"] is not None and file["key"].startswith(folder)]
    return {
        "index": item.index, "sample": sample(item.index), "id": item.target.get("id"),
        "label": item.target.get("label"), "state": item.state, "error": (item.error or {}).get("title"),
        **{name: _value(metrics.get(name), kind) for name, kind in columns.items()},
        "result_shard": shard_name(tars[0]) if tars else None, "files": files,
    }  # fmt: skip


def _value(value: Any, kind: Any) -> Any:
    if kind == pa.string() and value is not None and not isinstance(value, str):
        return json.dumps(value)
    return value
