"""Training jobs on the embedded service: networks that jobs can name, whatever dies on the way."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from service.client import Client
from tests.fixtures import LiveService
from workers.engine import models
from workers.engine.datasets import to_float

SAMPLE = "cifar10-sample"
STANDARD: dict[str, Any] = {
    "kind": "training", "architecture": "cifar-resnet-slim", "dataset": SAMPLE, "preset": "cifar-small", "eps": 0.0,
    "epochs": 2, "batch_size": 100, "lr": 0.1,
}  # fmt: skip


def ended(client: Client, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job and its item."""
    job = client.wait(client.submit(**STANDARD | changes)["id"], timeout=200, interval=0.1)
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


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
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
    study = client.wait(study["id"], timeout=60, interval=0.05)
    assert study["state"] == "succeeded"
    found = load(client.artifact(next(client.items(study["id"])), "result.safetensors"))
    with torch.no_grad():
        expected = network.represent(to_float((found["target"][None] * 255).round().to(torch.uint8)))
    torch.testing.assert_close(found["target_representation"], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_run_whose_process_is_killed_goes_on_and_ends_with_the_same_weights(client: Client) -> None:
    _, unbroken = ended(client, epochs=6)
    job = client.submit(**STANDARD | {"epochs": 6, "checkpoint_seconds": 1})
    until(lambda: client.request("GET", f"/v1/jobs/{job['id']}/epochs").json()["epochs"])
    (victim,) = running()
    os.kill(victim, signal.SIGKILL)
    job = client.wait(job["id"], timeout=200, interval=0.1)
    item = next(client.items(job["id"]))
    assert job["state"] == "succeeded", item["error"]
    assert item["provenance"]["epoch"] > 1, "a later claim ended it"
    assert digest(client, item) == digest(client, unbroken)
    epochs = client.request("GET", f"/v1/jobs/{job['id']}/epochs").json()["epochs"]
    assert [each["epoch"] for each in epochs] == [1, 2, 3, 4, 5, 6]


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
    assert client.request("GET", f"/v1/jobs/{job['id']}/epochs").json()["epochs"] == []


@pytest.mark.slow
def test_a_cancelled_run_ends_its_process(client: Client) -> None:
    job = client.submit(**STANDARD | {"epochs": 1000})
    until(lambda: client.job(job["id"])["progress"]["steps_done"] > 0)
    client.request("POST", f"/v1/jobs/{job['id']}/cancel")
    assert client.wait(job["id"], timeout=60, interval=0.1)["state"] == "cancelled"
    until(lambda: not running())


@pytest.mark.slow
def test_a_name_that_is_taken_meanwhile_does_not_lose_the_network(client: Client) -> None:
    first, second = (client.submit(**STANDARD | {"epochs": 1, "name": "wanted"}) for _ in range(2))
    names = []
    for job in (first, second):
        assert client.wait(job["id"], timeout=100, interval=0.1)["state"] == "succeeded"
        names.append(next(client.items(job["id"]))["metrics"]["model"])
    assert names == ["wanted", f"cifar-resnet-slim-{second['id'][4:12]}"]
    assert {"wanted", names[1]} <= {card["name"] for card in client.request("GET", "/v1/models").json()}


@pytest.mark.slow
def test_a_service_that_shuts_down_keeps_the_checkpoint_and_goes_on_from_it(live_service: LiveService) -> None:
    client = live_service.client
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
    client.wait(job["id"], timeout=60)
