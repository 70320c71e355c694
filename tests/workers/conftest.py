"""One embedded service for all the tests of a module, and what they ask of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load
from torch import Tensor

from service.client import Client
from service.recipe_cli import connected
from service.settings import Settings

Items = list[dict[str, Any]]
Run = Callable[..., Items]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def client(data_dir: Path) -> Iterator[Client]:
    settings = Settings(data_dir=data_dir, port=0, heartbeat_seconds=0.2, lease_seconds=60, reconcile_seconds=0.5)
    with connected(None, settings) as client:
        yield client


@pytest.fixture(scope="module")
def run(client: Client) -> Run:
    """Submit a small study, wait, and answer its items; it must succeed."""

    def run(kind: str, **body: Any) -> Items:
        whole: dict[str, Any] = {"kind": kind, "model": "cifar10-robust", "preset": "cifar", "steps": 20} | body
        job = client.submit(**whole)
        job = client.wait(job["id"], timeout=240, interval=0.05)
        items = list(client.items(job["id"]))
        assert job["state"] == "succeeded", [item["error"] for item in items]
        return items

    return run


@pytest.fixture(scope="module")
def tensors(client: Client) -> Callable[[dict[str, Any]], dict[str, Tensor]]:
    return lambda item: load(client.artifact(item, "result.safetensors"))
