"""The studies as job kinds: what a request becomes."""

from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.service.bodies import (
    GRAY,
    NOISE,
    OTHER,
    PHOTOS,
    ROBUST,
    SMALL,
    STANDARD,
    accepted,
    cifar,
    items_of,
    manipulate,
    maximize,
    mixed,
    path,
    patterns,
    study,
    sweep,
)
from tests.service.test_api import assert_problem, post
from tests.service.test_images import npy

# Engstrom et al. 2019, appendix A.6, and the notebooks released with it; `cifar` is this project's own.
WIDE = [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256]
NARROW = [0.125, 0.25, 0.5, 1, 2, 4, 8, 16]
TENTHS, NINTHS = [i / 10 for i in range(11)], [i / 9 for i in range(10)]
RESOLVED: list[tuple[str, str, dict[str, Any]]] = [
    ("inversion", "paper", {"eps": 1000, "step_size": 1, "steps": 10_000, "best": False, "loss": "distance"}),
    ("inversion", "notebook",
     {"eps": 1000, "step_size": 1, "steps": 10_000, "best": False, "loss": "relative_distance"}),
    ("inversion", "cifar", {"eps": 1000, "step_size": 0.1, "steps": 300, "best": False, "loss": "distance"}),
    ("inversion", "fast", {"eps": 1000, "solver": "momentum", "schedule": "geometric", "step_size": 1, "steps": 300}),
    ("radius_sweep", "fast", {"radii": NARROW, "solver": "momentum", "step_size": 1, "steps": 200}),
    ("interpolation", "fast", {"solver": "momentum", "step_size": 1, "steps": 300, "lambdas": NINTHS}),
    ("feature_visualization", "fast", {"solver": "momentum", "step_size": 0.5, "steps": 100}),
    ("feature_manipulation", "fast", {"solver": "momentum", "schedule": "constant", "step_size": 0.2, "steps": 200}),
    ("radius_sweep", "paper", {"radii": WIDE, "step_size": 1, "steps": 10_000, "best": True, "loss": "distance"}),
    ("radius_sweep", "notebook",
     {"radii": WIDE, "step_size": 1, "steps": 10_000, "best": True, "loss": "relative_distance"}),
    ("radius_sweep", "cifar", {"radii": NARROW, "step_size": 0.1, "steps": 200, "best": True, "loss": "distance"}),
    ("interpolation", "paper", {"eps": 1000, "step_size": 1, "steps": 10_000, "best": False, "lambdas": TENTHS}),
    ("interpolation", "notebook", {"eps": 1000, "step_size": 1, "steps": 10_000, "best": True, "lambdas": NINTHS}),
    ("interpolation", "cifar", {"eps": 1000, "step_size": 0.1, "steps": 300, "best": True, "lambdas": NINTHS}),
    ("feature_visualization", "paper", {"eps": 1000, "step_size": 1, "steps": 200, "best": False}),
    ("feature_visualization", "notebook", {"eps": 1000, "step_size": 1, "steps": 200, "best": False}),
    ("feature_visualization", "cifar", {"eps": 1000, "step_size": 0.1, "steps": 200, "best": False}),
    ("feature_manipulation", "paper",
     {"eps": 1000, "step_size": 1, "steps": 200, "best": False, "until": "exceeds_all", "threshold": None}),
    ("feature_manipulation", "notebook",
     {"eps": 1000, "step_size": 0.1, "steps": 800, "best": False, "until": "threshold", "threshold": 1}),
    ("feature_manipulation", "cifar",
     {"eps": 1000, "step_size": 0.1, "steps": 400, "best": False, "until": "exceeds_all", "threshold": None}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "preset", "expected"), RESOLVED)
def test_a_preset_stands_where_the_request_is_silent(
    api: TestClient, kind: str, preset: str, expected: dict[str, Any]
) -> None:
    parameters = accepted(api, study(kind, preset=preset))["parameters"]
    common = {"kind": kind, "preset": preset, "layer": "penultimate", "restarts": 1, "frames": 0, "seed": 0}
    assert {name: parameters[name] for name in {**expected, **common}} == {**expected, **common}


@pytest.mark.parametrize("kind", SMALL)
def test_gradients_pass_the_last_relu_but_in_searches_for_a_representation_at_32_pixels(
    api: TestClient, kind: str
) -> None:
    passed = [
        accepted(api, study(kind, preset=p))["parameters"]["identity_relu"] for p in ("paper", "notebook", "cifar")
    ]
    assert passed == [True, True, kind.startswith("feature")]
    for asked in (True, False):
        assert accepted(api, study(kind, identity_relu=asked))["parameters"]["identity_relu"] is asked


@pytest.mark.parametrize(("kind", "preset", "expected"), RESOLVED)
def test_what_a_request_says_overrides_its_preset(
    api: TestClient, kind: str, preset: str, expected: dict[str, Any]
) -> None:
    parameters = accepted(api, study(kind, preset=preset, steps=7, step_size=0.25))["parameters"]
    assert {name: parameters[name] for name in expected} == expected | {"steps": 7, "step_size": 0.25}


def test_a_threshold_is_recorded_only_where_it_stops_an_image(api: TestClient) -> None:
    for until in ("steps", "exceeds_all"):
        assert accepted(api, manipulate(preset="notebook", until=until))["parameters"]["threshold"] is None
    parameters = accepted(api, manipulate(until="threshold", threshold=2.5))["parameters"]
    assert (parameters["until"], parameters["threshold"]) == ("threshold", 2.5)


def test_a_sweep_has_an_item_for_each_pair_and_radius_with_a_step_that_fits_it(api: TestClient) -> None:
    items = items_of(api, sweep(radii=[0.5, 2.0, 16.0], steps=50, step_size=0.1))
    assert [item["target"]["index"] for item in items] == [0, 0, 0, 1, 1, 1]
    fitting = [(0.5, 2.5 * 0.5 / 50), (2.0, 0.1), (16.0, 0.1)]
    expected = [{"pair": pair, "eps": eps, "step_size": step} for pair in (0, 1) for eps, step in fitting]
    assert [item["settings"] for item in items] == expected


def test_a_sweep_searches_every_radius_of_a_pair_from_the_same_start(api: TestClient) -> None:
    starts = [item["start"] for item in items_of(api, sweep(radii=[1.0, 2.0]))]
    assert starts[0] == starts[1] != starts[2] == starts[3]


def test_a_path_has_an_item_for_each_pair_and_lambda(api: TestClient) -> None:
    items = items_of(api, path(lambdas=[0.0, 0.25, 1.0]))
    assert [(i["target"]["pair"], i["target"]["lambda"]) for i in items] == [
        (pair, weight) for pair in (0, 1) for weight in (0, 0.25, 1)
    ]
    ends = [(i["target"]["first"]["index"], i["target"]["second"]["index"]) for i in items]
    assert ends == [(0, 2)] * 3 + [(1, 3)] * 3
    assert items[1]["settings"] == {"pair": 0, "lambda": 0.25}


def test_a_path_starts_from_the_pixel_blend_unless_told(api: TestClient) -> None:
    blend = items_of(api, path(lambdas=[0.25]))[1]["start"]
    assert (blend["source"], blend["lambda"], blend["first"]["index"], blend["second"]["index"]) == (
        "blend",
        0.25,
        1,
        3,
    )
    noise = items_of(api, path(lambdas=[0.25, 0.5], start=NOISE))
    assert [item["start"]["draw"] for item in noise] == [0, 0, 1, 1]


def test_a_visualization_has_a_row_for_each_start_and_a_column_for_each_direction(api: TestClient) -> None:
    body = maximize(starts=[NOISE, GRAY, cifar(7, 8), NOISE], coordinates=[3, 5])
    items = items_of(api, body)
    rows = [(row, column) for row in range(5) for column in range(2)]
    assert [(i["settings"]["row"], i["settings"]["column"]) for i in items] == rows
    assert [i["target"]["terms"] for i in items] == [[[3, 1]], [[5, 1]]] * 5
    starts = [items[2 * row]["start"] for row in range(5)]
    assert [start["source"] for start in starts] == ["noise", "gray", "dataset", "dataset", "noise"]
    assert (starts[0]["draw"], starts[4]["draw"]) == (0, 4)  # two rows of noise are not the same noise


def test_a_manipulation_has_a_row_for_each_image_and_a_column_for_each_direction(api: TestClient) -> None:
    items = items_of(api, manipulate(coordinates=[9, 4]))
    assert [(i["start"]["index"], i["target"]["terms"]) for i in items] == [
        (0, [[9, 1]]), (0, [[4, 1]]), (1, [[9, 1]]), (1, [[4, 1]]),
    ]  # fmt: skip


def test_directions_are_coordinates_then_random_ones_then_combinations(api: TestClient) -> None:
    combination = [{"coordinate": 1}, {"coordinate": 4, "weight": -0.5}]
    items = items_of(api, maximize(coordinates=[7], random_coordinates=2, combinations=[combination]))
    assert [item["target"]["direction"] for item in items] == [0, 1, 2, 3]
    assert (items[0]["target"]["terms"], items[3]["target"]["terms"]) == ([[7, 1]], [[1, 1], [4, -0.5]])
    assert (items[0]["target"]["label"], items[3]["target"]["label"]) == ("coordinate 7", "1 R1 + -0.5 R4")


def test_a_coordinate_of_the_logits_is_called_by_its_class(api: TestClient) -> None:
    [item] = items_of(api, maximize(layer="logits", coordinates=[2]))
    assert item["target"]["label"] == "class bird"


def random_coordinates(api: TestClient, **changes: Any) -> list[int]:
    items = items_of(api, maximize(**{"coordinates": [], "random_coordinates": 24} | changes))
    return [item["target"]["terms"][0][0] for item in items]


def test_random_coordinates_depend_on_the_seed_only(api: TestClient) -> None:
    drawn = random_coordinates(api, seed=5)
    assert drawn == random_coordinates(api, seed=5, model=STANDARD, preset="paper", starts=[GRAY], frames=2)
    assert drawn == random_coordinates(api, seed=5, coordinates=[1])[1:]
    assert drawn != random_coordinates(api, seed=6)


def test_random_coordinates_are_distinct_and_in_the_layer(api: TestClient) -> None:
    assert sorted(random_coordinates(api, random_coordinates=192)) == list(range(192))


def test_a_layer_with_height_and_width_has_a_coordinate_a_channel_or_a_unit(api: TestClient) -> None:
    assert_problem(post(api, maximize(layer="blocks.2", coordinates=[192])), 422, "coordinates.0")
    accepted(api, maximize(layer="blocks.2", coordinates=[192 * 8 * 8 - 1], pool="flatten"))
    over = maximize(layer="blocks.2", coordinates=[192 * 8 * 8], pool="flatten")
    assert_problem(post(api, over), 422, "coordinates.0")


def test_each_item_can_start_from_the_next_ones_target(api: TestClient) -> None:
    for kind in ("inversion", "radius_sweep"):
        items = items_of(api, study(kind, targets=cifar(4, 5, 6), start=OTHER, **_one_radius(kind)))
        assert [(i["target"]["index"], i["start"]["index"]) for i in items] == [(4, 5), (5, 6), (6, 4)]


def _one_radius(kind: str) -> dict[str, Any]:
    return {"radii": [1.0]} if kind == "radius_sweep" else {}


def test_one_start_serves_all_and_several_serve_one_each(api: TestClient) -> None:
    def starts(start: dict[str, Any]) -> list[Any]:
        return [item["start"].get("index") for item in items_of(api, study("inversion", start=start))]

    assert (starts(cifar(9)), starts(cifar(8, 9)), starts(GRAY)) == ([9, 9], [8, 9], [None, None])


def test_noise_is_drawn_anew_for_each_item(api: TestClient) -> None:
    starts = [item["start"] for item in items_of(api, study("inversion", targets=cifar(0, 1, 2)))]
    assert starts == [{"source": "noise", "mean": 0.5, "std": 0.05, "draw": n} for n in range(3)]  # randn / 20 + 0.5


def test_mixed_images_follow_one_another(api: TestClient) -> None:
    image = api.post("/v1/images", content=npy(np.zeros((3, 32, 32), np.float32))).json()["id"]
    uploaded = {"source": "images", "images": [image]}
    body = study("inversion", targets=mixed(patterns("text", "blobs", seed=3), cifar(399), PHOTOS, uploaded))
    targets = [item["target"] for item in items_of(api, body)]
    assert [target["source"] for target in targets] == ["pattern", "pattern", "dataset", "dataset", "dataset", "image"]
    assert targets[1] == {"source": "pattern", "pattern": "blobs", "seed": 3, "number": 1, "label": None}
    assert [target["label"] for target in targets[2:5]] == ["truck", "loggerhead", "gorilla"]
    assert [target["resized"] for target in targets[2:]] == [
        None, *["128 x 128 to 32 x 32: bicubic"] * 2, None,
    ]  # fmt: skip


NOT_THE_PAPERS = "the preset cifar is not the paper's: its steps are scaled to 32 x 32 pixels"
UNBOUND = "eps 1000 never binds: no two images of 32 x 32 pixels are further apart than 55.4"
WARNED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing to say": (path(preset="notebook", eps=3, step_size=0.1), []),
    "cifar": (maximize(eps=3), [NOT_THE_PAPERS]),
    "radius beyond the box": (maximize(preset="paper", step_size=0.1), [UNBOUND]),
    "radius at the box's diagonal": (maximize(preset="paper", step_size=0.1, eps=55.43), ["eps 55.43 never binds"]),
    "radius within the box": (maximize(preset="paper", step_size=0.1, eps=55.42), []),
    "radii beyond the box": (sweep(preset="paper"), ["eps 256 never binds"]),
    "radii within the box": (sweep(preset="paper", radii=[1.0, 55.0]), []),
    "coarse steps": (manipulate(preset="paper", eps=3), ["step_size 1 is coarse for 32 x 32 pixels"]),
    "coarse steps of a sweep": (sweep(preset="paper", radii=[50.0], steps=50), ["step_size 1 is coarse"]),
    "a judge that is the model": (maximize(preset="notebook", eps=3, step_size=0.1, judge=ROBUST),
                                  ["the judge is the model itself: it is not independent"]),
    "regularized": (maximize(preset="paper", regularization={}), []),
}  # fmt: skip


@pytest.mark.parametrize("case", WARNED)
def test_a_client_is_warned_of_what_it_may_not_expect(api: TestClient, case: str) -> None:
    body, expected = WARNED[case]
    warnings = accepted(api, body)["warnings"]
    assert len(warnings) == len(expected)
    assert all(warning.startswith(start) for warning, start in zip(warnings, expected, strict=True))


def test_a_tensor_starts_a_study_only_if_it_has_the_models_size(api: TestClient) -> None:
    def start(side: int) -> dict[str, Any]:
        image = api.post("/v1/images", content=npy(np.full((3, side, side), 0.5)))
        return {"source": "images", "images": [image.json()["id"]]}

    accepted(api, sweep(start=start(32)))
    problem = assert_problem(post(api, sweep(start=start(33))), 422, "start.images.0")
    assert "is 33 x 33; cifar10-robust takes 32 x 32, and a tensor is not resampled" in problem["detail"]


def test_noise_starts_and_random_starts_may_be_restarted(api: TestClient) -> None:
    assert accepted(api, maximize(restarts=4))["progress"]["steps_total"] == 2 * 4 * 200
    accepted(api, manipulate(restarts=2, random_start=True, eps=1.0))
