"""Evaluations and rankings on the embedded service, against the networks themselves."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file
from torch import Tensor

from service.catalog import ShippedDataset
from service.client import Client
from service.recipe_cli import connected
from service.settings import Settings
from workers.engine import models
from workers.engine.attacks import Attack
from workers.engine.datasets import to_float
from workers.engine.evaluate import evaluate
from workers.engine.statistics import wilson

ASSETS = Settings().assets_dir
SAMPLE = ShippedDataset(ASSETS / "datasets" / "cifar10-sample")
ATTACKS = [{"steps": 3}, {"kind": "apgd-ce", "steps": 3}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service whose workers take 30 images under one lease."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("service"), port=0, heartbeat_seconds=0.2, lease_seconds=60,
        reconcile_seconds=0.5, evaluation_images=30,
    )  # fmt: skip
    with connected(None, settings) as client:
        yield client


def network(name: str = "cifar10-robust") -> models.Network:
    return models.load("cifar-resnet-small", load_file(ASSETS / "models" / name / "model.safetensors"))


def pixels(places: list[int]) -> Tensor:
    return torch.from_numpy(SAMPLE.images[places]).permute(0, 3, 1, 2)


def run(client: Client, **body: Any) -> list[dict[str, Any]]:
    """The items of a job, which must succeed."""
    job = client.wait(client.submit(**body)["id"], timeout=240, interval=0.05)
    items = list(client.items(job["id"]))
    assert job["state"] == "succeeded", [item["error"] for item in items]
    assert job["progress"]["fraction"] == 1
    return items


def evaluation(client: Client, **changes: Any) -> list[dict[str, Any]]:
    body = {"kind": "evaluation", "model": "cifar10-robust", "dataset": "cifar10-sample", "preset": "cifar"}
    return run(client, **body | changes)


def rows(client: Client, item: dict[str, Any], name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(client.artifact(item, name).decode())))


def test_clean_accuracy_is_what_the_network_says_image_by_image(client: Client) -> None:
    *runs, last = evaluation(client, attacks=[], images=70, seed=3)
    assert [item["metrics"]["images"] for item in runs] == [30, 30, 10]
    by_image = rows(client, last, "images.csv")
    places = [int(row["index"]) for row in by_image]
    assert len(set(places)) == 70
    with torch.no_grad():
        predicted = network()(to_float(pixels(places))).argmax(dim=1).tolist()
    names = SAMPLE.card.classes
    assert [row["clean"] for row in by_image] == [names[i] for i in predicted]
    assert [row["label"] for row in by_image] == [names[SAMPLE.labels[i]] for i in places]
    right = sum(SAMPLE.labels[i] == p for i, p in zip(places, predicted, strict=True))
    summary = json.loads(client.artifact(last, "summary.json"))
    value, low, high = wilson(right, 70)
    assert summary["clean"] == {"accuracy": value, "low": low, "high": high}
    assert (summary["images"], summary["missing"]) == (70, 0)


def test_an_attack_leaves_a_robust_network_more_than_a_standard_one_and_both_are_kept_beside_them(
    client: Client,
) -> None:
    left = {}
    for name in ("cifar10-robust", "cifar10-standard"):
        *_, last = evaluation(client, model=name, attacks=ATTACKS, images=40, eps=1.0)
        left[name] = last["metrics"]["accuracy"]
        assert set(left[name]) == {
            "clean", "pgd-3", "apgd-ce-3", "control noise-10", "control pgd-20",
        }  # fmt: skip
        assert last["metrics"]["suspicions"] == []
        by_class = rows(client, last, "classes.csv")
        assert by_class[0]["class"] == "all"
        assert sum(int(row["images"]) for row in by_class[1:]) == 40
        found = client.request("GET", f"/v1/models/{name}/evaluations").json()["evaluations"][0]
        assert found["summary"]["attacks"][0]["accuracy"] == left[name]["pgd-3"]
    assert left["cifar10-robust"]["pgd-3"] > left["cifar10-standard"]["pgd-3"]


def test_runs_of_images_come_to_what_all_of_them_at_once_do(client: Client) -> None:
    *_, last = evaluation(client, attacks=ATTACKS, images=40, controls=False, seed=5)
    by_image = rows(client, last, "images.csv")
    places = [int(row["index"]) for row in by_image]
    attacks = [Attack("pgd", "l2", 0.5, 3), Attack("apgd-ce", "l2", 0.5, 3)]
    labels = torch.tensor([SAMPLE.labels[i] for i in places])
    whole = evaluate(network(), pixels(places), labels, attacks, places, seed=5)
    for a, name in enumerate(("pgd-3", "apgd-ce-3")):
        assert [row[name] for row in by_image] == [SAMPLE.card.classes[i] for i in whole.prediction[:, a].tolist()]
        margins = [float(row[f"{name}_margin"]) for row in by_image]
        assert margins == pytest.approx(whole.margin[:, a].tolist(), rel=1e-3, abs=1e-3)


def test_images_of_another_size_are_cut_as_on_imagenet(client: Client) -> None:
    body = {"kind": "activating_images", "model": "cifar10-robust", "dataset": "natural-sample", "coordinates": [3],
            "k": 2, "resize": "imagenet"}  # fmt: skip
    *_, last = run(client, **body)
    photos = ShippedDataset(ASSETS / "datasets" / "natural-sample")
    side = round(32 * 256 / 224)
    first, margin = [], round((side - 32) / 2)
    for image in photos.images:
        small = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
        first.append(small[margin : margin + 32, margin : margin + 32])
    with torch.no_grad():
        r = network().represent(to_float(torch.from_numpy(np.stack(first)).permute(0, 3, 1, 2)))[:, 3]
    found = json.loads(client.artifact(last, "extremes.json"))
    assert [row["index"] for row in found if row["end"] == "top"] == r.argsort(descending=True)[:2].tolist()
    assert found[0]["activation"] == pytest.approx(r.max().item(), rel=1e-4)


def test_a_ranking_finds_the_extremes_of_the_whole_data_set(client: Client) -> None:
    terms = [{"coordinate": 3, "weight": 1.0}, {"coordinate": 5, "weight": -2.0}]
    *_, last = run(
        client, kind="activating_images", model="cifar10-robust", dataset="cifar10-sample", coordinates=[7],
        combinations=[terms], k=4,
    )  # fmt: skip
    with torch.no_grad():
        r = network().represent(to_float(pixels(list(range(400)))))
    scores = torch.stack([r[:, 7], r[:, 3] - 2 * r[:, 5]])
    found = load(client.artifact(last, "extremes.safetensors"))
    for end, largest in (("top", True), ("bottom", False)):
        torch.testing.assert_close(found[end], scores.topk(4, dim=1, largest=largest).values, rtol=1e-4, atol=1e-5)
        for d, places in enumerate(found[f"{end}_places"].tolist()):
            assert len(set(places)) == 4
            torch.testing.assert_close(found[end][d], scores[d, places], rtol=1e-4, atol=1e-5)
    strip = np.asarray(Image.open(io.BytesIO(client.artifact(last, "top-0.png"))))
    expected = np.concatenate([SAMPLE.images[i] for i in found["top_places"][0].tolist()], axis=1)
    assert np.array_equal(strip, expected)


def test_a_table_is_drawn_from_one_evaluation_a_network(client: Client) -> None:
    job = client.recipe(
        "table-4", model="cifar10-robust", dataset="cifar10-sample", eps=1.0, images=40, attacks=[{"steps": 3}]
    )
    job = client.wait(job["id"], timeout=240, interval=0.1)
    item = next(client.items(job["id"]))
    assert job["state"] == "succeeded", item["error"]
    numbers = json.loads(client.artifact(item, "numbers.json"))
    table = {row["model"]: row for row in numbers["items"]}
    assert table["cifar10-robust"]["pgd-3"] > table["cifar10-standard"]["pgd-3"]
    assert client.artifact(item, "figure.png").startswith(b"\x89PNG")
    assert client.artifact(item, "figure.pdf").startswith(b"%PDF")
    (claim,) = [c for c in numbers["claims"] if c["quantity"] == "accuracy under pgd-3"]
    assert claim["holds"] is True
