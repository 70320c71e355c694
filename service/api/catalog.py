"""/v1/models and /v1/datasets: what jobs can name."""

from fastapi import APIRouter

from service import schemas
from service.api.context import Ctx
from service.errors import NotFound

router = APIRouter(prefix="/v1", tags=["catalog"])


@router.get("/models")
def list_models(ctx: Ctx) -> list[schemas.ModelCard]:
    return list(ctx.catalog.models.values())


@router.get("/models/{name}")
def get_model(name: str, ctx: Ctx) -> schemas.ModelCard:
    if name not in ctx.catalog.models:
        raise NotFound(f"no model {name}")
    return ctx.catalog.models[name]


@router.get("/datasets")
def list_datasets(ctx: Ctx) -> list[schemas.DatasetCard]:
    return [dataset.card for dataset in ctx.catalog.datasets.values()]


@router.get("/datasets/{name}")
def get_dataset(name: str, ctx: Ctx) -> schemas.DatasetCard:
    if name not in ctx.catalog.datasets:
        raise NotFound(f"no data set {name}")
    return ctx.catalog.datasets[name].card
