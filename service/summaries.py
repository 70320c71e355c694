"""What lists show of a job's parameters, kept beside them: those may be long."""

from collections.abc import Mapping
from typing import Any

from service.models import Job


def summarize(kind: str, parameters: Mapping[str, Any], request: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The names in a job's parameters, or its request, and what its speed and progress are counted by.

    `steps` are image-steps an item at most, restarts included.
    """
    if kind.endswith("_registration"):
        name = parameters["request"]["name"]
        return {"title": name, kind.removesuffix("_registration"): name} | _counted(parameters)
    networks = list(parameters.get("networks", {}).values())
    model = parameters.get("model") or parameters.get("name") or next(iter(networks), None)
    recipe = f"{parameters['recipe']}: {parameters['title']}" if kind == "recipe" else None
    return {
        "title": recipe, "model": model, "dataset": parameters.get("dataset") or _dataset(request or {}),
        "networks": networks or [n for n in (model or parameters.get("architecture"),) if n],
    } | _counted(parameters)  # fmt: skip


def _counted(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "steps": parameters.get("steps", 0) * parameters.get("restarts", 1),
        "precision": parameters.get("precision"), "curve_of": parameters.get("curve", "relative_distance"),
    }  # fmt: skip


def _dataset(request: Mapping[str, Any]) -> str | None:
    """The data set whose images a request names first."""
    images = (value for value in request.values() if isinstance(value, dict) and value.get("source") == "dataset")
    return next((str(value["dataset"]) for value in images if "dataset" in value), None)


def of(row: Job) -> dict[str, Any]:
    """A job's summary; of one from before there were any, made from its parameters."""
    return row.summary or summarize(row.kind, row.parameters)
