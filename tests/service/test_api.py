"""The HTTP API: what it promises, and that bad input is refused by name and leaves nothing behind."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.cursors import encode_cursor
from service.settings import Settings
from service.storage import image_key
from tests.fixtures import inversion
from tests.service.test_images import REFUSED, encode, noise, npy


def targets(**changes: Any) -> dict[str, Any]:
    return {"source": "dataset", "dataset": "cifar10-sample", "indices": [0]} | changes


def post(api: TestClient, body: Any, **headers: str) -> Any:
    return api.post("/v1/jobs", json=body, headers=headers)


def assert_problem(response: Any, status: int, *fields: str) -> Any:
    """A problem+json answer that names exactly these fields."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert {"type", "title", "detail"} <= problem.keys()
    assert sorted(e["field"] for e in problem.get("errors", [])) == sorted(fields)
    return problem


def test_a_job_is_accepted_with_its_address(api: TestClient) -> None:
    response = post(api, inversion())
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert int(response.headers["retry-after"]) > 0
    assert job["state"] == "queued"
    assert job["items"] == {"total": 3, "queued": 3, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0}
    assert api.get(job["links"]["self"]).json() == job


def test_a_job_records_every_parameter_resolved(api: TestClient) -> None:
    job = post(api, inversion(preset="paper", steps=None)).json()
    parameters = job["parameters"]
    assert (parameters["eps"], parameters["step_size"], parameters["steps"]) == (1000, 1, 10_000)
    card = api.get("/v1/models/cifar10-robust").json()
    judge = card["judge"] or card["twin"]
    assert (parameters["best"], parameters["identity_relu"], parameters["judge"]) == (False, True, judge)
    assert parameters["model_digest"] == card["digest"]
    assert parameters["judge_digest"] == api.get(f"/v1/models/{judge}").json()["digest"]
    assert len(job["warnings"]) == 2
    assert "never binds" in job["warnings"][0]
    assert "step_size 1 is coarse" in job["warnings"][1]


def test_a_binding_radius_is_not_warned_about(api: TestClient) -> None:
    assert post(api, inversion(preset="paper", eps=2.0, step_size=0.1)).json()["warnings"] == []


def test_a_parameter_overrides_its_preset_and_zero_is_a_value(api: TestClient) -> None:
    parameters = post(api, inversion(eps=0, step_size=0.5, best=True)).json()["parameters"]
    assert (parameters["eps"], parameters["step_size"], parameters["best"]) == (0, 0.5, True)


def test_an_idempotency_key_makes_one_job(api: TestClient) -> None:
    first = post(api, inversion(), **{"Idempotency-Key": "k1"})
    again = post(api, inversion(resize="center-crop"), **{"Idempotency-Key": "k1"})  # a default, spelt out
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    assert len(api.get("/v1/jobs").json()["jobs"]) == 1


def test_an_idempotency_key_with_another_body_is_refused(api: TestClient) -> None:
    post(api, inversion(), **{"Idempotency-Key": "k1"})
    problem = assert_problem(post(api, inversion(seed=1), **{"Idempotency-Key": "k1"}), 422)
    assert problem["type"] == "/problems/idempotency-key-reused"
    assert len(api.get("/v1/jobs").json()["jobs"]) == 1


def test_one_key_sent_many_times_at_once_makes_one_job(api: TestClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(api, inversion(), **{"Idempotency-Key": "k"}), range(16)))
    assert {a.status_code for a in answers} == {202}
    assert len({a.json()["id"] for a in answers}) == 1


def test_an_idempotency_key_has_a_longest_length(api: TestClient) -> None:
    assert_problem(post(api, inversion(), **{"Idempotency-Key": "k" * 256}), 422, "Idempotency-Key")


BAD: dict[str, tuple[Any, tuple[str, ...]]] = {
    "unknown kind": (inversion(kind="inverson"), ("kind",)),
    "no kind": ({k: v for k, v in inversion().items() if k != "kind"}, ("kind",)),
    "unknown model": (inversion(model="resnet-9000"), ("model",)),
    "unknown judge": (inversion(judge="nobody"), ("judge",)),
    "two unknowns": (inversion(model="x", targets=targets(dataset="y")), ("model", "targets.dataset")),
    "no targets": ({k: v for k, v in inversion().items() if k != "targets"}, ("targets",)),
    "empty targets": (inversion(targets=targets(indices=[])), ("targets.indices",)),
    "unknown source": (inversion(targets=targets(source="web")), ("targets.source",)),
    "index beyond the data set": (inversion(targets=targets(indices=[0, 400])), ("targets.indices.1",)),
    "negative index": (inversion(targets=targets(indices=[-1])), ("targets.indices.0",)),
    "too many items": (inversion(targets=targets(indices=[0] * 20_400), restarts=64), ("targets",)),
    "image never posted": (inversion(targets={"source": "images", "images": ["sha256:" + "0" * 64]}),
                           ("targets.images.0",)),
    "image id that is none": (inversion(targets={"source": "images", "images": ["cat.png"]}),
                              ("targets.images.0",)),
    "steps 0": (inversion(steps=0), ("steps",)),
    "steps negative": (inversion(steps=-5), ("steps",)),
    "steps huge": (inversion(steps=10**9), ("steps",)),
    "steps a fraction": (inversion(steps=1.5), ("steps",)),
    "steps a string": (inversion(steps="300"), ("steps",)),
    "eps negative": (inversion(eps=-0.1), ("eps",)),
    "eps a truth value": (inversion(eps=True), ("eps",)),
    "step size 0": (inversion(step_size=0), ("step_size",)),
    "unknown preset": (inversion(preset="papr"), ("preset",)),
    "unknown loss": (inversion(loss="cosine"), ("loss",)),
    "unknown field": (inversion(stepsize=1), ("stepsize",)),
    "seed negative": (inversion(seed=-1), ("seed",)),
    "noise with a huge deviation": (inversion(start={"source": "noise", "std": 7}), ("start.std",)),
    "two starts for three targets": (inversion(start=targets(indices=[0, 1])), ("body",)),
    "a list": ([inversion()], ("body",)),
    "null": (None, ("body",)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_field_and_makes_nothing(api: TestClient, case: str) -> None:
    body, fields = BAD[case]
    assert_problem(post(api, body), 422, *fields)
    assert api.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(api: TestClient, number: str) -> None:
    text = json.dumps(inversion(eps=0)).replace('"eps": 0', f'"eps": {number}')
    response = api.post("/v1/jobs", content=text, headers={"Content-Type": "application/json"})
    assert_problem(response, 422, "eps")


def test_text_that_is_not_json_is_refused(api: TestClient) -> None:
    response = api.post("/v1/jobs", content="{not json", headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


def test_the_message_says_what_is_allowed(api: TestClient) -> None:
    problem = post(api, inversion(model="x")).json()
    known = ", ".join(card["name"] for card in api.get("/v1/models").json())
    assert problem["errors"][0]["message"] == f"is unknown; allowed: {known}"
    problem = post(api, inversion(steps=0)).json()
    assert "greater than or equal to 1" in problem["errors"][0]["message"]


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_image_is_refused_and_not_kept(api: TestClient, settings: Settings, case: str) -> None:
    response = api.post("/v1/images", content=REFUSED[case][0])
    assert_problem(response, 422, "body")
    assert [p for p in (settings.data_dir / "objects").rglob("*") if p.is_file()] == []


def test_an_image_is_stored_once_and_served_as_posted(api: TestClient) -> None:
    data = encode(noise())
    first, again = api.post("/v1/images", content=data), api.post("/v1/images", content=data)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    got = api.get(first.headers["location"])
    assert (got.content, got.headers["content-type"]) == (data, "image/png")


def test_an_image_whose_object_was_lost_is_stored_again_when_it_is_posted_again(api: TestClient) -> None:
    data = encode(noise())
    first = api.post("/v1/images", content=data)
    storage = api.app.state.context.storage  # type: ignore[attr-defined]
    storage.delete(image_key(first.json()["id"]))
    assert api.get(first.headers["location"]).status_code == 404
    assert api.post("/v1/images", content=data).json() == first.json()
    assert api.get(first.headers["location"]).content == data


def test_a_tensor_is_stored_and_served_as_posted(api: TestClient) -> None:
    data = npy(np.asfortranarray(np.full((3, 4, 5), 0.25, np.float32)))
    image = api.post("/v1/images", content=data)
    assert image.status_code == 201
    assert (image.json()["width"], image.json()["height"]) == (5, 4)
    got = api.get(image.headers["location"])
    assert (got.content, got.headers["content-type"]) == (data, "application/x-npy")


def test_an_uploaded_image_says_how_it_is_resized(api: TestClient) -> None:
    image = api.post("/v1/images", content=encode(noise(size=(40, 30)))).json()
    job = post(api, inversion(targets={"source": "images", "images": [image["id"]]})).json()
    item = api.get(job["links"]["items"]).json()["items"][0]
    assert item["target"]["resized"] == "40 x 30 to 32 x 32: centre crop to a square, bicubic"


def test_an_image_of_the_wrong_size_can_be_refused(api: TestClient) -> None:
    image = api.post("/v1/images", content=encode(noise(size=(40, 30)))).json()
    body = inversion(targets={"source": "images", "images": [image["id"]]}, resize="refuse")
    problem = assert_problem(post(api, body), 422, "targets.images.0")
    assert "is 40 x 30; cifar10-robust takes 32 x 32" in problem["detail"]


def test_a_body_over_the_limit_is_refused(settings: Settings, api: TestClient) -> None:
    small = settings.model_copy(update={"max_body_bytes": 1000})
    with TestClient(create_app(small, api.app.state.context)) as client:  # type: ignore[attr-defined]
        assert_problem(client.post("/v1/images", content=b"x" * 1001), 413, "body")
        chunks = (b"x" * 100 for _ in range(11))  # no declared length
        assert_problem(client.post("/v1/images", content=chunks), 413, "body")
        assert client.post("/v1/images", content=encode(noise(size=(4, 4)))).status_code == 201


def test_what_does_not_exist_is_not_found(api: TestClient) -> None:
    job = post(api, inversion()).json()
    for path in ("/v1/jobs/none", "/v1/jobs/none/items", "/v1/jobs/none/artifacts", f"/v1/jobs/{job['id']}/items/3",
                 f"/v1/jobs/{job['id']}/items/0/artifacts/result.png", "/v1/images/none", "/v1/models/none",
                 "/v1/datasets/none", "/v1/nothing"):  # fmt: skip
        assert_problem(api.get(path), 404)
    assert_problem(api.post("/v1/jobs/none/cancel"), 404)


def test_cancelling_answers_the_cancelled_job(api: TestClient) -> None:
    job = post(api, inversion()).json()
    response = api.post(job["links"]["cancel"])
    assert response.status_code == 202
    assert response.json()["state"] == "cancelled"
    assert response.json()["items"]["cancelled"] == 3


def test_lists_are_paged_and_filtered(api: TestClient) -> None:
    ids = [post(api, inversion()).json()["id"] for _ in range(5)]
    api.post(f"/v1/jobs/{ids[0]}/cancel")
    assert _all_pages(api, "/v1/jobs?limit=2", "jobs", lambda job: job["id"]) == ids[::-1]
    assert [job["id"] for job in api.get("/v1/jobs?state=cancelled").json()["jobs"]] == [ids[0]]
    items = f"/v1/jobs/{ids[0]}/items?limit=1"
    assert _all_pages(api, items, "items", lambda item: item["index"]) == [0, 1, 2]


def _all_pages(api: TestClient, url: str, name: str, of: Callable[[Any], Any]) -> list[Any]:
    page = api.get(url).json()
    found = [of(entry) for entry in page[name]]
    while page["next_cursor"]:
        page = api.get(url, params={"cursor": page["next_cursor"]} | dict([url.split("?")[1].split("=")])).json()
        found += [of(entry) for entry in page[name]]
    return found


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=0", "limit"), ("limit=501", "limit"), ("limit=x", "limit"), ("state=done", "state"),
     ("cursor=abc", "cursor"), ("cursor=%00", "cursor"), ("cursor=eA", "cursor")],
)  # fmt: skip
def test_bad_queries_are_refused_by_name(api: TestClient, query: str, field: str) -> None:
    assert_problem(api.get(f"/v1/jobs?{query}"), 422, field)


def test_what_no_database_could_compare_is_refused_by_name(api: TestClient) -> None:
    job = post(api, inversion()).json()["id"]
    assert_problem(api.get("/v1/jobs/%00"), 422, "job_id")
    assert_problem(api.get(f"/v1/jobs/{job}/items/99999999999999999999"), 422, "index")
    assert_problem(api.get(f"/v1/jobs/{job}/items/-1"), 422, "index")
    assert_problem(api.get("/v1/images/%00"), 422, "image_id")
    for part in ("9" * 30, "\0"):
        assert_problem(api.get(f"/v1/jobs/{job}/items", params={"cursor": encode_cursor(part)}), 422, "cursor")
    for first, second in (("nan", job), ("1.0", "\0")):
        assert_problem(api.get("/v1/jobs", params={"cursor": encode_cursor(first, second)}), 422, "cursor")


def test_a_body_of_many_errors_gets_a_short_answer(api: TestClient) -> None:
    response = post(api, inversion(targets=targets(indices=[-1] * 60_000)))
    assert response.status_code == 422
    assert len(response.json()["errors"]) == 100
    assert len(post(api, inversion(targets=targets(indices=[-1] * 200_000))).content) < 100_000


def test_one_image_posted_many_times_at_once_is_one_image(api: TestClient) -> None:
    data = encode(noise())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.post("/v1/images", content=data), range(16)))
    assert {a.status_code for a in answers} == {201}
    assert len({a.json()["id"] for a in answers}) == 1


def test_a_stored_object_that_has_gone_is_not_found(api: TestClient, settings: Settings) -> None:
    image = api.post("/v1/images", content=encode(noise())).json()
    (settings.data_dir / "objects" / "images" / image["id"].removeprefix("sha256:")).unlink()
    assert_problem(api.get(f"/v1/images/{image['id']}"), 404)


def test_models_and_data_sets_have_cards(api: TestClient) -> None:
    cards = {card["name"]: card for card in api.get("/v1/models").json()}
    robust, standard = cards["cifar10-robust"], cards["cifar10-standard"]
    assert (robust["twin"], standard["twin"]) == (standard["name"], robust["name"])
    assert robust["features"] == robust["layers"]["penultimate"][0] >= 192
    sizes = {card["name"]: card["size"] for card in api.get("/v1/datasets").json()}
    assert sizes == {"cifar10-sample": 400, "natural-sample": 8}


def test_health_and_readiness(api: TestClient) -> None:
    assert api.get("/healthz").json() == {"status": "ok"}
    assert api.get("/readyz").json() == dict.fromkeys(("database", "schema", "storage", "broker"), "ok")


def test_a_service_without_its_database_is_alive_but_not_ready(settings: Settings) -> None:
    unreachable = settings.model_copy(
        update={"database_url": "postgresql+psycopg://nobody@127.0.0.1:1/none", "broker_url": "redis://127.0.0.1:1/0"}
    )
    with TestClient(create_app(unreachable)) as client:
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json() == {
            "database": "unreachable", "schema": "unknown", "storage": "ok", "broker": "unreachable",
        }  # fmt: skip
        assert_problem(client.get("/v1/jobs"), 503)


def test_the_dashboard_is_served_with_a_strict_policy(api: TestClient) -> None:
    page = api.get("/")
    assert page.status_code == 200
    assert page.url.path == "/ui/"
    assert "unsafe" not in page.headers["content-security-policy"]


def test_every_route_is_in_the_openapi_description(api: TestClient) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    assert {"/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/cancel", "/v1/images", "/v1/models"} <= paths.keys()
