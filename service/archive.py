"""What is in the archive of a job, read page by page and ahead of who takes it, in little memory.

No transaction is open while it goes out, so it shows each item as it was when its turn came. Only items that are over
are in it, since what they have no longer changes. If it cannot be completed, it ends in an exception: it must not look
like a shorter archive.
"""

import json
import re
from array import array
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

from sqlalchemy import select

from service import cursors, responses
from service.db import Database
from service.errors import FieldError, InvalidInput
from service.models import Artifact, Item, Job
from service.objects import OtherContent, Storage, StorageError, read_pieces, same
from service.packing import Member
from service.states import TERMINAL_ITEM

PAGE = 500
"""Items whose rows are read at once."""
THREADS, AHEAD = 8, 12
"""Reads at once, and reads whose data wait to be taken; each has at most HELD bytes."""
HELD = 4 << 20
GAP = 128 << 10
"""Bytes that it takes no longer to read than to ask for the next file of an object."""
SPAN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
OVER = Item.state.in_(TERMINAL_ITEM)
FIELDS = ("index", "state", "target", "start", "settings", "metrics", "provenance", "error", "epoch", "finished_at")


class File(NamedTuple):
    """An artifact, and when its item was over."""

    item: int
    name: str
    key: str
    size: int
    sha256: str
    offset: int | None
    modified: float

    @property
    def first(self) -> int:
        return self.offset or 0

    @property
    def last(self) -> int:
        return self.first + self.size


def spans(text: str | None, count: int) -> list[range]:
    """The items that `0-99,200` names, of so many, in order and once each; for None all. Raises InvalidInput."""
    if text is None:
        return [range(count)]
    found: list[range] = []
    for part in sorted((_span(part, count) for part in text.split(",")), key=lambda span: span.start):
        start = max(part.start, found[-1].stop) if found else part.start
        found += [range(start, part.stop)] if start < part.stop else []
    return found


def _span(text: str, count: int) -> range:
    match = SPAN.fullmatch(text.strip())
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
    if not first <= last < count:
        allowed = f"allowed: numbers from 0 to {count - 1} and ranges of them, such as 0-99,200"
        raise InvalidInput(FieldError("items", f"{text.strip()!r} names no items; {allowed}"))
    return range(first, last + 1)


def members(
    db: Database, storage: Storage, job: responses.Job, items: Sequence[range], names: Sequence[str], sized: bool
) -> Generator[Member, None, None]:
    """The files of a job: job.json, then those of its items in order, then items.jsonl, a line an item.

    `names` keeps only artifacts with these names. `sized` members have their size from the beginning, which costs
    writing items.jsonl twice. Raises StorageError.
    """
    about = job.model_dump_json(indent=2).encode()
    at = (job.finished_at or job.created_at).timestamp()
    yield Member("job.json", len(about), at, about)
    over = array("Q")
    with closing(_ahead(storage, _near(_files(db, job.id, items, names, over)))) as read:
        for file, data in read:
            yield Member(f"items/{file.item:07d}/{file.name}", file.size, file.modified, data)
    size = sum(map(len, _lines(db, job.id, over))) if sized else None
    yield Member("items.jsonl", size, at, _lines(db, job.id, over))


def _files(
    db: Database, job_id: str, items: Sequence[range], names: Sequence[str], over: "array[int]"
) -> Iterator[File]:
    """In order of item and name; `over` is filled with the items."""
    stored = select(Artifact.item_index, Artifact.name, Artifact.key, Artifact.size, Artifact.sha256, Artifact.offset)
    stored = stored.where(Artifact.job_id == job_id).order_by(Artifact.item_index, Artifact.name)
    if names:
        stored = stored.where(Artifact.name.in_(names))
    for ended in _items(db, job_id, items):
        over.extend(ended)
        with db.reading() as session:
            rows = session.execute(stored.where(Artifact.item_index.between(min(ended), max(ended)))).all()
        yield from (File(*row, ended[row.item_index]) for row in rows if row.item_index in ended)


def _items(db: Database, job_id: str, spans: Iterable[range]) -> Iterator[dict[int, float]]:
    """Pages of the items of these spans that are over, and since when.

    Raises StorageError if the job is deleted meanwhile.
    """
    query = select(Item.index, Item.finished_at).where(Item.job_id == job_id, OVER).order_by(Item.index).limit(PAGE)
    for span in spans:
        after, full = span.start - 1, True
        while full:
            with db.reading() as session:
                if session.scalar(select(Job.id).where(Job.id == job_id, Job.deleted_at.is_(None))) is None:
                    raise StorageError(f"job {job_id} was deleted while its archive was being sent")
                rows = session.execute(query.where(Item.index > after, Item.index < span.stop))
                page = {index: ended or 0.0 for index, ended in rows}
            if page:
                yield page
                after = max(page)
            full = len(page) == PAGE


def _lines(db: Database, job_id: str, over: "array[int]") -> Iterator[bytes]:
    """A line for each of these items. Raises StorageError if one is to be computed again meanwhile."""
    query = select(*(getattr(Item, name) for name in FIELDS)).where(Item.job_id == job_id, OVER).order_by(Item.index)
    for start in range(0, len(over), PAGE):
        page = over[start : start + PAGE].tolist()
        with db.reading() as session:
            rows = session.execute(query.where(Item.index.in_(page))).mappings().all()
        if len(rows) != len(page):
            raise StorageError(f"items of job {job_id} were queued again while its archive was being sent")
        for row in rows:
            ended = cursors.timestamp(row["finished_at"])
            yield json.dumps({**row, "finished_at": ended and ended.isoformat()}).encode() + b"\n"


def _near(files: Iterable[File]) -> Iterator[list[File]]:
    """Runs of files to be read at once: one alone, or some that lie near each other in one object."""
    run, first, last = list[File](), 0, 0
    for file in files:
        low, high = min(first, file.first), max(last, file.last)
        near = run and file.offset is not None and file.key == run[0].key
        if not near or high - low > HELD or high - low - (last - first) > file.size + GAP:
            if run:
                yield run
            run, low, high = [], file.first, file.last
        run.append(file)
        first, last = low, high
    if run:
        yield run


def _ahead(storage: Storage, runs: Iterable[list[File]]) -> Generator[tuple[File, bytes | Iterator[bytes]], None, None]:
    pool, waiting = ThreadPoolExecutor(THREADS, "archive"), deque[tuple[list[File], "Future[list[bytes]]"]]()

    def taken() -> Iterator[tuple[File, bytes | Iterator[bytes]]]:
        run, read = waiting.popleft()
        data: Sequence[bytes | Iterator[bytes]] = read.result() or [_streamed(storage, run[0])]
        yield from zip(run, data, strict=True)

    try:
        for run in runs:
            waiting.append((run, pool.submit(_read, storage, run)))
            if len(waiting) == AHEAD:
                yield from taken()
        while waiting:
            yield from taken()
    finally:  # also where nobody takes the rest
        pool.shutdown(wait=False, cancel_futures=True)


def _read(storage: Storage, run: Sequence[File]) -> list[bytes]:
    """The bytes of each file; of none if it is a large one, which is read when its turn comes."""
    if run[0].size > HELD:
        return []
    if run[0].offset is None:
        return [b"".join(_intact(run[0], [storage.get(run[0].key)]))]
    first = min(file.first for file in run)
    data = storage.get_range(run[0].key, first, max(file.last for file in run) - first)
    return [b"".join(_intact(file, [data[file.first - first : file.last - first]])) for file in run]


def _intact(file: File, data: Iterable[bytes]) -> Iterator[bytes]:
    try:
        yield from same(data, file.size, file.sha256)
    except OtherContent as e:
        raise StorageError(f"{file.name} of item {file.item} in {file.key} {e}") from e


def _streamed(storage: Storage, file: File) -> Iterator[bytes]:
    return _intact(file, read_pieces(storage, file.key, file.first, file.size))
