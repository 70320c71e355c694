"""What other tables say of jobs, in one statement for a whole page: a statement costs more than the rows it finds."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    Select,
    String,
    cast,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.orm import Session

from service.bulk_models import Label, Planning
from service.db import among, now
from service.models import Base, Item, Job, Shard, Transition
from service.states import ItemState, ShardState

COLUMNS: dict[str, Any] = {"name": String, "text": String, "number": Double, "place": BigInteger, "data": JSON}
LABEL, PLANNED, MOVED, FIRST, COUNT = "label", "planned", "moved", "first", "count"
SHARD, SETTLED, SOONEST = "shard", "settled", "soonest"
Found = dict[str, list[Any]]
"""Rows by the id of their job, with the columns of `COLUMNS`."""


class Fact(NamedTuple):
    """Such a row, of a job that need not be read."""

    name: str | None = None
    text: str | None = None
    number: float | None = None
    place: int | None = None
    data: Any = None


def _branch(what: str, job_id: Any, **columns: Any) -> Select[Any]:
    """One of the selects that are put together, which must all have the same columns."""
    of_row = [columns.get(name, cast(null(), of)).label(name) for name, of in COLUMNS.items()]
    return select(literal_column(f"'{what}'", String).label("what"), job_id.label("job_id"), *of_row)


_of_item = select(Item.index).where(Item.shard_id == Shard.id, Item.checkpoint.is_not(None)).correlate(Shard)
_told = Shard.progress["image_steps"].as_integer().is_not(None)
STANDS = or_(Shard.checkpoint.is_not(None), _told & _of_item.exists())
"""Whether a later claim of the shard goes on where an earlier one stood."""
_queued, _cancelled = Shard.state == ShardState.QUEUED, Shard.state == ShardState.CANCELLED
_counts = or_(Shard.state == ShardState.RUNNING, _queued & STANDS, _cancelled & _told)
REPORTS = _counts & _told
"""Shards whose last report says what was done of them, items that are over included."""
OVER = Item.state.in_((ItemState.SUCCEEDED, ItemState.FAILED))
_pause = func.min(func.coalesce(Shard.not_before, 0.0)) - now()
_BRIEF = (
    _branch(LABEL, Label.job_id, name=Label.key, text=Label.value).where(among(Label.job_id, "ids")),
    _branch(PLANNED, Planning.job_id).where(among(Planning.job_id, "ids")),
    _branch(SHARD, Shard.job_id, name=Shard.state, number=Shard.heartbeat_at, data=Shard.progress)
    .where(among(Shard.job_id, "going"), _counts),
    _branch(SETTLED, Shard.job_id, number=func.count()).join(Item, Item.shard_id == Shard.id)
    .where(among(Shard.job_id, "going"), REPORTS, OVER).group_by(Shard.job_id),
    _branch(SOONEST, Shard.job_id, number=_pause)
    .where(among(Shard.job_id, "going"), Shard.state == ShardState.QUEUED).group_by(Shard.job_id),
    _branch(COUNT, Item.job_id, name=Item.state, number=func.count())
    .where(among(Item.job_id, "counted")).group_by(Item.job_id, Item.state),
)  # fmt: skip
_WHOLE = (
    _branch(MOVED, Transition.job_id, name=Transition.state, number=Transition.at, place=Transition.id)
    .where(among(Transition.job_id, "ids")),
    _branch(FIRST, Shard.job_id, data=Shard.progress).where(among(Shard.id, "first")),
)  # fmt: skip
BRIEF, WHOLE = union_all(*_BRIEF), union_all(*_BRIEF, *_WHOLE)


def read(
    session: Session, ids: Collection[str], going: Collection[str], counted: Collection[str], whole: bool
) -> dict[str, Found]:
    """By what they are, rows about the jobs with these `ids`; some of them are `going`, and some items are `counted`.

    - LABEL: `name` and `text`. PLANNED: that it is, or was, planned later.
    - COUNT: how many items (`number`) are in a state (`name`).
    - SHARD: the last report (`data`) of one that a worker holds, that is gone on with later, or that was cancelled, its
      state, and when it was heard of last (`number`).
    - SETTLED: how many items (`number`) of those with a report are over.
    - SOONEST: in how many seconds (`number`) a queued shard may be claimed first, 0 or less for now.
    - If `whole`, MOVED: a state (`name`) and when (`number`) the job came to it, by `place`; FIRST: what its first
      shard last reported (`data`).
    """
    lists: dict[str, Any] = {"ids": ids, "going": going, "counted": counted}
    if whole:
        lists["first"] = [f"{job_id}.0" for job_id in ids]
    found: dict[str, Found] = defaultdict(lambda: defaultdict(list))
    for row in session.execute(WHOLE if whole else BRIEF, lists):
        found[row.what][row.job_id].append(row)
    return found


def of_new(drafts: Iterable[Mapping[type[Base], Sequence[Mapping[str, Any]]]]) -> dict[str, Found]:
    """What `read` would find about jobs that have just been inserted, each by its rows."""
    found: dict[str, Found] = defaultdict(lambda: defaultdict(list))
    for rows in drafts:
        job_id = rows[Job][0]["id"]
        found[LABEL][job_id] = [Fact(label["key"], label["value"]) for label in rows[Label]]
        moves = enumerate(rows[Transition])
        found[MOVED][job_id] = [Fact(move["state"], number=move["at"], place=n) for n, move in moves]
        found[COUNT][job_id] = [Fact(state, number=n) for state, n in Counter(i["state"] for i in rows[Item]).items()]
        found[SOONEST][job_id] = [Fact(number=0.0)]
    return found
