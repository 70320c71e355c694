"""Rows of jobs turned into responses, with what other tables say of them, in a few queries for a whole page."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer

from service import around, responses, summaries, waiting
from service.bulk_models import Planning
from service.cursors import at, timestamp
from service.db import kept
from service.drafts import RECIPE
from service.models import Item, Job, Shard
from service.requests import PRIORITIES
from service.states import TERMINAL_JOB, ItemState, JobState, ShardState

LINKS = (
    "items", "artifacts", "events", "errors", "failures", "shards", "logs", "archive", "result_shards", "table",
    "cancel", "pause", "resume", "retry", "clone", "request",
)  # fmt: skip
PATHS = {"result_shards": "result-shards"}
NAMES = {number: name for name, number in PRIORITIES.items()}
STOPPED = (JobState.CANCELLED, JobState.EXPIRED)  # of which more may have been done than items are over
MANY, OLD = 10_000, 2.0
"""With more items than that, the counts of a job that is going on may be so many seconds old."""
Counts = dict[str, int]


class Around(NamedTuple):
    """What other tables say of jobs, by their ids."""

    parts: dict[str, list[Job]]
    counts: dict[str, Counts]
    settled: dict[str, int]
    """How many items are over that the reports of `running` have."""
    running: dict[str, list[dict[str, Any]]]
    heard: dict[str, float]
    """When a worker that holds some of it last gave a sign of life."""
    labels: dict[str, dict[str, str]]
    plannings: dict[str, Planning]
    waiting: dict[str, responses.Waiting]
    moves: dict[str, list[responses.Transition]]
    first: dict[str, dict[str, Any]]
    """What a job's first shard last reported."""


def briefly(session: Session, rows: Sequence[Job], why: bool = True) -> list[responses.JobSummary]:
    """As lists have them, with `why` they wait; needs no row's parameters."""
    around = _around(session, rows, why=why)
    facts = [_facts(row, around) for row in rows]
    for each in facts:
        each["progress"] = responses.ProgressSummary(**each["progress"].model_dump(exclude={"curve"}))
    return [responses.JobSummary(**each) for each in facts]


def wholly(
    session: Session, rows: Sequence[Job], known: dict[str, around.Found] | None = None
) -> list[responses.Job]:  # fmt: skip
    """As each job's own address has it. What `around.read` would find may be `known`."""
    of_rows = _around(session, rows, True, known=known)
    found = [
        responses.Job(**_facts(row, of_rows), parameters=row.parameters, transitions=of_rows.moves[row.id])
        for row in rows
    ]
    for job in found:  # where nothing runs: what its first shard last reported
        if not job.parts and not job.progress.curve:
            job.progress.curve = [(step, distance) for step, distance in of_rows.first.get(job.id, {}).get("curve", [])]
    return found


def _around(
    session: Session, rows: Sequence[Job], whole: bool = False, why: bool = True,
    known: dict[str, around.Found] | None = None,
) -> Around:  # fmt: skip
    parts: dict[str, list[Job]] = defaultdict(list)
    if recipes := [row.id for row in rows if row.kind == RECIPE]:
        of_recipes = select(Job).where(Job.parent_id.in_(recipes)).order_by(Job.part).options(defer(Job.parameters))
        for part in session.scalars(of_recipes):
            parts[str(part.parent_id)].append(part)
    every = [*rows, *(part for each in parts.values() for part in each)]
    going = [row for row in every if row.state not in TERMINAL_JOB or row.state in STOPPED]
    counts = {row.id: row.counts for row in every if row.counts and row.state in TERMINAL_JOB}
    few = [row.id for row in every if row.id not in counts and row.items <= MANY]
    found = known
    if found is None:
        found = around.read(session, [row.id for row in every], [row.id for row in going], few, whole)
    for job_id in few:
        counts[job_id] = {row.name: int(row.number) for row in found[around.COUNT][job_id]}
    settled = {job_id: int(row.number) for job_id, [row] in found[around.SETTLED].items()}
    for row in every:
        if row.id not in counts:
            read = partial(_grouped, session, row.id)
            counts[row.id], settled[row.id] = kept(session, ("items of", row.id), read, lambda _: OLD)
    planned = [row.id for row in rows if row.id in found[around.PLANNED]]
    plannings = session.scalars(select(Planning).where(Planning.job_id.in_(planned))) if planned else ()
    running: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for job_id, shards in found[around.SHARD].items():
        stands = {"rate": 0, "held": False}
        running[job_id] = [s.data | ({} if s.name == ShardState.RUNNING else stands) for s in shards]
    soonest = {job_id: row.number for job_id, [row] in found[around.SOONEST].items()}
    return Around(
        parts, counts, settled, running, _heard(every, found),
        {row.id: {label.name: label.text for label in sorted(found[around.LABEL][row.id])} for row in rows},
        {each.job_id: each for each in plannings},
        _waiting(session, rows, every, parts, running, soonest) if why else {},
        {row.id: _moves(found[around.MOVED][row.id]) for row in rows},
        {row.id: first.data for row in rows for first in found[around.FIRST][row.id]},
    )  # fmt: skip


def _heard(rows: Sequence[Job], found: dict[str, around.Found]) -> dict[str, float]:
    """When each job, and the recipe that it is a part of, was last heard of; 0 for one that nobody computes."""
    heard: dict[str, float] = {}
    for row in rows:
        at_work = [s.number for s in found[around.SHARD][row.id] if s.name == ShardState.RUNNING and s.number]
        for each in {row.id, row.parent_id or row.id}:
            heard[each] = max([heard.get(each, 0.0), *at_work])
    return heard


def _moves(rows: Sequence[Any]) -> list[responses.Transition]:
    return [responses.Transition(state=row.name, at=at(row.number)) for row in sorted(rows, key=lambda row: row.place)]


def _grouped(session: Session, job_id: str) -> tuple[Counts, int]:
    grouped = select(Item.state, func.count()).where(Item.job_id == job_id).group_by(Item.state)
    counts: Counts = {}
    for state, n in session.execute(grouped):
        counts[state] = n
    reported = select(func.count()).select_from(Item).join(Shard, Item.shard_id == Shard.id)
    settled = reported.where(Item.job_id == job_id, around.REPORTS, around.OVER)
    return counts, session.scalars(settled).one()


def _waiting(
    session: Session,
    rows: Sequence[Job],
    every: Sequence[Job],
    parts: dict[str, list[Job]],
    running: dict[str, list[dict[str, Any]]],
    soonest: dict[str, float],
) -> dict[str, responses.Waiting]:
    """Why each job waits; a recipe none of whose parts is computed waits as the first of them does."""
    busy = {job_id for job_id, reports in running.items() if any(r.get("held", True) for r in reports)}
    busy |= {str(row.parent_id) for row in every if row.id in busy}
    found = waiting.find(session, every, busy, soonest)
    for row in rows:
        of_parts = [found[part.id] for part in parts[row.id] if part.id in found]
        if row.id in found and found[row.id].reason == "parts" and of_parts:
            first = min(of_parts, key=lambda w: (w.ahead is None, w.ahead))
            found[row.id] = first.model_copy(update={"reason": "parts", "detail": f"its parts wait: {first.detail}"})
    return found


def _facts(row: Job, around: Around) -> dict[str, Any]:
    named, url, parts = summaries.of(row), f"/v1/jobs/{row.id}", around.parts[row.id]
    planning, kept_for = around.plannings.get(row.id), row.retention_seconds
    return {
        "id": row.id, "kind": row.kind, "title": named.get("title"), "state": row.state,
        "priority": NAMES[row.priority], "description": row.description, "labels": around.labels[row.id],
        "metadata": row.meta or {}, "model": named.get("model"), "networks": named.get("networks", []),
        "dataset": named.get("dataset"), "parent": row.parent_id, "cloned_from": row.cloned_from,
        "parts": {str(part.part): part.id for part in parts}, "warnings": row.warnings, "error": row.error,
        "created_at": at(row.created_at), "finished_at": timestamp(row.finished_at),
        "deadline": timestamp(row.deadline), "retention_seconds": kept_for,
        "expires_at": at(row.finished_at + kept_for) if row.finished_at and kept_for is not None else None,
        "items": responses.ItemCounts(total=row.items, **around.counts[row.id]),
        "progress": _progress_of(row, around), "waiting": around.waiting.get(row.id),
        "heartbeat_at": timestamp(around.heard[row.id] or None),
        "planning": responses.Planning.model_validate(planning, from_attributes=True) if planning else None,
        "links": responses.JobLinks(self=url, **{name: f"{url}/{PATHS.get(name, name)}" for name in LINKS}),
    }  # fmt: skip


def _progress_of(row: Job, around: Around) -> responses.Progress:
    if row.kind == RECIPE:
        return _sum([_progress_of(part, around) for part in around.parts[row.id]], row.finished_at is not None)
    return _progress(row, around.counts[row.id], around.settled.get(row.id, 0), around.running.get(row.id, ()))


def _progress(row: Job, counts: Counts, settled: int, running: Iterable[dict[str, Any]]) -> responses.Progress:
    named = summaries.of(row)
    total, reports = row.items * named["steps"], [r for r in running if "image_steps" in r]
    over = sum(counts.get(state, 0) for state in (ItemState.SUCCEEDED, ItemState.FAILED)) - settled
    done = min(named["steps"] * over + sum(r["image_steps"] for r in reports), total)
    rate = sum(r["rate"] for r in reports) or None
    return responses.Progress(
        steps_done=done, steps_total=total, fraction=done / total if total else 0.0,
        curve=max((r["curve"] for r in reports), key=len, default=[]), curve_of=named["curve_of"], rate=rate,
        eta_seconds=(total - done) / rate if rate else None,
    )  # fmt: skip


def _sum(parts: Sequence[responses.Progress], over: bool) -> responses.Progress:
    """A recipe's progress is that of its parts; drawing them has no steps, and only its end makes the whole."""
    done, total = sum(p.steps_done for p in parts), sum(p.steps_total for p in parts)
    rate = sum(p.rate or 0 for p in parts) or None
    fraction = done / total if total else 0.0
    return responses.Progress(
        steps_done=done, steps_total=total, fraction=1.0 if over else min(fraction, 0.99), curve=[],
        curve_of="", rate=rate, eta_seconds=(total - done) / rate if rate else None,
    )  # fmt: skip
