"""A large job is taken at once and planned later: what is known of it by then, and what stands where its items will."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from sqlalchemy.orm import Session

from service import drafts
from service.bulk.entries import manifest_key
from service.bulk.selection import selected
from service.bulk_models import Planning
from service.catalog import Catalog
from service.drafts import Draft
from service.errors import FieldError
from service.kinds.planning import ItemPlan, Plan
from service.kinds.study_planning import Planner
from service.requests import Submission
from service.schemas import (
    DatasetImages,
    GrayStart,
    MixedImages,
    NoiseStart,
    OtherTargetStart,
    Request,
    count,
    listed,
)
from service.settings import Settings
from service.states import JobState
from service.studies import Inversion

KEEP = ("targets",)
"""Fields whose sources may be large."""
TABLE = ItemPlan({"source": "table", "label": "items.parquet"}, {"source": "table"})


def too_many(asked: int, settings: Settings) -> FieldError:
    return FieldError("targets", f"asks for {asked:,} optimisations; allowed: {settings.max_bulk_items:,}")


def is_large(request: Submission, settings: Settings) -> TypeGuard[Inversion]:
    """Whether a request, whose small filters are indices by now, is planned later."""
    if not isinstance(request, Inversion):
        return False
    asked = request.reuse or request.on_invalid == "skip" or not listed(request.targets)
    return asked or count(request.targets) * request.restarts > settings.max_items


def size(source: Request, catalog: Catalog) -> int | None:
    """How many images a source names; None if only reading it tells. Raises InvalidInput."""
    if isinstance(source, MixedImages):
        sizes = [size(part, catalog) for part in source.parts]
        return None if None in sizes else sum(n for n in sizes if n is not None)
    if isinstance(source, DatasetImages) and not listed(source) and source.dataset in catalog.datasets:
        return len(selected(catalog.datasets[source.dataset], source, "targets"))
    return count(source) if listed(source) else None


def outline(request: Inversion, catalog: Catalog, session: Session, settings: Settings) -> tuple[Plan, int | None]:
    """The plan without its items, and how many there will be, if that is known. Raises InvalidInput."""
    planner = Planner(request, catalog, session, settings)
    total, start = size(request.targets, catalog), request.start
    if total is not None and total * request.restarts > settings.max_bulk_items:
        planner.errors.append(too_many(total * request.restarts, settings))
    lone = isinstance(start, NoiseStart | GrayStart | OtherTargetStart)
    if not lone and count(start) not in (1, total):
        counted = "a source of unknown size" if total is None else f"{total:,} targets"
        planner.refuse("start", f"has {count(start):,} images beside {counted}; allowed: 1, or one for each")
    manifest_key(session, request.targets)
    if not lone:
        planner.images("start", start)
    plan = planner.plan(planner.resolve(), [])
    shown = request.targets.model_dump(mode="json", exclude={"indices", "images", "parts", "patterns"})
    parameters = plan.parameters.model_copy(update={"targets": shown | {"count": total}})
    return plan._replace(parameters=parameters, last=TABLE), total


def draft(plan: Plan, total: int | None, digest: str, key: str | None, beside: Mapping[str, Any]) -> Draft:
    """The job as it stands before it is planned."""
    parameters, items = plan.parameters.model_dump(mode="json"), (total or 0) + 1
    states = (JobState.VALIDATING,)
    drafted = drafts.job(plan.parameters.kind, parameters, plan.warnings, items, digest, key, beside, states)
    drafted.rows[Planning].append({"job_id": drafted.job["id"], "total": total})
    return drafted
