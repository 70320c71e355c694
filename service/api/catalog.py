"""/v1/models, /v1/datasets, /v1/architectures: what jobs can name, and how to register more."""

import io

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from PIL import Image

from service import cards, queries, responses
from service.api.artifacts import Part, sent
from service.api.context import Client, Context, Ctx, Id, Index, Key, submit
from service.catalog import Dataset
from service.errors import NotFound
from service.kinds import registration
from service.objects import pieces
from service.registration import DatasetRegistration, ModelRegistration

router = APIRouter(prefix="/v1", tags=["catalog"])


def _model(ctx: Context, name: str) -> cards.ModelCard:
    models = ctx.catalog.latest(ctx.db).models
    if name not in models:
        raise NotFound(f"no model {name}")
    card: cards.ModelCard = models[name]
    return card


def _dataset(ctx: Context, name: str) -> Dataset:
    datasets = ctx.catalog.latest(ctx.db).datasets
    if name not in datasets:
        raise NotFound(f"no data set {name}")
    dataset: Dataset = datasets[name]
    return dataset


@router.post("/models", status_code=202, response_model=responses.Job)
def register_model(body: ModelRegistration, ctx: Ctx, client: Client, idempotency_key: Key = None) -> Response:
    """Register a network: a worker loads and checks it, and once the job has succeeded other jobs can name it."""
    return submit(ctx, body, idempotency_key, client, registration.MODEL).answer(ctx)


@router.get("/models")
def list_models(ctx: Ctx) -> list[cards.ModelCard]:
    """Those that jobs can name: shipped, and registered since."""
    return list(ctx.catalog.latest(ctx.db).models.values())


@router.get("/models/{name}")
def get_model(name: Id, ctx: Ctx) -> cards.ModelCard:
    """Its card."""
    return _model(ctx, name)


@router.get("/models/{name}/evaluations")
def list_evaluations(name: Id, ctx: Ctx) -> responses.EvaluationList:
    """What evaluation jobs, and the end of its training, measured of it; newest first, at most 100."""
    card = _model(ctx, name)
    with ctx.db.reading() as session:
        return queries.evaluations(session, card.digest)


@router.get("/models/{name}/weights", response_class=Response)
def get_weights(name: Id, ctx: Ctx, byte_range: Part = None) -> Response:
    """The weights as safetensors."""
    card = _model(ctx, name)
    headers = {"Content-Disposition": f'attachment; filename="{name}.safetensors"'}
    if key := ctx.catalog.stored.get(card.digest):
        return sent(ctx, key, None, ctx.storage.stat(key), "application/octet-stream", headers, byte_range)
    path = ctx.catalog.weights(name)
    headers["Content-Length"] = str(path.stat().st_size)
    # No FileResponse, which answers a malformed Range with 400.
    return StreamingResponse(pieces(path), media_type="application/octet-stream", headers=headers)


@router.post("/datasets", status_code=202, response_model=responses.Job)
def register_dataset(body: DatasetRegistration, ctx: Ctx, client: Client, idempotency_key: Key = None) -> Response:
    """Register a data set: a worker counts and checks it, and once the job has succeeded other jobs can name it."""
    return submit(ctx, body, idempotency_key, client, registration.DATASET).answer(ctx)


@router.get("/datasets")
def list_datasets(ctx: Ctx) -> list[cards.DatasetCard]:
    """Those that jobs can name: shipped, and registered since."""
    return [dataset.card for dataset in ctx.catalog.latest(ctx.db).datasets.values()]


@router.get("/datasets/{name}")
def get_dataset(name: Id, ctx: Ctx) -> cards.DatasetCard:
    """Its card."""
    return _dataset(ctx, name).card


@router.get("/datasets/{name}/images/{index}", response_class=Response)
def get_dataset_image(name: Id, index: Index, ctx: Ctx) -> Response:
    """An image of the data set as PNG."""
    dataset = _dataset(ctx, name)
    if index >= dataset.card.size:
        raise NotFound(f"no image {index} in {name}, which has {dataset.card.size}")
    file = io.BytesIO()
    Image.fromarray(dataset.image(index)).save(file, "PNG")
    return Response(file.getvalue(), media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})


@router.get("/architectures")
def list_architectures(ctx: Ctx) -> dict[str, cards.Architecture]:
    """What can be trained, and what checkpoints can be loaded into, by name."""
    return dict(ctx.catalog.architectures)
