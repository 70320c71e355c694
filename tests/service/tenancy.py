"""A service that asks for keys, with two tenants: one has something of every kind, the other tries to come at it."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import insert, select, update

from service.access import registry
from service.access.principal import Scope
from service.api.context import Context
from service.app import create_app, open_context
from service.db import now
from service.models import Artifact, Evaluation, Item, Job, RegisteredDataset, RegisteredModel
from service.settings import Settings
from service.states import ItemState
from tests.fixtures import inversion
from tests.service.doors import database_of
from tests.service.test_images import encode, noise

SECRET = "a secret of the server's, which is long enough"
IMAGE, CHECKPOINT, LINE = encode(noise()), b"a checkpoint", b'{"dataset": "cifar10-sample", "index": 0}'


@dataclass(frozen=True)
class Tenants:
    """`known` has what the first has, by the names of parameters in paths."""

    http: TestClient
    context: Context
    acme: dict[str, str]
    rival: dict[str, str]
    known: dict[str, str]

    def key(self, tenant: str, *scopes: Scope, seconds: float | None = None) -> dict[str, str]:
        """A new key, as a header."""
        return bearer(self.context, tenant, scopes or (Scope.READ, Scope.WRITE), seconds)


def bearer(context: Context, tenant: str, scopes: Any, seconds: float | None = None) -> dict[str, str]:
    with context.db.transaction() as session:
        made = registry.create_key(session, tenant, "", scopes, seconds, SECRET.encode())
    return {"Authorization": f"Bearer {made.text}"}


def posted(http: TestClient, headers: dict[str, str]) -> dict[str, str]:
    """Something of every kind that is posted."""

    def post(path: str, **body: Any) -> dict[str, Any]:
        answer = http.post(path, headers=headers, **body)
        assert answer.status_code in (201, 202), answer.text
        found: dict[str, Any] = answer.json()
        return found

    digest = hashlib.sha256(b"to come").hexdigest()
    hook = post("/v1/webhooks", json={"url": "http://127.0.0.1:1/"})["id"]
    return {
        "job_id": post("/v1/jobs", json=inversion())["id"],
        "image_id": post("/v1/images", content=IMAGE)["id"],
        "checkpoint": post("/v1/checkpoints", content=CHECKPOINT)["id"],
        "manifest_id": post("/v1/manifests", content=LINE)["id"],
        "upload_id": post("/v1/uploads", json={"kind": "manifest", "size": 7, "sha256": digest})["id"],
        "webhook_id": hook,
        "delivery_id": post(f"/v1/webhooks/{hook}/test")["id"],
    }


def _registered(context: Context, tenant: str) -> None:
    """A network and a data set, as a worker registers them."""
    model = context.catalog.models["cifar10-robust"].model_copy(update={"name": "secret-net", "digest": "1" * 64})
    card = context.catalog.datasets["cifar10-sample"].card.model_copy(update={"name": "secret-set"})
    with context.db.of(tenant).transaction() as session:
        at = session.scalars(select(now())).one()
        session.add(RegisteredModel(name="secret-net", digest="1" * 64, key="k", card=model.model_dump(mode="json"),
                                    created_at=at))  # fmt: skip
        session.add(RegisteredDataset(name="secret-set", digest=card.digest, location={"root": "bucket", "index": "k"},
                                      card=card.model_dump(mode="json"), created_at=at))  # fmt: skip


def _finished(context: Context, job_id: str) -> None:
    """The job's first item has succeeded, and has a file; its second has failed."""
    file = {"job_id": job_id, "item_index": 0, "name": "result.png", "key": f"jobs/{job_id}/x",
            "media_type": "image/png", "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}  # fmt: skip
    context.storage.put(f"jobs/{job_id}/x", b"x", "image/png")
    network = context.catalog.models["cifar10-robust"]
    with context.db.transaction() as session:
        session.add(Evaluation(job_id=job_id, model=network.name, model_digest=network.digest, summary={}, at=0.0,
                               dataset="cifar10-sample"))  # fmt: skip
        for index, state in enumerate((ItemState.SUCCEEDED, ItemState.FAILED)):
            this = (Item.job_id == job_id) & (Item.index == index)
            values = {"state": state, "finished_at": now(), "error": {"title": "Failed"} if index else None}
            session.execute(update(Item).where(this).values(values), execution_options={"synchronize_session": False})
        session.execute(insert(Artifact), [file])


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def tenants(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    folder: Path = tmp_path_factory.mktemp("tenants")
    values: dict[str, Any] = {"data_dir": folder, "webhook_private": True, "webhook_http": True, "auth": "on",
                              "secret_key": SECRET, "max_wrong_keys": 100_000}  # fmt: skip
    with ExitStack() as stack:
        values |= database_of(request, folder, stack)
        context = open_context(Settings(**values))
        stack.callback(context.close)
        http = stack.enter_context(TestClient(create_app(context.settings, context), raise_server_exceptions=True))
        with context.db.transaction() as session:
            for name in ("acme", "rival"):
                registry.create_tenant(session, name)
        acme, rival = (bearer(context, name, (Scope.READ, Scope.WRITE)) for name in ("acme", "rival"))
        known = posted(http, acme)
        _registered(context, "acme")
        _finished(context, known["job_id"])
        yield Tenants(http, context, acme, rival, known)


def jobs_of(context: Context, tenant: str) -> set[str]:
    with context.db.reading() as session:
        return set(session.scalars(select(Job.id).where(Job.tenant == tenant)))
