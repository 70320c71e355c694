"""From a registration's request to its one item, which a worker checks."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.access.isolation import tenant_of
from service.access.places import is_readable, place
from service.catalog import Catalog
from service.errors import FieldError, InvalidInput
from service.kinds.planning import ItemPlan, Plan, allowed, size_taken, unknown, unlabelled
from service.models import Artifact, Job, Upload
from service.registration import (
    DatasetRegistration,
    ModelRegistration,
    ObjectSource,
    RegistrationParameters,
    TorchvisionSource,
    TrainedSource,
    UploadedSource,
)
from service.settings import Settings
from service.states import JobState

WEIGHTS = "model.safetensors"
MODEL, DATASET = "model_registration", "dataset_registration"


def model(request: ModelRegistration, catalog: Catalog, session: Session, _: Settings) -> Plan:
    """Raises InvalidInput with every field that is wrong."""
    errors = unknown(
        request, dataset=catalog.datasets, twin=catalog.models, judge=catalog.models, architecture=catalog.architectures
    )
    resolved = _source(request, session, catalog, errors)
    if request.name in catalog.models:
        errors.append(_taken(request.name))
    if isinstance(request.source, UploadedSource | ObjectSource) and request.architecture is None:
        message = f"is needed: a checkpoint does not tell; allowed: {allowed(catalog.architectures)}"
        errors.append(FieldError("architecture", message))
    if request.dataset is not None and request.dataset in catalog.datasets:
        card = catalog.datasets[request.dataset].card
        errors += unlabelled("dataset", card)
        named = request.classes or resolved.get("training", {}).get("classes")
        if named is not None and (lacking := set(card.classes) - set(named)):
            field = "classes" if request.classes else "dataset"
            errors.append(FieldError(field, f"the network lacks classes of {card.name}: {allowed(sorted(lacking))}"))
    elif request.least_accuracy:
        errors.append(FieldError("least_accuracy", "needs a dataset to be measured on"))
    errors += size_taken(catalog, resolved.get("architecture"), request.input_size)
    if (request.mean is None) != (request.std is None):
        errors.append(FieldError("std", "and mean go together"))
    if errors:
        raise InvalidInput(*errors)
    warnings = [] if request.dataset else ["no dataset is named: nobody checks that the network gets images right"]
    return _plan(MODEL, request, resolved, warnings)


def dataset(request: DatasetRegistration, catalog: Catalog, session: Session, settings: Settings) -> Plan:
    """Raises InvalidInput with every field that is wrong."""
    errors = [_taken(request.name)] if request.name in catalog.datasets else []
    if request.root == "folder" and settings.datasets_dir is None:
        errors.append(FieldError("root", "is 'folder', but this service has no datasets_dir; allowed: bucket"))
    errors += _path("path", request.path, tenant_of(session), request.root == "bucket")
    if request.balanced and request.format != "restricted_imagenet":
        errors.append(FieldError("balanced", f"has no place in format {request.format}"))
    if (request.mean is None) != (request.std is None):
        errors.append(FieldError("std", "and mean go together"))
    if errors:
        raise InvalidInput(*errors)
    return _plan(DATASET, request, {}, [])


def _plan(kind: str, request: Any, resolved: dict[str, Any], warnings: list[str]) -> Plan:
    parameters = RegistrationParameters(kind=kind, steps=1, request=request.model_dump(mode="json"), resolved=resolved)
    item = {"source": "registration", "label": request.name}
    return Plan(parameters, [ItemPlan(item, {"source": "registration"})], warnings)


def _taken(name: str) -> FieldError:
    return FieldError("name", f"{name} is registered already; choose another")


def _path(field: str, path: str, tenant: str | None, in_bucket: bool) -> list[FieldError]:
    if path.startswith("/") or ".." in path.split("/"):
        return [FieldError(field, f"is {path!r}; allowed: a path below the root, without ..")]
    if in_bucket and not is_readable(tenant, path):
        return [FieldError(field, f"is {path!r}; allowed in the bucket: a path that begins with {place(tenant)}")]
    return []


def _source(request: ModelRegistration, session: Session, catalog: Catalog, errors: list[FieldError]) -> dict[str, Any]:
    """The architecture, and where the checkpoint lies if the database knows; what is wrong is added to `errors`."""
    source = request.source
    if isinstance(source, TrainedSource):
        found = _trained(source, session, errors)
    elif isinstance(source, TorchvisionSource):
        found = {"architecture": source.weights.partition("_Weights")[0].lower()}
        if found["architecture"] not in catalog.architectures:
            errors.append(FieldError("source.weights", "are of an architecture that is unknown here"))
    elif isinstance(source, UploadedSource):
        found = {"architecture": request.architecture}
        if (upload := session.get(Upload, source.checkpoint)) is None:
            errors.append(FieldError("source.checkpoint", "is unknown; post the checkpoint to /v1/checkpoints first"))
        else:
            found["key"] = upload.key
    else:
        errors += _path("source.key", source.key, tenant_of(session), True)
        found = {"architecture": request.architecture, "key": source.key}
    if request.architecture not in (None, known := found.get("architecture")) and known:
        errors.append(FieldError("architecture", f"is {request.architecture}, but the source is a {known}"))
    return found


def _trained(source: TrainedSource, session: Session, errors: list[FieldError]) -> dict[str, Any]:
    job = session.get(Job, source.job)
    if job is None or job.kind != "training" or job.state != JobState.SUCCEEDED:
        found = "no such job" if job is None else f"a job of kind {job.kind}, {job.state}"
        errors.append(FieldError("source.job", f"is {found}; allowed: a training job that has succeeded"))
        return {}
    stored = select(Artifact.key).where(Artifact.job_id == job.id, Artifact.name == WEIGHTS)
    return {
        "key": session.scalar(stored), "architecture": job.parameters["architecture"], "training": job.parameters,
    }  # fmt: skip
