"""From a study's request to its items, kind by kind."""

from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from service.catalog import Catalog
from service.kinds.planning import ItemPlan, Plan, Source
from service.kinds.study_planning import Planner
from service.schemas import BlendStart, OtherTargetStart, count
from service.settings import Settings
from service.studies import (
    FeatureManipulation,
    Features,
    FeatureVisualization,
    Interpolation,
    Inversion,
    RadiusSweep,
    Study,
)


def plan(request: Study, catalog: Catalog, session: Session, settings: Settings) -> Plan:
    """What the job will do. Raises InvalidInput with every field that is wrong."""
    return PLANS[type(request)](request, Planner(request, catalog, session, settings))


def inversion(request: Inversion, planner: Planner) -> Plan:
    planner.bound("targets", count(request.targets))
    targets = planner.images("targets", request.targets)
    starts = _starts(request, planner, targets)
    planner.raise_errors()
    items = [ItemPlan(target, start) for target, start in zip(targets, starts, strict=True)]
    return planner.plan(planner.resolve(), items)


def _starts(request: Inversion | RadiusSweep, planner: Planner, targets: list[Source]) -> list[Source]:
    if isinstance(request.start, OtherTargetStart):
        return targets[1:] + targets[:1]
    return planner.starts("start", request.start, len(targets))


def radius_sweep(request: RadiusSweep, planner: Planner) -> Plan:
    chosen = planner.resolve()
    planner.bound("targets", count(request.targets) * len(chosen["radii"]))
    targets = planner.images("targets", request.targets)
    starts = _starts(request, planner, targets)
    planner.raise_errors()

    def settings(pair: int, radius: float) -> dict[str, Any]:
        return {"pair": pair, "eps": radius, "step_size": min(chosen["step_size"], 2.5 * radius / chosen["steps"])}

    items = [
        ItemPlan(target, start, settings(pair, radius))
        for pair, (target, start) in enumerate(zip(targets, starts, strict=True))
        for radius in chosen["radii"]
    ]
    return planner.plan(chosen, items)


def interpolation(request: Interpolation, planner: Planner) -> Plan:
    chosen = planner.resolve()
    planner.bound("first", count(request.first) * len(chosen["lambdas"]))
    first, second = planner.images("first", request.first), planner.images("second", request.second)
    if len(first) == len(second):  # else an image of a pair has been refused
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            if one == other:
                planner.refuse(f"second.{i}", "is the same image as its partner in first; a path needs two ends")
    blended = isinstance(request.start, BlendStart)
    starts = [] if blended else planner.starts("start", request.start, len(first))
    planner.raise_errors()
    items = []
    for pair, ends in enumerate(zip(first, second, strict=True)):
        names = " to ".join(end["label"] or end["source"] for end in reversed(ends))
        for weight in chosen["lambdas"]:
            blend = {"source": "blend", "first": ends[0], "second": ends[1], "lambda": weight}
            target = blend | {"pair": pair, "label": f"{names}, {weight:.2f}"}
            items.append(ItemPlan(target, blend if blended else starts[pair], {"pair": pair, "lambda": weight}))
    return planner.plan(chosen, items)


def _directions(request: Features) -> int:
    return len(request.coordinates) + request.random_coordinates + len(request.combinations)


def _grid(starts: list[Source], directions: list[Source]) -> list[ItemPlan]:
    """An item for every start, down the rows, and direction, across the columns."""
    return [
        ItemPlan(direction, start, {"row": row, "column": direction["direction"]})
        for row, start in enumerate(starts)
        for direction in directions
    ]


def feature_visualization(request: FeatureVisualization, planner: Planner) -> Plan:
    planner.bound("body", sum(map(count, request.starts)) * _directions(request))
    directions = planner.directions(request, request.seed)
    planner.visible(request)
    starts = [start for i, source in enumerate(request.starts) for start in (planner.starts(f"starts.{i}", source, 1))]
    planner.raise_errors()
    starts = [start | {"draw": row} if "mean" in start else start for row, start in enumerate(starts)]
    return planner.plan(planner.resolve(), _grid(starts, directions))


def feature_manipulation(request: FeatureManipulation, planner: Planner) -> Plan:
    chosen = planner.resolve()
    if chosen["until"] != "threshold":
        chosen["threshold"] = None  # the preset's has no place
    planner.bound("body", count(request.images) * _directions(request))
    directions = planner.directions(request, request.seed)
    starts = planner.images("images", request.images)
    planner.raise_errors()
    return planner.plan(chosen, _grid(starts, directions))


PLANS: dict[type[Study], Callable[[Any, Planner], Plan]] = {
    Inversion: inversion,
    RadiusSweep: radius_sweep,
    Interpolation: interpolation,
    FeatureVisualization: feature_visualization,
    FeatureManipulation: feature_manipulation,
}
