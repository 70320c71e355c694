"""The inversion job: a request checked against the catalog and turned into parameters and items."""

import math
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import images
from service.catalog import Catalog
from service.errors import FieldError, InvalidInput
from service.models import Image
from service.schemas import (
    INVERSION_PRESETS,
    DatasetImages,
    InversionParameters,
    InversionRequest,
    ModelCard,
    NoiseStart,
    UploadedImages,
    count,
)
from service.settings import Settings


class ItemPlan(NamedTuple):
    """Where one item's target and start come from."""

    target: dict[str, Any]
    start: dict[str, Any]


class Plan(NamedTuple):
    """What a job will do: its resolved parameters, an entry an item, and what the client should know."""

    parameters: InversionParameters
    items: list[ItemPlan]
    warnings: list[str]


def plan(request: InversionRequest, catalog: Catalog, session: Session, settings: Settings) -> Plan:
    """Raises InvalidInput with every field that is wrong."""
    errors = _unknown_names(request, catalog)
    preset = INVERSION_PRESETS[request.preset]
    chosen = {name: getattr(request, name) if getattr(request, name) is not None else preset[name] for name in preset}
    if chosen["steps"] > settings.max_steps:
        errors.append(FieldError("steps", f"is {chosen['steps']}; allowed: at most {settings.max_steps}"))
    if count(request.targets) > settings.max_items:
        errors.append(FieldError("targets", f"names {count(request.targets)} images; allowed: {settings.max_items}"))
    if errors:
        raise InvalidInput(*errors)
    model = catalog.models[request.model]
    judge = request.judge or (model.twin if model.twin in catalog.models else None)
    parameters = InversionParameters(
        **request.model_dump(exclude={*preset, "judge"}),
        **chosen,
        model_digest=model.digest,
        judge=judge,
        judge_digest=catalog.models[judge].digest if judge else None,
    )
    return Plan(parameters, _items(request, model, catalog, session), _warnings(parameters, model))


def _unknown_names(request: InversionRequest, catalog: Catalog) -> list[FieldError]:
    errors = [
        FieldError(field, f"is unknown; allowed: {', '.join(catalog.models) or 'none'}")
        for field in ("model", "judge")
        if (name := getattr(request, field)) is not None and name not in catalog.models
    ]
    for field in ("targets", "start"):
        source = getattr(request, field)
        if isinstance(source, DatasetImages) and source.dataset not in catalog.datasets:
            known = ", ".join(catalog.datasets) or "none"
            errors.append(FieldError(f"{field}.dataset", f"is unknown; allowed: {known}"))
    return errors


def _items(request: InversionRequest, model: ModelCard, catalog: Catalog, session: Session) -> list[ItemPlan]:
    errors: list[FieldError] = []
    targets = _sources("targets", request.targets, request, model, catalog, session, errors)
    starts: list[dict[str, Any]]
    if isinstance(request.start, NoiseStart):
        starts = [request.start.model_dump()]
    else:
        starts = _sources("start", request.start, request, model, catalog, session, errors)
    if errors:
        raise InvalidInput(*errors)
    if len(starts) == 1:
        starts *= len(targets)
    return [ItemPlan(target, start) for target, start in zip(targets, starts, strict=True)]


def _sources(
    field: str,
    source: DatasetImages | UploadedImages,
    request: InversionRequest,
    model: ModelCard,
    catalog: Catalog,
    session: Session,
    errors: list[FieldError],
) -> list[dict[str, Any]]:
    """One entry an image; what is wrong goes into `errors`."""
    if isinstance(source, DatasetImages):
        return _from_dataset(field, source, model, catalog, request, errors)
    rows = {row.id: row for row in session.scalars(select(Image).where(Image.id.in_(set(source.images))))}
    entries = []
    for i, image_id in enumerate(source.images):
        row = rows.get(image_id)
        if row is None:
            errors.append(FieldError(f"{field}.images.{i}", "is unknown; post the image to /v1/images first"))
            continue
        resized = _resized(f"{field}.images.{i}", row.width, row.height, model, request, errors)
        entries.append({"source": "image", "image": image_id, "resized": resized, "label": None})
    return entries


def _from_dataset(
    field: str,
    source: DatasetImages,
    model: ModelCard,
    catalog: Catalog,
    request: InversionRequest,
    errors: list[FieldError],
) -> list[dict[str, Any]]:
    dataset = catalog.datasets[source.dataset]
    side = dataset.card.image_size
    resized = _resized(f"{field}.dataset", side, side, model, request, errors)
    entries = []
    for i, index in enumerate(source.indices):
        if index >= dataset.card.size:
            errors.append(FieldError(f"{field}.indices.{i}", f"is {index}; allowed: 0 to {dataset.card.size - 1}"))
            continue
        label = dataset.card.classes[dataset.labels[index]]
        entry = {"source": "dataset", "dataset": source.dataset, "index": index, "resized": resized, "label": label}
        entries.append(entry)
    return entries


def _resized(
    field: str, width: int, height: int, model: ModelCard, request: InversionRequest, errors: list[FieldError]
) -> str | None:
    size = model.input_size
    if request.resize == "refuse" and (width, height) != (size, size):
        message = f"is {width} x {height}; {model.name} takes {size} x {size}, and resize is 'refuse'"
        errors.append(FieldError(field, message))
    return images.describe_resize(width, height, size, request.resize)


def _warnings(parameters: InversionParameters, model: ModelCard) -> list[str]:
    warnings = []
    diagonal = math.sqrt(3 * model.input_size**2)
    if parameters.eps >= diagonal:
        warnings.append(
            f"eps {parameters.eps:g} never binds: no two images of {model.input_size} x {model.input_size}"
            f" pixels are further apart than {diagonal:.1f}"
        )
    if parameters.step_size >= 0.5 and model.input_size <= 64:
        warnings.append(
            f"step_size {parameters.step_size:g} is coarse for {model.input_size} x {model.input_size} pixels and"
            " leaves visible noise; the preset cifar takes 0.1"
        )
    if parameters.judge is None:
        warnings.append(f"{parameters.model} has no twin and no judge was named: results are not judged")
    return warnings
