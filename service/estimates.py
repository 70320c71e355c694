"""What a request would become, and how long that is expected to take: a dry run, which inserts nothing."""

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import fleet, summaries, waiting
from service.db import now
from service.kinds.planning import Plan
from service.models import Job, Shard
from service.responses import Estimate, Preview

SEEN, JOBS, SHARDS = 2000, 100, 1000
"""Of so many jobs of a kind, the most recent ones, the speed of so many that are like it is looked at."""
USUAL = 0.9
"""Shards share a device, each at a part of its speed: the quantile of their rates that stands for all of it."""


def preview(session: Session, plan: Plan, total: int | None, shard_items: int, priority: int) -> Preview:
    """Of a plan that would be submitted now, with so many items and the last one; None: only its source tells."""
    kind, parameters = plan.parameters.kind, plan.parameters.model_dump(mode="json")
    last = plan.last is not None
    items = None if total is None else total + last
    shards = None if total is None else math.ceil(total / max(1, shard_items // plan.weight)) + last
    steps = None if items is None else items * summaries.summarize(kind, parameters)["steps"]
    at = session.scalars(select(now())).one()
    waits = waiting.queue(session).wait(waiting.place(priority, at, ""))
    return Preview(
        kind=kind, parameters=parameters, items=items, shards=shards, image_steps=steps,
        warnings=plan.warnings, estimate=estimate(session, kind, parameters, steps, shards),
        waiting=None if waits.starts_in_seconds == 0 else waits,
    )  # fmt: skip


def together(kind: str, parameters: dict[str, Any], parts: Mapping[str, Preview]) -> Preview:
    """Of a recipe: its parts one after the other, and one item more, which draws them."""
    of = list(parts.values())
    seconds, device = [each.estimate.seconds for each in of], [each.estimate.device_seconds for each in of]
    basis = "; ".join(dict.fromkeys(each.estimate.basis for each in of))
    return Preview(
        kind=kind, parameters=parameters, items=sum(each.items or 0 for each in of) + 1,
        shards=sum(each.shards or 0 for each in of) + 1, image_steps=sum(each.image_steps or 0 for each in of),
        warnings=list(dict.fromkeys(warning for each in of for warning in each.warnings)),
        estimate=Estimate(seconds=_sum(seconds), device_seconds=_sum(device), basis=basis), waiting=of[0].waiting,
        parts={label: each.parameters for label, each in parts.items()},
    )  # fmt: skip


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def estimate(
    session: Session, kind: str, parameters: dict[str, object], steps: int | None, shards: int | None
) -> Estimate:
    """How long so many image-steps take, by what workers reported of the last shards like these."""
    named = summaries.summarize(kind, parameters)
    rates = sorted(_rates(session, kind, named["model"], named["precision"]))
    like = " ".join(filter(None, (kind, named["model"] and f"on {named['model']}", named["precision"])))
    if steps is None or shards is None:
        return Estimate(seconds=None, device_seconds=None, basis="how many items there are, only the source tells")
    if not rates:
        return Estimate(seconds=None, device_seconds=None, basis=f"no worker has reported its speed at {like} yet")
    rate, processes = rates[int(USUAL * (len(rates) - 1))], fleet.threads(session)[0]
    used = min(max(processes, 1), shards)
    shards_seen, workers = _several(len(rates), "earlier shard"), _several(used, "worker")
    images = parameters.get("images")  # of a job over a data set, whose items are runs of images
    speed = f"{rate * images / steps:,.1f} images" if isinstance(images, int) else f"{rate:,.0f} image-steps"
    basis = f"{shards_seen} of {like}: {speed} a second, {workers} at a time"
    return Estimate(seconds=steps / rate / used, device_seconds=steps / rate, basis=basis)


def _several(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _rates(session: Session, kind: str, model: str | None, precision: str | None) -> list[float]:
    of_kind = select(Job.id, Job.summary, Job.created_at).where(Job.kind == kind)
    seen = of_kind.order_by(Job.created_at.desc()).limit(SEEN).subquery()
    like = seen.c.summary["model"].as_string().is_not_distinct_from(model) & seen.c.summary[
        "precision"
    ].as_string().is_not_distinct_from(precision)
    recent = select(seen.c.id).where(like).order_by(seen.c.created_at.desc()).limit(JOBS)
    rate = Shard.progress["rate"].as_float()
    return list(session.scalars(select(rate).where(Shard.job_id.in_(recent), rate > 0).limit(SHARDS)))
