"""Training jobs on the embedded service: networks that jobs can name, whatever dies on the way."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from service.catalog import ShippedDataset
from service.client import Client
from service.joblog import Event
from service.models import Item
from service.recipe_cli import connected
from service.settings import Settings
from service.storage import StorageError
from service.training import TrainingParameters
from workers.engine import models
from workers.engine.datasets import to_float
from workers.recipes.following import Keeper
from workers.training import drawn

SAMPLE = "cifar10-sample"
STANDARD: dict[str, Any] = {
    "kind": "training", "architecture": "cifar-resnet-slim", "dataset": SAMPLE, "preset": "cifar-small", "eps": 0.0,
    "epochs": 2, "batch_size": 100, "lr": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sets")


@pytest.fixture(scope="module")
def client(folder: Path, data_dir: Path) -> Iterator[Client]:
    """A service over a folder of data sets."""
    settings = Settings(
        data_dir=data_dir, datasets_dir=folder, port=0, heartbeat_seconds=0.2, lease_seconds=60, reconcile_seconds=0.5,
        retry_seconds=0.5,
    )  # fmt: skip
    with connected(None, settings) as client:
        yield client


def registered(client: Client, **body: Any) -> None:
    job = client.request("POST", "/v1/datasets", json=body).json()
    assert client.wait(job["id"], timeout=240, interval=0.1)["state"] == "succeeded"


def ended(client: Client, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job and its item."""
    job = client.wait(client.submit(**STANDARD | changes)["id"], timeout=240, interval=0.1)
    return job, next(client.items(job["id"]))


def digest(client: Client, item: dict[str, Any]) -> str:
    card: dict[str, Any] = json.loads(client.artifact(item, "card.json"))
    assert models.digest(load(client.artifact(item, "model.safetensors"))) == card["digest"]
    return str(card["digest"])


def running() -> list[int]:
    """The processes that train for the service in this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            *words, folder, _ = (path / "cmdline").read_text().split("\0")
            if words[-2:] != ["-m", "workers.training"]:
                continue
            job = json.loads((Path(folder) / "job.json").read_text())
        except (OSError, ValueError):
            continue
        if job["worker"] == os.getpid() and "torch.distributed.run" not in words:
            found.append(int(path.name))
    return found


def until(condition: Callable[[], Any], seconds: float = 240) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return found


@pytest.mark.slow
def test_a_robust_network_is_trained_measured_registered_and_can_be_named(client: Client) -> None:
    job, item = ended(
        client, eps=1.0, epochs=1, validation=SAMPLE, evaluation_images=30, name="mine", precision="bf16", ema=0.9
    )
    assert job["state"] == "succeeded", item["error"]
    assert (job["progress"]["steps_done"], job["progress"]["curve_of"]) == (4, "loss")
    card = client.request("GET", "/v1/models/mine").json()
    assert (card["digest"], card["epsilon"], card["test_images"]) == (digest(client, item), 1.0, 30)
    weights = load(client.request("GET", "/v1/models/mine/weights").content)
    network = models.load("cifar-resnet-slim", weights)
    (evaluation,) = client.request("GET", "/v1/models/mine/evaluations").json()["evaluations"]
    assert evaluation["summary"]["images"] == 30
    assert evaluation["summary"]["clean"]["accuracy"] == card["clean_accuracy"] == item["metrics"]["clean_accuracy"]
    assert card["pgd20_accuracy"] <= card["clean_accuracy"]
    (epoch,) = client.request("GET", f"/v1/jobs/{job['id']}/epochs").json()["epochs"]
    assert epoch["epoch"] == 1
    assert {"train_loss", "train_accuracy", "lr", "images_per_second", "data_wait", "clean_accuracy",
            "pgd10_accuracy"} <= epoch["metrics"].keys()  # fmt: skip
    study = client.submit(
        kind="inversion", model="mine", preset="cifar", steps=2,
        targets={"source": "dataset", "dataset": SAMPLE, "indices": [0]},
    )  # fmt: skip
    study = client.wait(study["id"], timeout=240, interval=0.05)
    assert study["state"] == "succeeded"
    found = load(client.artifact(next(client.items(study["id"])), "result.safetensors"))
    with torch.no_grad():
        expected = network.represent(to_float((found["target"][None] * 255).round().to(torch.uint8)))
    torch.testing.assert_close(found["target_representation"], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_run_whose_process_is_killed_goes_on_and_ends_with_the_same_weights(client: Client) -> None:
    _, unbroken = ended(client, epochs=4)
    job = client.submit(**STANDARD | {"epochs": 4, "checkpoint_seconds": 1})
    until(lambda: client.request("GET", f"/v1/jobs/{job['id']}/epochs").json()["epochs"])
    (victim,) = running()
    os.kill(victim, signal.SIGKILL)
    job = client.wait(job["id"], timeout=240, interval=0.1)
    item = next(client.items(job["id"]))
    assert job["state"] == "succeeded", item["error"]
    assert item["provenance"]["epoch"] > 1, "a later claim ended it"
    assert digest(client, item) == digest(client, unbroken)
    epochs = client.request("GET", f"/v1/jobs/{job['id']}/epochs").json()["epochs"]
    assert [each["epoch"] for each in epochs] == [1, 2, 3, 4]


@pytest.mark.slow
def test_two_processes_train_the_network_of_one(client: Client) -> None:
    (_, one), (_, two) = (ended(client, epochs=1, processes=processes) for processes in (1, 2))
    assert two["provenance"]["processes"] == 2
    alone, shared = (load(client.artifact(item, "model.safetensors")) for item in (one, two))
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=2e-3, atol=2e-4)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_job_in_words_and_is_not_tried_again(client: Client) -> None:
    job, item = ended(client, lr=100.0, weight_decay=1.0, momentum=0.99, schedule="constant", epochs=50)
    assert job["state"] == "failed"
    assert item["error"]["title"] == "Training diverged"
    assert "the last checkpoint is kept" in item["error"]["detail"]
    assert running() == []
    epochs = client.request("GET", f"/v1/jobs/{job['id']}/epochs").json()["epochs"]
    assert all(np.isfinite(each["metrics"]["train_loss"]) for each in epochs)


@pytest.mark.slow
def test_a_cancelled_run_ends_its_process(client: Client) -> None:
    job = client.submit(**STANDARD | {"epochs": 1000})
    until(lambda: client.job(job["id"])["progress"]["steps_done"] > 0)
    client.request("POST", f"/v1/jobs/{job['id']}/cancel")
    assert client.wait(job["id"], timeout=240, interval=0.1)["state"] == "cancelled"
    until(lambda: not running())


@pytest.mark.slow
def test_a_name_that_is_taken_meanwhile_does_not_lose_the_network(client: Client) -> None:
    first, second = (client.submit(**STANDARD | {"epochs": 1, "name": "wanted"}) for _ in range(2))
    names = []
    for job in (first, second):
        assert client.wait(job["id"], timeout=240, interval=0.1)["state"] == "succeeded"
        names.append(next(client.items(job["id"]))["metrics"]["model"])
    assert names == ["wanted", f"cifar-resnet-slim-{second['id'][4:12]}"]
    assert {"wanted", names[1]} <= {card["name"] for card in client.request("GET", "/v1/models").json()}


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_keeps_its_checkpoint_and_goes_on_from_it(client: Client) -> None:
    job = client.submit(**STANDARD | {"epochs": 1000})
    until(lambda: client.job(job["id"])["progress"]["steps_done"] > 0)
    (process,) = running()
    os.kill(process, signal.SIGTERM)  # as the worker does when it drains
    until(lambda: process not in running())
    until(lambda: running())  # the shard is claimed again
    until(lambda: client.job(job["id"])["progress"]["steps_done"] > 0)
    item = next(client.items(job["id"]))
    assert item["checkpoint"]["step"] > 0
    client.request("POST", f"/v1/jobs/{job['id']}/cancel")
    client.wait(job["id"], timeout=240)


def test_a_checkpoint_that_cannot_be_stored_does_not_end_the_run(tmp_path: Path) -> None:
    """The keeper alone: what is newest when the storage works again is what is kept."""
    stored: list[int] = []

    class Failing:
        def checkpoint(self, _: int, path: Path, step: int) -> None:
            assert path.read_text() == str(step)
            if step < 3:
                raise StorageError("the disk is full")
            stored.append(step)

        def note(self, event: Event, why: str) -> None:
            noted.append((event, why))

    noted: list[tuple[Event, str]] = []
    keeper = Keeper(cast(Any, Failing()), Item(index=0), tmp_path)
    for step in (1, 2, 3):
        (tmp_path / "new").write_text(str(step))
        (tmp_path / "new").replace(tmp_path / "checkpoint.pt")
        keeper.offer(step)
        until(lambda: not keeper.busy())
    assert stored == [3]
    assert noted == [(Event.CHECKPOINT_LOST, "it was not kept: the disk is full")] * 2


def test_accuracies_after_an_epoch_are_of_images_from_all_over_the_data_set() -> None:
    p = cast(TrainingParameters, SimpleNamespace(evaluation_images=None, seed=0))
    many = cast(Any, SimpleNamespace(card=SimpleNamespace(size=10_000)))
    chosen = drawn(many, p, 500)
    assert len(set(chosen)) == 500
    assert min(chosen) < 200
    assert max(chosen) > 9_800
    assert len(drawn(many, p, None)) == 10_000


@pytest.mark.slow
def test_images_that_cannot_be_read_are_left_out_of_the_accuracies_and_named_in_training(
    client: Client, folder: Path
) -> None:
    sample = ShippedDataset(Settings().assets_dir / "datasets" / SAMPLE)
    for i in range(40):
        path = folder / "files" / sample.card.classes[sample.labels[i]] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.images[i]).save(path)
    registered(client, name="files", format="image_folder", path="files")
    bad = next((folder / "files" / "dog").iterdir())
    bad.write_bytes(b"x" * bad.stat().st_size)
    job, item = ended(client, epochs=1, validation="files")
    assert job["state"] == "succeeded", item["error"]
    assert json.loads(client.artifact(item, "card.json"))["test_images"] == 39
    job, item = ended(client, epochs=1, dataset="files", batch_size=40)
    assert (job["state"], item["error"]["title"]) == ("failed", "Cannot be trained")
    assert "of files cannot be read" in item["error"]["detail"]


@pytest.mark.slow
def test_a_process_trains_one_network_at_a_time_and_loses_neither(client: Client) -> None:
    jobs = [client.submit(**STANDARD | {"epochs": 1, "seed": seed, "validation": None})["id"] for seed in (1, 2)]
    spans = []
    for job_id in jobs:
        job = client.wait(job_id, timeout=240, interval=0.1)
        assert job["state"] == "succeeded"
        spans.append([at["at"] for at in job["transitions"] if at["state"] in ("running", "finalizing")])
    (_, first_ends), (second_begins, _) = sorted(spans)
    assert first_ends <= second_begins
