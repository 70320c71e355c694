"""Submissions as rows that are still to be inserted, so that those of many clients are inserted together."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import tracing
from service.access.principal import DEFAULT
from service.bulk_models import Label, Planning
from service.db import insert_all, now
from service.kinds.planning import ItemPlan, Plan
from service.models import Base, Item, Job, Shard, Transition
from service.states import ItemState, JobState, ShardState
from service.summaries import summarize
from service.webhooks import outbox

RECIPE = "recipe"
NOTHING: Mapping[str, Any] = {}
OF_PARTS = {"deadline", "client", "priority", "tenant"}
"""What a recipe's parts have from it; the rest is the recipe's own, and so are its retention and its end."""
NAMES = ("model", "judge", "dataset", "architecture", "name", "preset", "recipe", "title")
"""Parameters that name something."""
BESIDE: Mapping[str, Any] = {
    "idempotency_key": None, "parent_id": None, "part": None, "deadline": None, "client": None, "priority": 1,
    "tenant": DEFAULT,
    "description": None, "metadata": None, "request": None, "retention_seconds": None, "cloned_from": None,
}  # fmt: skip
"""Columns of a job that not every one has."""
TIMES: Mapping[type[Base], str] = {Job: "created_at", Transition: "at", Shard: "sent_at"}
"""Columns that say when a row was inserted."""
COLUMNS = {"metadata": "meta"}
"""Columns that have another name as attributes."""
ORDER: tuple[type[Base], ...] = (Job, Planning, Transition, Label, Shard, Item)
Row = dict[str, Any]


class Draft(NamedTuple):
    """A job, or a recipe and then its parts: their rows by table, all but for the times."""

    rows: Mapping[type[Base], list[Row]]

    @property
    def job(self) -> Row:
        return self.rows[Job][0]

    @property
    def at_once(self) -> bool:
        """Whether it is one job that can begin, neither a recipe nor to be planned later."""
        return len(self.rows[Job]) == 1 and not self.rows[Planning]

    @property
    def items(self) -> int:
        """How many they are, by which limits count them."""
        return sum(int(job["items"]) for job in self.rows[Job])

    def read(self) -> Job:
        """The job as it would be read after it was inserted."""
        return Job(**{COLUMNS.get(name, name): value for name, value in self.job.items()}, stamp=0)

    @property
    def shard_ids(self) -> list[str]:
        """Those to enqueue after the commit."""
        return [str(shard["id"]) for shard in self.rows[Shard] if shard["state"] is ShardState.QUEUED]


def job(
    kind: str, parameters: Mapping[str, Any], warnings: Sequence[str], items: int, digest: str, key: str | None,
    beside: Mapping[str, Any], states: Iterable[JobState] = (JobState.VALIDATING, JobState.QUEUED),
) -> Draft:  # fmt: skip
    """A job that is still without shards, in the last of the states. `beside` are columns, and `labels`."""
    job_id, labels, states = f"job_{uuid.uuid4().hex}", beside.get("labels", {}), list(states)
    row = {**BESIDE} | {
        "id": job_id, "kind": kind, "state": states[-1], "warnings": list(warnings), "items": items,
        "parameters": dict(parameters), "request_digest": digest, "idempotency_key": key,
        "text": searched(job_id, kind, parameters, beside.get("description"), labels),
        "summary": summarize(kind, parameters, beside.get("request")), "trace": tracing.current(),
    } | {name: value for name, value in beside.items() if name != "labels"}  # fmt: skip
    return Draft({
        Job: [row], Transition: [{"job_id": job_id, "state": state} for state in states], Shard: [], Item: [],
        Label: [{"job_id": job_id, "key": name, "value": value} for name, value in labels.items()], Planning: [],
    })  # fmt: skip


def planned(plan: Plan, digest: str, key: str | None, shard_items: int, beside: Mapping[str, Any] = NOTHING) -> Draft:
    """A planned job with its shards and items, of which the last waits for the others, if there is one."""
    parameters = plan.parameters.model_dump(mode="json")
    drafted = job(plan.parameters.kind, parameters, plan.warnings, size(plan), digest, key, beside)
    add(drafted, plan.items, max(1, shard_items // plan.weight))
    if plan.last:
        add(drafted, [plan.last], 1, ShardState.WAITING)
    return drafted


def recipe(
    parameters: Mapping[str, Any], plans: Mapping[str, Plan], digest: str, key: str | None, shard_items: int,
    beside: Mapping[str, Any] = NOTHING,
) -> Draft:  # fmt: skip
    """A recipe's job, which draws its studies once they are over, and then they, by part."""
    warnings = list(dict.fromkeys(w for plan in plans.values() for w in plan.warnings))
    whole = job(RECIPE, parameters, warnings, 1, digest, key, beside)
    drawing = ItemPlan({"source": "recipe", "label": parameters["title"]}, {"source": "recipe"})
    add(whole, [drawing], 1, ShardState.WAITING)
    shared = {name: value for name, value in beside.items() if name in OF_PARTS}
    for label, plan in plans.items():
        of_part = shared | {"parent_id": whole.job["id"], "part": label}
        for table, rows in planned(plan, digest, None, shard_items, of_part).rows.items():
            whole.rows[table].extend(rows)
    return whole


def size(*plans: Plan) -> int:
    """How many items they are together."""
    return sum(len(plan.items) + (plan.last is not None) for plan in plans)


def add(drafted: Draft, items: Sequence[ItemPlan], shard_items: int, state: ShardState = ShardState.QUEUED) -> None:
    """Give a draft's first job more shards and items after those that it has."""
    shards, rows = filled(
        drafted.job["id"], items, shard_items, state, len(drafted.rows[Item]), len(drafted.rows[Shard])
    )
    drafted.rows[Shard].extend(shards)
    drafted.rows[Item].extend(rows)


def filled(
    job_id: str, items: Sequence[ItemPlan], shard_items: int, state: ShardState, first: int, shard: int
) -> tuple[list[Row], list[Row]]:
    """Rows of shards and items, numbered from `shard` and `first`."""
    begins = range(0, len(items), shard_items)
    shards: list[Row] = [
        {"id": f"{job_id}.{shard + n}", "job_id": job_id, "state": state, "first_item": first + begin,
         "item_count": min(shard_items, len(items) - begin), "last": state is ShardState.WAITING}
        for n, begin in enumerate(begins)
    ]  # fmt: skip
    rows = [
        {"job_id": job_id, "index": first + i, "shard_id": shards[i // shard_items]["id"], "state": ItemState.QUEUED,
         **item._asdict()}
        for i, item in enumerate(items)
    ]  # fmt: skip
    return shards, rows


def searched(
    job_id: str, kind: str, parameters: Mapping[str, Any], description: str | None, labels: Mapping[str, str]
) -> str:
    """What a search by text looks at: id, kind, description, labels, and the names among the parameters."""
    named = [parameters[name] for name in NAMES if isinstance(parameters.get(name), str)]
    pairs = [f"{key}={value}" for key, value in labels.items()]
    return "\n".join([job_id, kind, *named, *pairs, description or ""]).lower()


def insert(session: Session, drafts: Iterable[Draft]) -> None:
    """All their rows, in a few statements however many there are."""
    at, webhooks = session.execute(select(now(), outbox.asked())).one()
    drafts = list(drafts)
    rows = {table: [row for drafted in drafts for row in drafted.rows[table]] for table in ORDER}
    for table, name in TIMES.items():
        for row in rows[table]:
            row[name] = at
    insert_all(session, rows)
    for row in rows[Job]:
        if webhooks and row["state"] is JobState.QUEUED:
            outbox.note(session, row["id"], JobState.QUEUED)
