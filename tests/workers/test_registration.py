"""Networks and data sets registered on the embedded service: what is sound can be named, what is not is refused."""

import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file, save
from torch import Tensor

from service.catalog import ShippedDataset
from service.client import Client
from service.recipe_cli import connected
from service.settings import Settings
from tests.service.datafiles import shard
from workers.engine import models
from workers.loading import published_size

ASSETS = Settings().assets_dir
SAMPLE = ShippedDataset(ASSETS / "datasets" / "cifar10-sample")
WEIGHTS = ASSETS / "models" / "cifar10-robust" / "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    """A service over a folder of data sets and a folder of torchvision's weights."""
    (folder / "sets").mkdir()
    (folder / "weights").mkdir()
    settings = Settings(
        data_dir=folder / "data", datasets_dir=folder / "sets", weights_dir=folder / "weights", port=0,
        heartbeat_seconds=0.2, lease_seconds=60, reconcile_seconds=0.5,
    )  # fmt: skip
    with connected(None, settings) as client:
        yield client


def ended(client: Client, path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The state of a registration's job, and its item."""
    job = client.request("POST", path, json=body).json()
    job = client.wait(job["id"], timeout=240, interval=0.05)
    return job["state"], next(client.items(job["id"]))


def upload(client: Client, data: bytes) -> dict[str, Any]:
    return {"source": "upload", "checkpoint": client.request("POST", "/v1/checkpoints", content=data).json()["id"]}


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def model(client: Client, name: str, data: bytes, **changes: Any) -> tuple[str, dict[str, Any]]:
    body = {"name": name, "architecture": "cifar-resnet-small", "dataset": "cifar10-sample"}
    return ended(client, "/v1/models", body | {"source": upload(client, data)} | changes)


def robustness_library(state: dict[str, Tensor]) -> dict[str, Any]:
    """As the library of that name would have saved it."""
    normalizer = {"normalizer.new_mean": state["mean"], "normalizer.new_std": state["std"]}
    bare = {f"model.{n}": v for n, v in state.items() if n not in ("mean", "std")}
    copies = {f"module.attacker.{n}": v for n, v in bare.items()}
    return {"model": {f"module.{n}": v for n, v in (normalizer | bare).items()} | copies, "epoch": 3}


@pytest.mark.slow
def test_every_format_of_a_checkpoint_becomes_the_same_network(client: Client) -> None:
    state = load_file(WEIGHTS)
    files = {"safetensors": save(state), "state-dict": saved(state), "robustness": saved(robustness_library(state))}
    for name, data in files.items():
        end, item = model(client, name, data)
        assert end == "succeeded", item["error"]
        card = client.request("GET", f"/v1/models/{name}").json()
        assert (card["digest"], card["features"], card["format"]) == (models.digest(state), 192, name)
        assert card["classes"] == SAMPLE.card.classes
        assert item["metrics"]["sample_accuracy"] > 0.6
    stored = load(client.request("GET", "/v1/models/robustness/weights").content)
    assert models.digest(stored) == models.digest(state)
    study = client.submit(
        kind="inversion", model="robustness", preset="cifar", steps=2,
        targets={"source": "dataset", "dataset": "cifar10-sample", "indices": [0]},
    )  # fmt: skip
    assert client.wait(study["id"], timeout=240, interval=0.05)["state"] == "succeeded"


def wrecked(**changes: Any) -> dict[str, Tensor]:
    return load_file(WEIGHTS) | changes


SPOILED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no normalisation": (
        wrecked(mean=torch.zeros(1, 3, 1, 1), std=torch.ones(1, 3, 1, 1)), {}, "normalised wrongly"),
    "normalised twice": (
        wrecked(mean=load_file(WEIGHTS)["mean"] * 1.2, std=load_file(WEIGHTS)["std"] ** 2), {}, "normalised wrongly"),
    "classes in another order": (load_file(WEIGHTS), {"classes": SAMPLE.card.classes[::-1]}, "no more than chance"),
    "another architecture": (load_file(WEIGHTS), {"architecture": "resnet18"}, "These weights fit cifar-resnet-small"),
    "too few classes named": (
        load_file(WEIGHTS), {"dataset": None, "classes": ["a", "b"]}, "tells 10 classes apart, and 2 are named"),
    "less accurate than asked": (load_file(WEIGHTS), {"least_accuracy": 0.99}, "less than least_accuracy, 99.0%"),
    "a weight that is missing": (
        {n: v for n, v in load_file(WEIGHTS).items() if n != "linear.bias"}, {}, "missing: linear.bias"),
    "not finite": (wrecked(**{"linear.bias": torch.full((10,), torch.nan)}), {}, "linear.bias"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", SPOILED)
def test_a_network_that_is_not_what_it_should_be_is_refused_in_words(client: Client, case: str) -> None:
    state, changes, said = SPOILED[case]
    end, item = model(client, "spoiled", saved(state), **changes)
    assert (end, item["error"]["title"]) == ("failed", "Model refused")
    assert said in item["error"]["detail"]
    assert "spoiled" not in [card["name"] for card in client.request("GET", "/v1/models").json()]


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.slow
def test_a_malicious_pickle_runs_nothing(client: Client, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for data in (pickle.dumps(Malicious(mark)), saved({"model": Malicious(mark)})):
        end, item = model(client, "malicious", data)
        assert (end, item["error"]["title"]) == ("failed", "Model refused")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Malicious(mark)))
    assert mark.exists(), "the case needs a pickle that would"


@pytest.mark.slow
def test_torchvisions_weights_are_read_from_a_file_of_their_name(client: Client, folder: Path) -> None:
    from torchvision.models import ResNet18_Weights, resnet18

    body = {"name": "tv", "source": {"source": "torchvision", "weights": "ResNet18_Weights.IMAGENET1K_V1"}}
    (folder / "weights" / Path(ResNet18_Weights.IMAGENET1K_V1.url).name).write_bytes(saved(resnet18().state_dict()))
    end, item = ended(client, "/v1/models", body)
    assert end == "succeeded", item["error"]
    card = client.request("GET", "/v1/models/tv").json()
    assert (card["architecture"], card["features"], card["input_size"]) == ("resnet18", 512, 224)
    assert card["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert len(set(card["classes"])) == 1000
    end, item = ended(client, "/v1/models", {
        "name": "tv2", "source": {"source": "torchvision", "weights": "ResNet18_Weights.IMAGENET1K_V9"}})  # fmt: skip
    assert (end, "allowed: ResNet18_Weights.IMAGENET1K_V1" in item["error"]["detail"]) == ("failed", True)


def test_weights_that_torchvision_publishes_for_another_size_are_tried_at_it() -> None:
    assert published_size("RegNet_Y_16GF_Weights.IMAGENET1K_SWAG_E2E_V1") == 384
    assert published_size("ResNet18_Weights.IMAGENET1K_V1") == 224
    assert published_size("ResNet18_Weights.IMAGENET1K_V9") is published_size("Other_Weights.V1") is None


def png(index: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(SAMPLE.images[index]).save(file, "PNG")
    return file.getvalue()


def labelled(folder: Path, images: int = 20) -> None:
    """A folder for each class."""
    for i in range(images):
        path = folder / SAMPLE.card.classes[SAMPLE.labels[i]] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))


def test_a_folder_of_classes_is_registered_and_evaluated_on(client: Client, folder: Path) -> None:
    labelled(folder / "sets" / "tree")
    end, item = ended(client, "/v1/datasets", {"name": "tree", "format": "image_folder", "path": "tree"})
    assert end == "succeeded", item["error"]
    card = client.request("GET", "/v1/datasets/tree").json()
    assert (card["size"], card["image_size"], card["classes"]) == (20, 32, sorted(SAMPLE.card.classes))
    assert sum(card["class_counts"]) == 20
    shown = np.asarray(Image.open(io.BytesIO(client.request("GET", "/v1/datasets/tree/images/0").content)))
    first = next(i for i in range(20) if SAMPLE.card.classes[SAMPLE.labels[i]] == card["classes"][0])
    assert np.array_equal(shown, SAMPLE.images[first])
    accuracies = []
    for dataset, images in (("tree", None), ("cifar10-sample", 400)):
        body: dict[str, Any] = {
            "kind": "evaluation",
            "model": "cifar10-robust",
            "dataset": dataset,
            "attacks": [],
            "images": images,
        }
        job = client.wait(client.submit(**body)["id"], timeout=240, interval=0.05)
        assert job["state"] == "succeeded"
        accuracies.append(list(client.items(job["id"]))[-1]["metrics"]["accuracy"]["clean"])
    assert accuracies[0] > 0.5, "classes are matched by name"
    study = client.submit(
        kind="inversion", model="cifar10-robust", preset="cifar", steps=2,
        targets={"source": "dataset", "dataset": "tree", "indices": [0, 19]},
    )  # fmt: skip
    assert client.wait(study["id"], timeout=240, interval=0.05)["state"] == "succeeded"
    assert next(client.items(study["id"]))["target"]["label"] == card["classes"][0]


def test_shards_in_the_bucket_are_registered_where_they_lie(client: Client, folder: Path) -> None:
    place = folder / "data" / "objects" / "imports" / "shards"
    place.mkdir(parents=True)
    for n in range(2):
        samples = [(f"{i:04}", {"png": png(i), "cls": str(SAMPLE.labels[i]).encode()}) for i in range(5 * n, 5 * n + 5)]
        (place / f"train-{n}.tar").write_bytes(shard(samples))
    end, item = ended(
        client, "/v1/datasets", {"name": "shards", "format": "webdataset", "root": "bucket", "path": "imports/shards"}
    )
    assert end == "succeeded", item["error"]
    assert client.request("GET", "/v1/datasets/shards").json()["size"] == 10
    shown = np.asarray(Image.open(io.BytesIO(client.request("GET", "/v1/datasets/shards/images/7").content)))
    assert np.array_equal(shown, SAMPLE.images[7])


def test_arrays_are_copied_and_outlive_their_file(client: Client, folder: Path) -> None:
    path = folder / "sets" / "few.npz"
    np.savez(path, images=SAMPLE.images[:6], labels=np.array(SAMPLE.labels[:6]))
    end, item = ended(client, "/v1/datasets", {"name": "few", "format": "npz", "path": "few.npz"})
    assert end == "succeeded", item["error"]
    path.unlink()
    shown = np.asarray(Image.open(io.BytesIO(client.request("GET", "/v1/datasets/few/images/5").content)))
    assert np.array_equal(shown, SAMPLE.images[5])


def test_a_class_folder_that_no_text_can_name_is_refused(client: Client, folder: Path) -> None:
    place = os.fsencode(folder / "sets" / "bytes") + b"/caf\xe9"
    os.makedirs(place)  # noqa: PTH103
    with open(place + b"/0.png", "wb") as file:  # noqa: PTH123 - a path of bytes
        file.write(png(0))
    end, item = ended(client, "/v1/datasets", {"name": "bytes", "format": "image_folder", "path": "bytes"})
    assert (end, "1 classes whose names are not UTF-8" in item["error"]["detail"]) == ("failed", True)
    assert client.request("GET", "/v1/datasets").status_code == 200


BAD_SETS: dict[str, tuple[dict[str, Any], str]] = {
    "no such folder": ({"format": "images", "path": "nowhere"}, "holds no files"),
    "not ImageNet": ({"format": "imagenet", "path": "broken"}, "1000 are missing: n01440764"),
    "not CIFAR-10": ({"format": "cifar10", "path": "broken"}, "holds neither"),
    "an unreadable image": ({"format": "image_folder", "path": "broken"}, "has 1 unreadable images"),
}


@pytest.mark.parametrize("case", BAD_SETS)
def test_a_data_set_that_is_not_what_it_should_be_is_refused_in_words(client: Client, folder: Path, case: str) -> None:
    labelled(folder / "sets" / "broken", 3)
    (folder / "sets" / "broken" / "cat").mkdir(exist_ok=True)
    (folder / "sets" / "broken" / "cat" / "bad.png").write_bytes(png(0)[:100])
    changes, said = BAD_SETS[case]
    end, item = ended(client, "/v1/datasets", {"name": "bad", **changes})
    assert (end, item["error"]["title"]) == ("failed", "Data set refused")
    assert said in item["error"]["detail"]
