"""One embedded service for all the tests of a module, a finished job, and the command line as a process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from service.client import Client
from service.recipe_cli import connected
from service.settings import Settings
from tests.fixtures import inversion
from tests.service.test_images import noise

ROBUSTREPS = Path(sys.executable).with_name("robustreps")


class Command(Protocol):
    def __call__(
        self, *arguments: str, stdin: str | None = None, **settings: str
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The service's settings."""
    folder = tmp_path_factory.mktemp("datasets")
    (folder / "plain").mkdir()
    noise(size=(32, 32)).save(folder / "plain" / "a.png")
    return Settings(
        data_dir=tmp_path_factory.mktemp("service"), datasets_dir=folder, port=0, heartbeat_seconds=0.2,
        lease_seconds=60, reconcile_seconds=0.5, webhook_http=True, webhook_private=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def client(installed: Settings) -> Iterator[Client]:
    with connected(None, installed) as client:
        yield client


@pytest.fixture(scope="module")
def done(client: Client) -> dict[str, Any]:
    """A job of three items that has succeeded."""
    job = client.wait(client.submit(**inversion()), timeout=240, interval=0.05)
    assert job["state"] == "succeeded"
    return job


@pytest.fixture(scope="module")
def torn(client: Client, installed: Settings) -> dict[str, Any]:
    """A job of three items the second of which has failed: its image was lost."""
    image = client.upload(noise(size=(32, 32)))
    (installed.data_dir / "objects" / "images" / image.removeprefix("sha256:")).unlink()
    targets = ["cifar10-sample:0", {"source": "images", "images": [image]}, "cifar10-sample:2"]
    job = client.wait(client.submit(inversion(), targets=targets), timeout=240, interval=0.05)
    assert job["state"] == "partially_succeeded"
    return job


@pytest.fixture(scope="module")
def reused(client: Client, done: dict[str, Any]) -> dict[str, Any]:
    """A bulk job of four items, three of which were taken over from `done`, and its table."""
    targets = {"source": "dataset", "dataset": "cifar10-sample", "indices": [0, 1, 2, 3]}
    job = client.wait(client.submit(inversion(), targets=targets, reuse=True), timeout=240, interval=0.05)
    assert (job["state"], job["planning"]["reused"]) == ("succeeded", done["items"]["total"])
    return job


@pytest.fixture
def command(client: Client, tmp_path: Path) -> Command:
    """`robustreps`, run on that service in a folder of the test's own."""

    def command(*arguments: str, stdin: str | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
        own = {"ROBUSTREPS_API": client.url} | {f"ROBUSTREPS_{name.upper()}": v for name, v in settings.items()}
        return subprocess.run(
            [ROBUSTREPS, *arguments], cwd=tmp_path, env=os.environ | {"COLUMNS": "200"} | own, input=stdin,
            capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip

    return command
