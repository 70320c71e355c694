"""Jobs over all of a data set's images, in runs, with one more item that puts the runs together."""

from sqlalchemy.orm import Session

from service import images
from service.cards import DatasetCard, ModelCard
from service.catalog import Catalog
from service.errors import FieldError, InvalidInput
from service.evaluation import ActivatingImages, ActivatingParameters, Evaluation, EvaluationParameters
from service.kinds.planning import ItemPlan, LayerPlanner, Plan, unknown, unlabelled
from service.settings import Settings

CONTROL_STEPS = 31
"""Forward passes of the controls: 10 draws of noise, PGD-20."""


def evaluation(request: Evaluation, catalog: Catalog, _: Session, settings: Settings) -> Plan:
    """Raises InvalidInput."""
    errors = unknown(request, model=catalog.models, dataset=catalog.datasets)
    if errors:
        raise InvalidInput(*errors)
    model, card = catalog.models[request.model], catalog.datasets[request.dataset].card
    class_of, warnings = _classes(model, card)
    preset = request.PRESETS[request.preset]
    chosen = {name: preset[name] if getattr(request, name) is None else getattr(request, name) for name in preset}
    names = [(a.kind, a.steps, a.restarts, a.step_size) for a in chosen["attacks"]]
    if len(set(names)) < len(names):
        raise InvalidInput(FieldError("attacks", "names an attack twice"))
    controls = request.controls and bool(chosen["attacks"])
    runs = [a.restarts * (min(9, len(model.classes) - 1) if a.kind == "apgd-t" else 1) for a in chosen["attacks"]]
    steps = sum((a.steps + 1) * run for a, run in zip(chosen["attacks"], runs, strict=True))
    if steps > settings.max_steps:
        message = f"take {steps:,} steps in all, restarts and targets included; allowed: {settings.max_steps:,}"
        raise InvalidInput(FieldError("attacks", message))
    parameters = EvaluationParameters(
        kind=request.kind, steps=1 + steps + (CONTROL_STEPS if controls else 0), preset=request.preset,
        precision=request.precision, class_of=class_of, controls=controls,
        **_common(request, model, card, request.images), **chosen,
    )  # fmt: skip
    warnings += _resized(request, model, card)
    return Plan(parameters, _runs(parameters.images, settings), warnings, settings.shard_items, _LAST)


def activating_images(request: ActivatingImages, catalog: Catalog, session: Session, settings: Settings) -> Plan:
    """Raises InvalidInput."""
    planner = LayerPlanner(request, catalog, session, settings)
    directions = planner.directions(request, request.seed)
    card = catalog.datasets[request.dataset].card
    if 2 * request.k > card.size:
        planner.refuse("k", f"is {request.k}; allowed: at most {card.size // 2}, half of the data set")
    if len(directions) > settings.max_items:
        planner.refuse("body", f"names {len(directions)} directions; allowed: {settings.max_items}")
    planner.raise_errors()
    parameters = ActivatingParameters(
        kind=request.kind, steps=1, layer=request.layer, pool=request.pool, k=request.k, directions=directions,
        **_common(request, planner.model, card, None),
    )  # fmt: skip
    warnings = _resized(request, planner.model, card)
    return Plan(parameters, _runs(parameters.images, settings), warnings, settings.shard_items, _LAST)


_LAST = ItemPlan({"source": "summary", "label": "all images"}, {"source": "summary"})


def _common(request: Evaluation | ActivatingImages, model: ModelCard, card: DatasetCard, wanted: int | None) -> dict:  # type: ignore[type-arg]
    return {
        "model": model.name, "model_digest": model.digest, "dataset": card.name, "dataset_digest": card.digest,
        "resize": request.resize, "seed": request.seed, "images": min(wanted or card.size, card.size),
    }  # fmt: skip


def _runs(count: int, settings: Settings) -> list[ItemPlan]:
    """An item for each run of images. Raises InvalidInput if they are too many."""
    size = settings.evaluation_images
    if -(-count // size) > settings.max_items:
        raise InvalidInput(FieldError("dataset", f"has {count} images; allowed: {size * settings.max_items}"))
    return [
        ItemPlan(
            {"source": "run", "first": first, "count": min(size, count - first),
             "label": f"images {first} to {min(first + size, count) - 1}"},
            {"source": "run"},
        )
        for first in range(0, count, size)
    ]  # fmt: skip


def _classes(model: ModelCard, card: DatasetCard) -> tuple[list[int], list[str]]:
    """The network's class for each of the data set's, by name or else by place. Raises InvalidInput."""
    if errors := unlabelled("dataset", card):
        raise InvalidInput(*errors)
    if set(card.classes) <= set(model.classes):
        return [model.classes.index(name) for name in card.classes], []
    moved = [n for n, other in zip(card.classes, model.classes, strict=False) if n != other and n in model.classes]
    if (ours := len(card.classes)) != (theirs := len(model.classes)):
        raise InvalidInput(FieldError("dataset", f"has {ours} classes and {model.name} {theirs}, with other names"))
    if moved:
        message = f"names other classes than {model.name}, and {moved[0]} stands at another place: they have no order"
        raise InvalidInput(FieldError("dataset", message))
    return list(range(ours)), [f"{card.name} and {model.name} name their classes differently: they are taken in order"]


def _resized(request: Evaluation | ActivatingImages, model: ModelCard, card: DatasetCard) -> list[str]:
    """What becomes of images of another size. Raises InvalidInput if the request refuses them."""
    side, size = card.image_size, model.input_size
    if side == size:
        return []
    found = f"images are {f'{side} x {side}' if side else 'of several sizes'} and {model.name} takes {size} x {size}"
    if request.resize == "refuse":
        raise InvalidInput(FieldError("resize", f"is 'refuse', but {found}"))
    how = images.describe_resize(side, side, size, request.resize) if side else request.resize
    return [f"{found}: {how}"]
