"""From a training request to its one item."""

from sqlalchemy.orm import Session

from service.catalog import Catalog
from service.errors import FieldError, InvalidInput
from service.kinds.planning import ItemPlan, Plan, size_taken, unknown, unlabelled
from service.settings import Settings
from service.training import NORMALISATION, Training, TrainingParameters

USUAL_SIZE = 224


def training(request: Training, catalog: Catalog, session: Session, settings: Settings) -> Plan:  # noqa: ARG001
    """Raises InvalidInput with every field that is wrong."""
    chosen = request.resolved()
    errors = _unknown(request, catalog)
    if errors:
        raise InvalidInput(*errors)
    card = catalog.datasets[request.dataset].card
    held_out = catalog.datasets[request.validation].card if request.validation else None
    errors += unlabelled("dataset", card) + (unlabelled("validation", held_out) if held_out else [])
    if len(card.classes) == 1:
        errors.append(FieldError("dataset", f"{card.name} has 1 class; allowed: 2 or more"))
    if held_out and held_out.classes != card.classes:
        errors.append(FieldError("validation", f"{held_out.name} has other classes than {card.name}"))
    if chosen["batch_size"] > card.size:
        errors.append(FieldError("batch_size", f"is {chosen['batch_size']}; allowed: at most {card.size}, all images"))
    if chosen["batch_size"] % request.processes:
        message = f"is {request.processes}; allowed: a divisor of batch_size, {chosen['batch_size']}"
        errors.append(FieldError("processes", message))
    size = request.input_size or card.image_size or USUAL_SIZE
    errors += size_taken(catalog, request.architecture, size)
    if chosen["augmentation"] == "cifar" and card.image_size != size:
        errors.append(FieldError("augmentation", f"cifar crops images of {size} x {size}; {card.name} has others"))
    if errors:
        raise InvalidInput(*errors)
    usual = NORMALISATION["imagenet"]
    parameters = TrainingParameters(
        dataset_digest=card.digest, validation_digest=held_out.digest if held_out else None, input_size=size,
        classes=card.classes, mean=card.mean or usual["mean"], std=card.std or usual["std"],
        steps=chosen["epochs"] * (card.size // chosen["batch_size"]),
        **request.model_dump(exclude={*chosen, "input_size"}), **chosen,
    )  # fmt: skip
    item = {"source": "training", "label": f"{request.architecture} on {card.name}"}
    return Plan(parameters, [ItemPlan(item, {"source": "training"})], _warnings(parameters))


def _unknown(request: Training, catalog: Catalog) -> list[FieldError]:
    errors = unknown(
        request, architecture=catalog.architectures, dataset=catalog.datasets, validation=catalog.datasets,
        twin=catalog.models, judge=catalog.models,
    )  # fmt: skip
    if request.name in catalog.models:
        errors.append(FieldError("name", f"{request.name} is registered already; choose another"))
    return errors


def _warnings(p: TrainingParameters) -> list[str]:
    warnings = []
    if p.validation is None:
        warnings.append("no validation data set is named: no accuracy is measured, and the card has none")
    if p.validation == p.dataset:
        warnings.append("the validation images are the training images: accuracies say nothing of new images")
    if p.eps and p.attack_steps * p.attack_step_size < p.eps:
        reach = p.attack_steps * p.attack_step_size
        warnings.append(f"the attack's steps together reach {reach:g}, less than its radius eps {p.eps:g}")
    if p.schedule != "step" and p.lr_drops:
        warnings.append(f"lr_drops has no effect under schedule {p.schedule}")
    return warnings
