"""The paper's figures over HTTP: the studies that each becomes."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.recipes import RECIPES
from tests.service.bodies import GRAY, ROBUST, STANDARD, cifar, figure, post_recipe, study
from tests.service.test_api import assert_problem, post

TWO = ("baseline", "model")
SPLIT = {
    **dict.fromkeys(("figure-6", "figure-14"), tuple(f"{n}/{s}" for n in TWO for s in ("out of distribution", "test"))),
    "figure-10": ("baseline/fourier", "baseline/plain", "baseline/regularized", "model/plain"),
    "figure-13": tuple(f"{network}/{start}" for network in TWO for start in ("images", "noise")),
    "figure-21": ("baseline", "model", "other"),
}
KINDS = {
    **dict.fromkeys(("figure-4", "figure-5"), "radius_sweep"),
    **dict.fromkeys(("figure-11", "figure-23"), "feature_manipulation"),
    **dict.fromkeys(("figure-12", "figure-17", "figure-18"), "interpolation"),
    **dict.fromkeys(("table-4", "table-5"), "evaluation"),
    **dict.fromkeys((f"figure-{n}" for n in (7, 8, 10, 19, 20, 21, 22)), "feature_visualization"),
}


def submitted(api: TestClient, name: str, **changes: Any) -> dict[str, Any]:
    response = post_recipe(api, name, figure(name, **changes))
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job


def parts_of(api: TestClient, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {label: api.get(f"/v1/jobs/{part}").json() for label, part in job["parts"].items()}


def items_of(api: TestClient, job: dict[str, Any], label: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = api.get(f"/v1/jobs/{job['parts'][label]}/items").json()["items"]
    return items


def test_every_recipe_is_listed_with_the_schema_of_its_request(api: TestClient) -> None:
    described = api.get("/openapi.json").json()
    schemas = described["components"]["schemas"]
    assert {f"/v1/recipes/{name}" for name in RECIPES} <= described["paths"].keys()
    cards = api.get("/v1/recipes").json()
    assert [card["name"] for card in cards] == list(RECIPES)
    assert all(card["title"] and "model" in schemas[card["request"]]["properties"] for card in cards)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_becomes_the_studies_of_each_network(api: TestClient, name: str) -> None:
    job = submitted(api, name)
    assert (job["kind"], job["state"], job["items"]["total"], job["parent"]) == ("recipe", "queued", 1, None)
    parts = parts_of(api, job)
    assert tuple(parts) == SPLIT.get(name, TWO)
    networks = {"model": ROBUST, "baseline": STANDARD, "other": STANDARD}
    assert job["parameters"]["networks"] == {label: networks[label] for label in job["parameters"]["networks"]}
    for label, part in parts.items():
        assert (part["kind"], part["parent"]) == (KINDS.get(name, "inversion"), job["id"])
        assert (part["parameters"]["model"], part["parameters"]["preset"]) == (networks[label.split("/")[0]], "cifar")
    assert (job["parameters"]["recipe"], job["parameters"]["title"]) == (name, RECIPES[name].title)


def test_a_recipes_parameters_are_those_of_all_its_parts(api: TestClient) -> None:
    job = submitted(api, "figure-3", preset="notebook", steps=9, seed=4, judge=ROBUST, frames=5)
    for part in parts_of(api, job).values():
        chosen = {
            name: part["parameters"][name] for name in ("preset", "steps", "seed", "judge", "frames", "step_size")
        }
        assert chosen == {
            "preset": "notebook", "steps": 9, "seed": 4, "judge": ROBUST, "frames": 5, "step_size": 1,
        }  # fmt: skip


def test_a_dry_run_of_a_recipe_answers_its_plan_and_inserts_nothing(api: TestClient) -> None:
    body, dry = figure("figure-13"), "/v1/recipes/figure-13?dry_run=true"
    planned = api.post(dry, json=body).json()
    assert api.get("/v1/jobs").json()["jobs"] == []
    job = submitted(api, "figure-13")
    parts = parts_of(api, job)
    assert (planned["kind"], planned["parameters"]) == ("recipe", job["parameters"])
    assert planned["parts"] == {label: part["parameters"] for label, part in parts.items()}
    assert planned["items"] == 1 + sum(part["items"]["total"] for part in parts.values())
    assert planned["image_steps"] == sum(part["progress"]["steps_total"] for part in parts.values())
    assert (planned["warnings"], planned["estimate"]["seconds"]) == (job["warnings"], None)
    assert "no worker has reported" in planned["estimate"]["basis"]
    assert_problem(api.post(dry, json=body | {"baseline": body["model"]}), 422, "baseline")


def test_a_recipe_warns_of_what_its_parts_warn_of_once(api: TestClient) -> None:
    warnings = submitted(api, "figure-3")["warnings"]
    assert len(warnings) == len(set(warnings)) == 2
    assert "never binds" in warnings[0]
    assert "not the paper's" in warnings[1]


def test_a_named_baseline_stands_in_place_of_the_twin(api: TestClient) -> None:
    job = submitted(api, "figure-3", model=STANDARD, baseline="cifar10-judge")
    assert job["parameters"]["networks"] == {"model": STANDARD, "baseline": "cifar10-judge"}


def test_one_judge_judges_every_network_of_a_comparison(api: TestClient) -> None:
    job = submitted(api, "figure-21", other="cifar10-judge")
    judges = {api.get(f"/v1/jobs/{part}").json()["parameters"]["judge"] for part in job["parts"].values()}
    assert judges == {"cifar10-judge"}


def test_the_notebooks_maximisers_are_slower_and_show_more_images(api: TestClient) -> None:
    for preset, expected in {"notebook": (500, 0.5, 1500, 5), "paper": (1000, 1, 200, 3)}.items():
        job = submitted(api, "figure-8", preset=preset)
        p = api.get(f"/v1/jobs/{job['parts']['model']}").json()["parameters"]
        assert (p["eps"], p["step_size"], p["steps"], p["top_images"]["k"]) == expected


def test_a_manipulation_figure_passes_its_stop_rule_on(api: TestClient) -> None:
    job = submitted(api, "figure-11", until="threshold", threshold=0.5)
    p = api.get(f"/v1/jobs/{job['parts']['baseline']}").json()["parameters"]
    assert (p["until"], p["threshold"]) == ("threshold", 0.5)


def test_inversions_start_from_the_next_image_unless_told(api: TestClient) -> None:
    job = submitted(api, "figure-2", images=cifar(4, 5, 6))
    assert [(i["target"]["index"], i["start"]["index"]) for i in items_of(api, job, "model")] == [
        (4, 5),
        (5, 6),
        (6, 4),
    ]
    job = submitted(api, "figure-2", starts=GRAY)
    assert [item["start"]["source"] for item in items_of(api, job, "baseline")] == ["gray", "gray"]


def test_inversions_of_figure_13_start_from_images_and_from_noise(api: TestClient) -> None:
    job = submitted(api, "figure-13")
    starts = {label: {item["start"]["source"] for item in items_of(api, job, label)} for label in job["parts"]}
    assert starts == {label: {"noise" if "noise" in label else "dataset"} for label in SPLIT["figure-13"]}


def test_figure_6_compares_test_images_with_patterns_unless_told(api: TestClient) -> None:
    job = submitted(api, "figure-6")
    assert [item["target"]["index"] for item in items_of(api, job, "model/test")] == [0, 1]
    drawn = [item["target"]["pattern"] for item in items_of(api, job, "model/out of distribution")]
    assert drawn == ["stripes", "checkerboard", "gradient", "circles", "polygons", "blobs", "scribbles", "text"]


def test_figure_4_searches_within_its_radii(api: TestClient) -> None:
    job = submitted(api, "figure-4")
    assert [item["settings"]["eps"] for item in items_of(api, job, "model")] == [0.5, 2.0] * 2


def test_figure_7_starts_from_noise_and_from_each_image(api: TestClient) -> None:
    sources = [item["start"]["source"] for item in items_of(api, submitted(api, "figure-7", noise_starts=3), "model")]
    assert sources == ["noise"] * 3 + ["dataset"] * 2


def test_figure_8_maximises_from_gray_beside_a_data_sets_extremes(api: TestClient) -> None:
    job = submitted(api, "figure-8", k=5)
    assert [item["start"]["source"] for item in items_of(api, job, "model")] == ["gray"]
    parameters = parts_of(api, job)["baseline"]["parameters"]
    assert parameters["top_images"] == {"dataset": "cifar10-sample", "k": 5}


def test_figure_10_regularizes_the_baseline_only(api: TestClient) -> None:
    parts = parts_of(api, submitted(api, "figure-10", eps=3.0, step_size=0.2, steps=30, regularized_steps=64))
    plain, regularized = parts["model/plain"]["parameters"], parts["baseline/regularized"]["parameters"]
    assert (plain["regularization"], plain["eps"], plain["steps"]) == (None, 3.0, 30)
    assert (regularized["steps"], regularized["regularization"]["parametrization"]) == (64, "pixel")
    assert (regularized["regularization"]["scale"], regularized["regularization"]["jitter"]) == (0, 8)
    fourier = parts["baseline/fourier"]["parameters"]["regularization"]
    assert (fourier["parametrization"], fourier["decorrelate"]) == ("fourier", True)


def test_the_same_random_coordinates_are_maximised_under_each_network(api: TestClient) -> None:
    job = submitted(api, "figure-23", random_coordinates=3, seed=7)
    terms = [[item["target"]["terms"] for item in items_of(api, job, label)] for label in TWO]
    assert terms[0] == terms[1]


def test_parts_are_listed_under_their_recipe_and_can_be_left_out(api: TestClient) -> None:
    alone = post(api, study("inversion")).json()["id"]
    job = submitted(api, "figure-3")
    other = submitted(api, "figure-3")

    def listed(**query: Any) -> set[str]:
        return {each["id"] for each in api.get("/v1/jobs", params=query).json()["jobs"]}

    assert listed(parent=job["id"]) == set(job["parts"].values())
    assert listed(parent=job["id"], state="cancelled") == listed(parent=alone) == listed(parent="job_none") == set()
    assert listed(top_level=True) == {alone, job["id"], other["id"]}
    assert len(listed()) == 7
    assert_problem(api.get("/v1/jobs", params={"parent": "\0"}), 422, "parent")


def test_a_drawing_is_sent_for_when_the_last_part_is_cancelled(api: TestClient) -> None:
    broker = api.app.state.context.broker  # type: ignore[attr-defined]
    before = broker.depth()
    parts = list(submitted(api, "figure-3")["parts"].values())

    def sent_becomes(count: int) -> bool:
        end = time.monotonic() + 60
        while broker.depth() != before + count and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.1)  # and no more than these
        return bool(broker.depth() == before + count)

    assert sent_becomes(2)
    api.post(f"/v1/jobs/{parts[0]}/cancel")
    assert sent_becomes(2)
    api.post(f"/v1/jobs/{parts[1]}/cancel")
    assert sent_becomes(3)


def test_cancelling_a_recipe_over_http_cancels_its_parts(api: TestClient) -> None:
    job = submitted(api, "figure-3")
    cancelled = api.post(job["links"]["cancel"]).json()
    assert (cancelled["state"], cancelled["items"]["cancelled"]) == ("cancelled", 1)
    assert {part["state"] for part in parts_of(api, job).values()} == {"cancelled"}


def test_an_idempotency_key_makes_one_recipe(api: TestClient) -> None:
    key = {"Idempotency-Key": "k"}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: post_recipe(api, "figure-2", figure("figure-2"), **key), range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(api.get("/v1/jobs").json()["jobs"]) == 3


def test_an_idempotency_key_is_refused_for_anything_else(api: TestClient) -> None:
    key = {"Idempotency-Key": "k"}
    post_recipe(api, "figure-2", figure("figure-2"), **key)
    others = [
        post_recipe(api, "figure-3", figure("figure-2"), **key),  # the same body, for another figure
        post_recipe(api, "figure-2", figure("figure-2", seed=1), **key),
        post(api, study("inversion"), **key),
    ]
    assert {assert_problem(each, 422)["type"] for each in others} == {"/problems/idempotency-key-reused"}
    assert len(api.get("/v1/jobs").json()["jobs"]) == 3
