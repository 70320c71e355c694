"""Small valid requests, to be changed, and what the API makes of them."""

from typing import Any

from fastapi.testclient import TestClient

from tests.service.test_api import post

ROBUST, STANDARD = "cifar10-robust", "cifar10-standard"
PHOTOS = {"source": "dataset", "dataset": "natural-sample", "indices": [0, 1]}
NOISE, GRAY, OTHER = {"source": "noise"}, {"source": "gray"}, {"source": "other_target"}


def cifar(*indices: int) -> dict[str, Any]:
    return {"source": "dataset", "dataset": "cifar10-sample", "indices": list(indices)}


def patterns(*names: str, seed: int = 0) -> dict[str, Any]:
    return {"source": "patterns", "patterns": list(names), "seed": seed}


def mixed(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"source": "mixed", "parts": list(parts)}


SMALL: dict[str, dict[str, Any]] = {
    "inversion": {"targets": cifar(0, 1)},
    "radius_sweep": {"targets": cifar(0, 1)},
    "interpolation": {"first": cifar(0, 1), "second": cifar(2, 3)},
    "feature_visualization": {"coordinates": [3, 5]},
    "feature_manipulation": {"images": cifar(0, 1), "coordinates": [3]},
}
PAIRS = {"first": cifar(0, 1), "second": cifar(2, 3)}
NATURAL = "natural-sample"
RECIPE_BODIES: dict[str, dict[str, Any]] = {
    "figure-2": {"images": cifar(0, 1)},
    "figure-3": {"images": cifar(0, 1)},
    "figure-4": {"images": cifar(0, 1), "radii": [0.5, 2.0]},
    "figure-5": {"images": cifar(0, 1)},
    "figure-6": {"images": cifar(0, 1)},
    "figure-7": {"images": cifar(0, 1), "coordinates": [3]},
    "figure-8": {"dataset": "cifar10-sample", "coordinates": [3]},
    "figure-10": {"coordinates": [3]},
    "figure-11": {"images": cifar(0, 1), "coordinates": [3]},
    "figure-12": PAIRS,
    "figure-13": {"images": cifar(0, 1)},
    "figure-14": {"images": cifar(0, 1), "out_of_distribution": patterns("text")},
    "figure-15": {"images": cifar(0)},
    "figure-16": {"images": cifar(0, 1)},
    "figure-17": PAIRS,
    "figure-18": PAIRS,
    "figure-19": {"random_coordinates": 2},
    "figure-20": {"coordinates": [3]},
    "figure-21": {"coordinates": [3], "other": STANDARD},
    "figure-22": {"coordinates": [3]},
    "figure-23": {"images": cifar(0, 1), "random_coordinates": 2},
    "table-4": {"dataset": "cifar10-sample", "images": 40, "eps": 1.0, "attacks": [{"steps": 2}]},
    "table-5": {"dataset": "cifar10-sample", "images": 40, "eps": 1.0, "attacks": [{"steps": 2}, {"steps": 3}]},
}


def study(kind: str, **changes: Any) -> dict[str, Any]:
    """A small valid request of a kind, changed."""
    return {"kind": kind, "model": ROBUST, "preset": "cifar"} | SMALL[kind] | changes


def sweep(**changes: Any) -> dict[str, Any]:
    return study("radius_sweep", **changes)


def path(**changes: Any) -> dict[str, Any]:
    return study("interpolation", **changes)


def maximize(**changes: Any) -> dict[str, Any]:
    return study("feature_visualization", **changes)


def manipulate(**changes: Any) -> dict[str, Any]:
    return study("feature_manipulation", **changes)


def accepted(api: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    response = post(api, body)
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job


def items_of(api: TestClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The items that a request becomes, in order."""
    job = accepted(api, body)
    items: list[dict[str, Any]] = api.get(job["links"]["items"], params={"limit": 500}).json()["items"]
    assert [item["index"] for item in items] == list(range(job["items"]["total"]))
    return items


def figure(name: str, **changes: Any) -> dict[str, Any]:
    """A small valid request of a recipe, changed."""
    return {"model": ROBUST, "preset": "cifar"} | RECIPE_BODIES[name] | changes


def post_recipe(api: TestClient, name: str, request: dict[str, Any], **headers: str) -> Any:
    return api.post(f"/v1/recipes/{name}", json=request, headers=headers)
