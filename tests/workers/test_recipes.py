"""Every figure of the paper, from the request to the picture and its numbers, with few steps."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.client import ApiError, Client
from service.recipes import RECIPES
from tests.service.test_images import encode, noise
from workers.figures.registry import FIGURES
from workers.gallery import BODIES, COMMON, cifar
from workers.recipes.tables import PAPER

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "images": cifar(0, 2), "first": cifar(0, 1), "second": cifar(2, 3), "out_of_distribution": {
        "source": "patterns", "patterns": ["circles", "text"]}, "coordinates": [5, 9], "random_coordinates": 0,
    "radii": [0.5, 2.0], "lambdas": [0.0, 0.5, 1.0], "until": "steps",
}  # fmt: skip


def small(name: str) -> dict[str, Any]:
    """The gallery's request with few images, coordinates and steps."""
    body = BODIES[name] | {key: value for key, value in SMALL.items() if key in RECIPES[name].request.model_fields}
    return COMMON | body | {"steps": 3} | ({"regularized_steps": 3} if name == "figure-10" else {})


def run(client: Client, name: str, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ended job of a recipe and its item."""
    job = client.wait(client.recipe(name, **small(name) | changes)["id"], timeout=240, interval=0.05)
    return job, next(client.items(job["id"]))


def test_every_recipe_can_be_drawn_and_every_drawing_is_a_recipe() -> None:
    assert FIGURES.keys() == BODIES.keys() == RECIPES.keys() - PAPER.keys()


@pytest.mark.parametrize("name", FIGURES)
def test_a_recipe_ends_in_a_figure_and_its_numbers(client: Client, name: str) -> None:
    job, item = run(client, name)
    assert job["state"] == "succeeded", item["error"]
    assert all(client.job(part)["state"] == "succeeded" for part in job["parts"].values())
    with Image.open(io.BytesIO(client.artifact(item, "figure.png"))) as figure:
        figure.load()
        assert figure.width > 500
    assert client.artifact(item, "figure.pdf").startswith(b"%PDF")
    numbers = json.loads(client.artifact(item, "numbers.json"))
    planned = sum(client.job(part)["items"]["total"] for part in job["parts"].values())
    assert len(numbers["items"]) == planned
    assert {row["part"] for row in numbers["items"]} == job["parts"].keys()
    assert len(list(csv.DictReader(io.StringIO(client.artifact(item, "numbers.csv").decode())))) == planned
    assert numbers["claims"]
    assert any(claim["better"] for claim in numbers["claims"])
    for claim in numbers["claims"]:
        for interval in (*claim["of"].values(), *claim["null"].values()):
            assert interval["low"] <= interval["value"] <= interval["high"]
    assert "not the paper's parameters" in numbers["notes"][1]
    assert all(cost["image_steps"] > 0 and cost["seconds"] > 0 for cost in numbers["cost"].values())


def test_the_numbers_are_those_of_the_items(client: Client) -> None:
    job, item = run(client, "figure-3")
    numbers = json.loads(client.artifact(item, "numbers.json"))
    stored = {label: [i["metrics"]["ssim"] for i in client.items(part)] for label, part in job["parts"].items()}
    for label, values in stored.items():
        assert [row["ssim"] for row in numbers["items"] if row["part"] == label] == values
        ssim = next(claim for claim in numbers["claims"] if claim["quantity"].startswith("SSIM"))
        assert ssim["of"][label]["value"] == sorted(values)[1]  # the median of three


def test_the_same_recipe_draws_the_same_bytes(client: Client) -> None:
    first, again = run(client, "figure-12")[1], run(client, "figure-12")[1]
    for name in ("figure.png", "figure.pdf"):
        assert client.artifact(first, name) == client.artifact(again, name)


def test_an_item_that_failed_is_left_out_on_both_networks_and_said(client: Client, data_dir: Path) -> None:
    kept, gone = (client.upload(encode(noise(size=(32, side)))) for side in (40, 41))
    images = {"source": "mixed", "parts": [cifar(0, 1), {"source": "images", "images": [kept, gone]}]}
    (data_dir / "objects" / "images" / gone.removeprefix("sha256:")).unlink()
    job, item = run(client, "figure-15", images=images)
    assert job["state"] == "succeeded"
    numbers = json.loads(client.artifact(item, "numbers.json"))
    assert len(numbers["items"]) == 2 * 3
    assert "model: 1 items have no result and are left out." in numbers["notes"]


def test_a_recipe_whose_part_was_cancelled_says_which(client: Client) -> None:
    job = client.recipe("figure-3", **small("figure-3") | {"steps": 50_000})
    for label in ("baseline", "model"):
        client.request("POST", f"/v1/jobs/{job['parts'][label]}/cancel")
    job = client.wait(job["id"], timeout=240)
    assert job["state"] == "failed"
    error = next(client.items(job["id"]))["error"]
    assert "the study model has no result" in error["detail"]


def test_a_third_network_is_drawn_beside_the_two(client: Client) -> None:
    _, item = run(client, "figure-21", other="cifar10-standard")
    numbers = json.loads(client.artifact(item, "numbers.json"))
    assert numbers["networks"].keys() == {"model", "baseline", "other"}


def test_a_recipe_that_cannot_be_planned_leaves_nothing(client: Client) -> None:
    before = len(client.request("GET", "/v1/jobs", params={"limit": 500}).json()["jobs"])
    with pytest.raises(ApiError, match="coordinates"):
        client.recipe("figure-23", **small("figure-23") | {"coordinates": [5, 192]})
    assert len(client.request("GET", "/v1/jobs", params={"limit": 500}).json()["jobs"]) == before
