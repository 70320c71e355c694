"""A bad recipe is refused in its own words, not in those of the studies that it becomes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.recipes import RECIPES
from service.settings import Settings
from tests.fixtures import workerless
from tests.service.bodies import NATURAL, NOISE, ROBUST, cifar, figure, mixed, post_recipe, study
from tests.service.test_api import assert_problem, post

BAD: dict[str, tuple[str, dict[str, Any], tuple[str, ...], str]] = {
    "target": ("figure-3", {"images": cifar(0, 400)}, ("images.indices.1",), "is 400; allowed: 0 to 399"),
    "target in a part": ("figure-4", {"images": mixed(cifar(0), cifar(400))}, ("images.parts.1.indices.0",), "is 400"),
    "target never posted": ("figure-15", {"images": {"source": "images", "images": ["sha256:" + "0" * 64]}},
                            ("images.images.0",), "is unknown; post the image"),
    "targets of a refused size": ("figure-2", {"images": {"source": "dataset", "dataset": NATURAL, "indices": [0, 1]},
                                               "resize": "refuse"}, ("images.dataset",), "is 128 x 128"),
    "targets of an unknown data set": ("figure-3", {"images": cifar(0, 1) | {"dataset": "x"}}, ("images.dataset",),
                                       "is unknown; allowed: cifar10-sample, natural-sample"),
    "start": ("figure-3", {"starts": cifar(0, 500)}, ("starts.indices.1",), "is 500"),
    "target and start": ("figure-13", {"images": cifar(0, 400), "starts": cifar(401)},
                         ("images.indices.1", "starts.indices.0"), "is 401"),
    "out of distribution": ("figure-6", {"out_of_distribution": mixed(cifar(400))},
                            ("out_of_distribution.parts.0.indices.0",), "is 400"),
    "both sources": ("figure-14", {"images": cifar(401), "out_of_distribution": cifar(402)},
                     ("images.indices.0", "out_of_distribution.indices.0"), "is 402"),
    "start of a visualization": ("figure-7", {"images": cifar(0, 400)}, ("images.indices.1",), "is 400"),
    "image to change": ("figure-11", {"images": cifar(400)}, ("images.indices.0",), "is 400"),
    "coordinate": ("figure-10", {"coordinates": [3, 192]}, ("coordinates.1",), "is 192; allowed: 0 to 191"),
    "layer": ("figure-20", {"layer": "conv9"}, ("layer",), "is unknown; allowed for cifar10-robust"),
    "data set": ("figure-8", {"dataset": "x"}, ("dataset",), "is unknown; allowed"),
    "more top images than half": ("figure-8", {"dataset": NATURAL, "k": 5}, ("k",), "is 5; allowed: at most 4"),
    "identical ends": ("figure-12", {"first": cifar(4, 5), "second": cifar(4, 6)}, ("second.0",), "the same image"),
    "lambda": ("figure-12", {"lambdas": [2.0]}, ("lambdas.0",), "less than or equal to 1"),
    "pairs that do not match": ("figure-12", {"first": cifar(4)}, ("body",), "first has 1 images and second 2"),
    "model": ("figure-3", {"model": "x"}, ("model",), "is unknown; allowed: "),
    "baseline": ("figure-3", {"baseline": "x"}, ("baseline",), "is unknown; allowed: "),
    "third network": ("figure-21", {"other": "x"}, ("other",), "is unknown; allowed: "),
    "judge": ("figure-3", {"judge": "x"}, ("judge",), "is unknown; allowed: "),
    "one image that starts from another": ("figure-3", {"images": cifar(0)}, ("images",), "name two, or starts"),
    "three starts for two images": ("figure-3", {"starts": cifar(0, 1, 2)}, ("body",), "allowed: 1 or 2"),
    "no start": ("figure-7", {"images": None, "noise_starts": 0}, ("body",), "names no start"),
    "nothing to maximise": ("figure-23", {"random_coordinates": 0}, ("body",), "names nothing to maximise"),
    "eps in a sweep": ("figure-5", {"eps": 1.0}, ("body",), "eps has no place in a radius sweep"),
    "restarts from images": ("figure-3", {"restarts": 2}, ("body",), "restarts over 1 need random_start"),
    "combinations that exceed all": ("figure-11", {"combinations": [[{"coordinate": 1}]]}, ("body",), "need threshold"),
    "a random start, regularized": ("figure-10", {"random_start": True, "eps": 2.0}, ("body",), "leave eps, step"),
    "the model as its own baseline": ("figure-3", {"baseline": "cifar10-robust"}, ("baseline",), "is the model itself"),
    "a random start in the whole box": ("figure-3", {"random_start": True}, ("random_start",), "leaves nothing of"),
    "a threshold where nothing stops at one": ("figure-11", {"threshold": 1.0}, ("body",), "threshold has no place"),
    "too many items": ("figure-15", {"images": cifar(*[0] * 4097)}, ("images",), "asks for 4097 optimisations"),
    "a field of the study": ("figure-3", {"targets": cifar(0, 1)}, ("targets",), "not permitted"),
    "a source of the study": ("figure-15", {"starts": NOISE}, ("starts",), "not permitted"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_recipe_is_refused_by_its_own_field_once_and_makes_nothing(api: TestClient, case: str) -> None:
    name, changes, fields, said = BAD[case]
    problem = assert_problem(post_recipe(api, name, figure(name, **changes)), 422, *fields)
    assert said in problem["detail"]
    assert api.get("/v1/jobs").json()["jobs"] == []


def test_too_many_regularized_steps_are_refused_as_such(settings: Settings) -> None:
    with workerless(settings.model_copy(update={"max_steps": 100})) as api:
        request = figure("figure-10", steps=50, regularized_steps=101)
        problem = assert_problem(post_recipe(api, "figure-10", request), 422, "regularized_steps")
    assert "is 101; allowed: at most 100" in problem["detail"]


def test_an_unknown_recipe_is_not_found_among_those_that_are_named(api: TestClient) -> None:
    for request in (figure("figure-2"), {}):
        problem = assert_problem(post_recipe(api, "figure-9", request), 404)
        assert all(name in problem["detail"] for name in RECIPES)


@pytest.fixture
def varied(settings: Settings, tmp_path: Path) -> Iterator[TestClient]:
    """An API whose networks are of two sizes, one without a twin and one whose twin is not installed."""
    cards = {
        "small": {}, "other-small": {}, "large": {"input_size": 64},
        "single": {"twin": None}, "bereft": {"twin": "gone"},
    }  # fmt: skip
    shipped = json.loads((settings.assets_dir / "models" / ROBUST / "card.json").read_text())
    for name, changes in cards.items():
        folder = tmp_path / "assets" / "models" / name
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(json.dumps(shipped | {"name": name, "twin": "other-small"} | changes))
    (tmp_path / "assets" / "datasets").symlink_to(settings.assets_dir / "datasets")
    with workerless(settings.model_copy(update={"assets_dir": tmp_path / "assets"})) as client:
        yield client


def test_networks_of_different_sizes_are_not_compared(varied: TestClient) -> None:
    accepted = post_recipe(varied, "figure-3", figure("figure-3", model="small"))
    assert accepted.json()["parameters"]["networks"] == {"model": "small", "baseline": "other-small"}
    problem = assert_problem(post_recipe(varied, "figure-3", figure("figure-3", model="large")), 422, "baseline")
    assert "takes 32 x 32 pixels and large 64 x 64; allowed: the same" in problem["detail"]
    request = figure("figure-21", model="small", other="large")
    assert_problem(post_recipe(varied, "figure-21", request), 422, "other")


def test_a_figure_that_no_worker_could_hold_is_refused(settings: Settings) -> None:
    with workerless(settings.model_copy(update={"max_drawing_bytes": 4 * 3 * 3 * 32 * 32 * 3})) as api:
        problem = assert_problem(post_recipe(api, "figure-15", figure("figure-15", images=cifar(0, 1))), 422, "body")
        assert "asks for 4 searches in all; a figure of 32 x 32 pixels is drawn from at most 3" in problem["detail"]
        assert api.get("/v1/jobs").json()["jobs"] == []


def test_a_judge_of_another_size_is_refused(varied: TestClient) -> None:
    request = figure("figure-3", model="small", judge="large")
    problem = assert_problem(post_recipe(varied, "figure-3", request), 422, "judge")
    assert "takes 64 x 64 pixels and" in problem["detail"]


def test_a_network_without_a_twin_needs_a_baseline(varied: TestClient) -> None:
    problem = assert_problem(post_recipe(varied, "figure-3", figure("figure-3", model="single")), 422, "baseline")
    assert "single has no twin on its card; name a network" in problem["detail"]
    problem = assert_problem(post_recipe(varied, "figure-3", figure("figure-3", model="bereft")), 422, "baseline")
    assert "is unknown; allowed: bereft, large, other-small, single, small" in problem["detail"]
    named = figure("figure-3", model="single", baseline="small")
    assert post_recipe(varied, "figure-3", named).status_code == 202


def test_a_network_that_nothing_judges_is_warned_about(varied: TestClient) -> None:
    job = post(varied, study("inversion", model="single")).json()
    assert job["parameters"]["judge"] is None
    assert "single has no judge and none was named: results are not judged" in job["warnings"]


def test_a_recipe_takes_filters_too(api: TestClient) -> None:
    images = {"source": "dataset", "dataset": "cifar10-sample", "classes": ["cat"], "random": 2}
    job = post_recipe(api, "figure-3", figure("figure-3", images=images)).json()
    assert job["parameters"]["request"]["images"]["classes"] == ["cat"]
    parts = [api.get(f"/v1/jobs/{part}").json() for part in job["parts"].values()]
    assert {part["items"]["total"] for part in parts} == {2}


def test_a_filter_that_selects_nothing_is_the_recipes_error(api: TestClient) -> None:
    images = {"source": "dataset", "dataset": "cifar10-sample", "classes": ["unicorn"]}
    assert_problem(post_recipe(api, "figure-3", figure("figure-3", images=images)), 422, "images.classes.0")
