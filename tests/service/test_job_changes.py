"""Merge patches and clones."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from service.models import Job
from tests.fixtures import inversion
from tests.service.bodies import figure, post_recipe
from tests.service.test_api import assert_problem, post
from tests.service.test_lifecycle import LATER, soon

D = {"source": "dataset", "dataset": "cifar10-sample"}
MIXED = {"source": "mixed", "parts": [D | {"indices": [-1]}], "dataset": None, "indices": None}
SELF = "/v1/jobs/{}"
FULL = {
    "description": "first", "labels": {"a": "1", "b": "2"}, "metadata": {"x": {"y": 1, "z": 2}, "n": 3},
    "priority": "low", "deadline": LATER, "retention_seconds": 600,
}  # fmt: skip


def patch(api: TestClient, job: Any, **body: Any) -> Any:
    return api.patch(job["links"]["self"], json=body)


def test_what_a_request_has_beside_its_parameters_is_answered(api: TestClient) -> None:
    job = post(api, inversion(**FULL)).json()
    assert {name: job[name] for name in FULL} == FULL | {"deadline": "2099-12-31T21:30:00Z"}
    assert (job["expires_at"], job["cloned_from"], job["planning"]) == (None, None, None)
    assert not FULL.keys() & job["parameters"].keys()


def test_a_patch_changes_what_it_names_and_null_removes(api: TestClient) -> None:
    job = post(api, inversion(**FULL)).json()
    changed = patch(api, job, labels={"a": None, "c": "3"}, metadata={"x": {"y": None}, "m": [1]}).json()
    assert changed["labels"] == {"b": "2", "c": "3"}
    assert changed["metadata"] == {"x": {"z": 2}, "n": 3, "m": [1]}
    assert {name: changed[name] for name in ("description", "priority", "retention_seconds")} == {
        name: FULL[name] for name in ("description", "priority", "retention_seconds")
    }
    assert patch(api, job).json() == changed
    bare = patch(api, job, **dict.fromkeys(FULL)).json()
    assert {name: bare[name] for name in FULL} == {
        "description": None, "labels": {}, "metadata": {}, "priority": "normal", "deadline": None,
        "retention_seconds": None,
    }  # fmt: skip
    assert api.get("/v1/jobs", params={"label": "c"}).json()["jobs"] == []
    patch(api, job, labels={"d": "4"}, description="Second thoughts")
    for query in ({"label": "d=4"}, {"text": "second th"}, {"text": "d=4"}):
        assert [found["id"] for found in api.get("/v1/jobs", params=query).json()["jobs"]] == [job["id"]]


@pytest.mark.parametrize(
    ("body", "field"),
    [({"labels": {"": "x"}}, "labels.."), ({"labels": {f"k{n}": "" for n in range(40)}}, "labels"),
     ({"labels": {"a": 1}}, "labels.a"), ({"labels": {"a": "\x00"}}, "labels.a"),
     ({"metadata": {"a": "x" * 20_000}}, "metadata"),
     ({"metadata": 1}, "metadata"), ({"metadata": {"a": "\x00"}}, "metadata"), ({"priority": "urgent"}, "priority"),
     ({"deadline": "2020-01-01T00:00:00Z"}, "deadline"), ({"retention_seconds": 1}, "retention_seconds"),
     ({"description": "x" * 501}, "description"), ({"state": "queued"}, "state")],
)  # fmt: skip
def test_a_bad_patch_changes_nothing(api: TestClient, body: dict[str, Any], field: str) -> None:
    job = post(api, inversion(**FULL)).json()
    answer = patch(api, job, **{"description": "changed"} | body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith(field.rstrip("."))
    assert api.get(job["links"]["self"]).json()["description"] == "first"


def test_labels_that_are_too_many_only_together_are_refused(api: TestClient) -> None:
    job = post(api, inversion(labels={f"a{n}": "" for n in range(30)})).json()
    assert_problem(patch(api, job, labels={f"b{n}": "" for n in range(3)}), 422, "labels")
    assert_problem(patch(api, job, metadata={str(n): "x" * 1000 for n in range(17)}), 422, "metadata")
    assert len(patch(api, job, labels={"a0": None} | {f"b{n}": "" for n in range(3)}).json()["labels"]) == 32
    assert_problem(api.patch("/v1/jobs/none", json={}), 404)


def test_a_deadline_that_is_taken_away_no_longer_ends_a_job(api: TestClient) -> None:
    context: Any = api.app.state.context  # type: ignore[attr-defined]
    job = post(api, inversion(deadline=soon(1000))).json()
    with context.db.transaction() as session:
        session.execute(update(Job).values(state="failed", deadline=1.0))
    assert patch(api, job, deadline=None).json()["deadline"] is None


def test_a_clone_is_the_same_request_changed(api: TestClient) -> None:
    job = post(api, inversion(**FULL)).json()
    patch(api, job, labels={"a": None}, priority="high")
    answer = api.post(job["links"]["clone"])
    clone = answer.json()
    assert (answer.status_code, clone["cloned_from"], answer.headers["location"]) == (
        202, job["id"], SELF.format(clone["id"])
    )  # fmt: skip
    assert clone["parameters"] == job["parameters"]
    assert (clone["labels"], clone["priority"], clone["deadline"]) == ({"b": "2"}, "high", None)
    other = api.post(job["links"]["clone"], json={"steps": 7, "labels": {"b": None}, "deadline": LATER}).json()
    assert other["parameters"] == job["parameters"] | {"steps": 7}
    assert (other["labels"], other["deadline"]) == ({}, "2099-12-31T21:30:00Z")
    again = api.post(other["links"]["clone"], json={"kind": "radius_sweep", "radii": [1.0]}).json()
    assert (again["kind"], again["cloned_from"]) == ("radius_sweep", other["id"])


def test_a_job_tells_its_request_and_what_its_preset_has_otherwise(api: TestClient) -> None:
    body = inversion(steps=7, restarts=2, eps=1000.0, best=None, labels={"a": "1"}, deadline=LATER)
    job = post(api, body).json()
    told = api.get(job["links"]["request"]).json()
    assert told["address"] == "/v1/jobs"
    assert told["body"] == {name: value for name, value in body.items() if name != "deadline"}
    assert told["differs_from"] == {"steps": 300, "restarts": 1}
    assert post(api, told["body"]).json()["parameters"] == job["parameters"]
    recipe = post_recipe(api, "figure-3", figure("figure-3", steps=9)).json()
    told = api.get(recipe["links"]["request"]).json()
    assert (told["address"], told["differs_from"]["steps"]) == ("/v1/recipes/figure-3", 300)
    assert api.post(told["address"], json=told["body"]).json()["parameters"] == recipe["parameters"]
    assert_problem(api.get(f"/v1/jobs/{recipe['parts']['model']}/request"), 409)
    assert_problem(api.get("/v1/jobs/none/request"), 404)


def test_a_request_that_is_no_longer_taken_is_told_as_it_was(api: TestClient) -> None:
    context: Any = api.app.state.context  # type: ignore[attr-defined]
    job = post(api, inversion()).json()
    with context.db.transaction() as session:
        session.execute(update(Job).values(request=inversion(gone=1)))
    told = api.get(job["links"]["request"]).json()
    assert (told["body"], told["differs_from"]) == (inversion(gone=1), {})
    assert_problem(api.post(job["links"]["clone"]), 422, "gone")


def test_a_clone_that_is_asked_for_twice_is_made_once(api: TestClient) -> None:
    job, key = post(api, inversion()).json(), {"Idempotency-Key": "k"}
    first, again = (api.post(job["links"]["clone"], json={"steps": 7}, headers=key).json() for _ in range(2))
    assert first["id"] == again["id"]
    assert_problem(api.post(job["links"]["clone"], json={"steps": 8}, headers=key), 422)
    assert_problem(post(api, inversion(steps=7), **key), 422)


@pytest.mark.parametrize(
    ("overrides", "field"),
    [({"steps": 0}, "steps"), ({"model": "x"}, "model"), ({"kind": "x"}, "kind"), ({"y": 1}, "y"),
     ({"model": None}, "model"), ({"targets": D | {"indices": [-1]}}, "targets.indices.0"),
     ({"targets": MIXED}, "targets.parts.0.indices.0"),
     ({"start": {"source": "noise", "std": 9}}, "start.std"), ({"kind": None}, "kind"),
     ({"labels": {"kind": 1}}, "labels.kind")],
)  # fmt: skip
def test_a_clone_that_cannot_be_is_refused_by_name(api: TestClient, overrides: Any, field: str) -> None:
    job = post(api, inversion()).json()
    assert_problem(api.post(job["links"]["clone"], json=overrides), 422, field)
    assert len(api.get("/v1/jobs").json()["jobs"]) == 1


def test_a_recipe_is_cloned_as_a_recipe_and_a_part_not_at_all(api: TestClient) -> None:
    job = post_recipe(api, "figure-3", figure("figure-3", labels={"a": "1"})).json()
    clone = api.post(job["links"]["clone"], json={"seed": 5}).json()
    assert (clone["kind"], clone["cloned_from"], clone["labels"]) == ("recipe", job["id"], {"a": "1"})
    assert clone["parts"].keys() == job["parts"].keys()
    assert clone["parameters"]["request"] == job["parameters"]["request"] | {"seed": 5}
    part = next(iter(job["parts"].values()))
    assert_problem(api.post(f"/v1/jobs/{part}/clone"), 409)


def test_jobs_from_before_requests_were_kept_are_cloned_where_that_can_be(api: TestClient) -> None:
    context: Any = api.app.state.context  # type: ignore[attr-defined]
    job, recipe = post(api, inversion()).json(), post_recipe(api, "figure-3", figure("figure-3")).json()
    with context.db.transaction() as session:
        session.execute(update(Job).values(request=None))
    assert_problem(api.post(job["links"]["clone"]), 409)
    assert api.post(recipe["links"]["clone"]).status_code == 202
    assert_problem(api.post("/v1/jobs/none/clone"), 404)
