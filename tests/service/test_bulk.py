"""Large jobs: taken at once, planned later in chunks, with what is wrong by entry; nothing half-created is left."""

from dataclasses import replace
from typing import Any

import pytest

from service.bulk import plan
from service.bulk_models import Planning
from service.models import Item, Job, Shard
from service.states import JobState
from tests.fixtures import inversion
from tests.service.bulk import ALL, MANIFEST, SOME, Bulk, bulk
from tests.service.test_api import assert_problem, post
from tests.service.test_images import encode, noise

__all__ = ["bulk"]


def test_a_whole_data_set_is_an_inversion(bulk: Bulk) -> None:
    job = bulk.planned(targets=ALL)
    assert (job["state"], job["items"]["total"], job["items"]["queued"]) == ("queued", 401, 401)
    items = bulk.items(job["id"])
    assert [item["target"]["index"] for item in items[:-1]] == list(range(400))
    assert [item["start"]["draw"] for item in items[:-1]] == list(range(400))
    assert items[-1]["target"]["source"] == "table"
    assert job["parameters"]["targets"] == {
        **ALL,
        "slice": None,
        "classes": None,
        "random": None,
        "seed": 0,
        "count": 400,
    }


def test_a_large_job_is_planned_as_a_small_one_would_be(bulk: Bulk) -> None:
    small = post(bulk.api, inversion(targets=ALL | {"slice": {"stop": 8}})).json()
    large = bulk.planned(targets=ALL | {"slice": {"stop": 9}})
    same = [{k: v for k, v in item.items() if k in ("index", "target", "start", "settings")}
            for item in bulk.items(small["id"])]  # fmt: skip
    assert same == [{k: item[k] for k in same[0]} for item in bulk.items(large["id"])[:8]]
    without = {"targets"}
    assert {k: v for k, v in small["parameters"].items() if k not in without} == {
        k: v for k, v in large["parameters"].items() if k not in without
    }


@pytest.mark.parametrize(
    ("targets", "indices"),
    [
        (ALL | {"slice": {"start": 5, "stop": 30, "step": 10}}, [5, 15, 25]),
        (ALL | {"indices": [7, 3, 3], "classes": ["cat", "dog", "frog", "deer", "horse"]}, None),
        (ALL | {"random": 3, "seed": 1}, None),
        (ALL | {"classes": ["ship"], "random": 2}, None),
    ],
)
def test_filters_are_indices_in_small_jobs(bulk: Bulk, targets: dict[str, Any], indices: list[int] | None) -> None:
    job, again = (post(bulk.api, inversion(targets=targets)).json() for _ in range(2))
    assert job["state"] == "queued"
    found = job["parameters"]["targets"]["indices"]
    assert found == again["parameters"]["targets"]["indices"]
    labels = bulk.context.catalog.datasets["cifar10-sample"]
    names = [labels.card.classes[labels.labels[i]] for i in found]
    assert indices is None or found == indices
    assert all(name in targets.get("classes", names) for name in names)
    assert "random" not in targets or (len(found) == targets["random"] and found == sorted(set(found)))


@pytest.mark.parametrize(
    ("targets", "field"),
    [
        (ALL | {"classes": ["cat", "unicorn"]}, "targets.classes.1"),
        (ALL | {"random": 401}, "targets.random"),
        (ALL | {"slice": {"start": 400}}, "targets"),
        (ALL | {"indices": [0, 400], "classes": ["cat"]}, "targets.indices.1"),
        (ALL | {"indices": [0], "slice": {}}, "targets"),
        (ALL | {"slice": {"step": 0}}, "targets.slice.step"),
        ({"source": "dataset", "dataset": "nowhere"}, "targets.dataset"),
        ({"source": "prefix", "prefix": "jobs/"}, "targets.prefix"),
        ({"source": "manifest"}, "targets"),
        ({"source": "manifest", "key": "../etc/passwd"}, "targets.key"),
        ({"source": "manifest", "manifest": "sha256:" + "0" * 64}, "targets.manifest"),
    ],
)
def test_a_bad_source_is_refused_at_the_door(bulk: Bulk, targets: dict[str, Any], field: str) -> None:
    assert_problem(post(bulk.api, inversion(targets=targets)), 422, field)
    assert bulk.api.get("/v1/jobs").json()["jobs"] == []


def test_filters_that_are_too_large_are_refused_where_nothing_is_planned_later(bulk: Bulk) -> None:
    body = {
        "kind": "feature_manipulation",
        "model": "cifar10-robust",
        "preset": "cifar",
        "images": ALL,
        "coordinates": [1],
    }
    assert_problem(post(bulk.api, body), 422, "images")


def test_restarts_count(bulk: Bulk) -> None:
    assert bulk.planned(targets=ALL | {"slice": {"stop": 5}}, restarts=2)["items"]["total"] == 6
    response = post(bulk.api, inversion(targets=ALL, restarts=64, steps=1))
    assert response.status_code == 202  # 25,600 of 1,300,000


def test_a_prefix_is_every_picture_under_it(bulk: Bulk) -> None:
    for name in ("b.png", "a.PNG", "notes.txt", "c/d.jpeg"):
        bulk.context.storage.put(f"imports/photos/{name}", encode(noise(size=(32, 32))), "image/png")
    job = bulk.planned(targets={"source": "prefix", "prefix": "imports/photos/"})
    keys = [item["target"].get("key") for item in bulk.items(job["id"])]
    assert keys == [f"imports/photos/{name}" for name in ("a.PNG", "b.png", "c/d.jpeg")] + [None]


def test_a_manifest_names_images_of_every_source(bulk: Bulk) -> None:
    image = bulk.api.post("/v1/images", content=encode(noise(size=(32, 32)))).json()["id"]
    bulk.listed({"dataset": "cifar10-sample", "index": 4, "id": "first"}, "", {"image": image, "label": "cat"},
                {"key": "imports/x.png"})  # fmt: skip
    targets = [item["target"] for item in bulk.items(bulk.planned(targets=MANIFEST)["id"])]
    assert [target["source"] for target in targets] == ["dataset", "image", "object", "table"]
    assert (targets[0]["id"], targets[1]["label"], targets[2]["key"]) == ("first", "cat", "imports/x.png")


def test_a_csv_manifest_is_the_same(bulk: Bulk) -> None:
    bulk.listed("\ufeffdataset,index,id", 'cifar10-sample,4,"a, b"', "cifar10-sample,5,", key="imports/list.csv")
    items = bulk.items(bulk.planned(targets={"source": "manifest", "key": "imports/list.csv"})["id"])
    assert [(i["target"]["index"], i["target"].get("id")) for i in items[:-1]] == [(4, "a, b"), (5, None)]


BAD_LINES = [
    ("{", "line"), ("[1]", "line"), ({}, "line"), ({"dataset": "cifar10-sample"}, "line"),
    ({"dataset": "cifar10-sample", "index": 400}, "index"), ({"dataset": "cifar10-sample", "index": "4"}, "index"),
    ({"dataset": "nowhere", "index": 0}, "dataset"), ({"image": "sha256:" + "0" * 64}, "image"),
    ({"image": "cat.png"}, "image"), ({"key": "models/x"}, "key"), ({"key": "imports/../jobs/x"}, "key"),
    ({"key": "imports/x.png", "size": 3}, "size"), ({"key": "imports/x.png", "id": 3}, "id"),
    ('{"key": "imports/x.png", "\\u0000\\ud800": 1}', "\\x00\\ud800"),
    ('{"key": "imports/' + "x" * 70_000 + '"}', "line"), ("null", "line"),
]  # fmt: skip


def test_what_is_wrong_is_told_by_entry_and_fails_the_job(bulk: Bulk) -> None:
    good = {"dataset": "cifar10-sample", "index": 0}
    bulk.listed(good, *(line for line, _ in BAD_LINES), good)
    job = bulk.planned(targets=MANIFEST)
    assert (job["state"], job["error"]["title"], job["items"]["total"]) == ("failed", "Invalid inputs", 0)
    assert "16 of the first 18" in job["error"]["detail"]
    told = [(error["entry"], error["field"]) for error in bulk.errors(job["id"])["errors"]]
    assert told == [(n, field) for n, (_, field) in enumerate(BAD_LINES, 2)]
    assert bulk.count(Item, job["id"]) == bulk.count(Shard, job["id"]) == 0


def test_what_is_wrong_can_be_skipped(bulk: Bulk) -> None:
    good = [{"dataset": "cifar10-sample", "index": i} for i in range(3)]
    bulk.listed(good[0], {}, good[1], {"key": 1}, good[2])
    job = bulk.planned(targets=MANIFEST, on_invalid="skip")
    assert (job["state"], job["items"]["total"]) == ("queued", 4)
    assert "2 of 5 entries" in job["warnings"][-1]
    assert [item["start"].get("draw") for item in bulk.items(job["id"])] == [0, 2, 4, None]


def test_errors_come_in_pages(bulk: Bulk) -> None:
    bulk.listed(*["{"] * 5)
    job = bulk.planned(targets=MANIFEST)
    page = bulk.errors(job["id"], "?limit=3")
    rest = bulk.errors(job["id"], f"?limit=3&cursor={page['next_cursor']}")
    assert [error["entry"] for error in (*page["errors"], *rest["errors"])] == [1, 2, 3, 4, 5]
    assert rest["next_cursor"] is None
    assert_problem(bulk.api.get("/v1/jobs/job_none/errors"), 404)


@pytest.mark.parametrize("lines", [[], ["", " "]])
def test_an_empty_source_fails_the_job(bulk: Bulk, lines: list[str]) -> None:
    bulk.listed(*lines)
    job = bulk.planned(targets=MANIFEST)
    assert (job["state"], job["error"]["title"]) == ("failed", "No inputs")


def test_a_manifest_that_is_not_there_fails_the_job(bulk: Bulk) -> None:
    job = bulk.planned(targets=MANIFEST)
    assert (job["state"], job["error"]["title"]) == ("failed", "Invalid inputs")
    assert "imports/list.jsonl" in job["error"]["detail"]


def test_each_item_may_start_from_the_next_ones_target(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CHUNK", 4)
    items = bulk.items(bulk.planned(targets=ALL | {"slice": {"stop": 10}}, start={"source": "other_target"})["id"])
    assert [item["start"]["index"] for item in items[:-1]] == [*range(1, 10), 0]


def test_starts_of_another_number_are_refused(bulk: Bulk) -> None:
    start = {"source": "dataset", "dataset": "cifar10-sample", "indices": [0, 1]}
    assert_problem(post(bulk.api, inversion(targets=SOME, start=start)), 422, "start")
    assert_problem(post(bulk.api, inversion(targets=MANIFEST, start=start)), 422, "start")


def test_a_retried_request_finds_the_job_that_it_made(bulk: Bulk) -> None:
    body = inversion(targets=SOME)
    made = [post(bulk.api, body, **{"Idempotency-Key": "once"}).json()["id"] for _ in range(2)]
    assert made[0] == made[1]
    assert bulk.count(Planning, made[0]) == 1


def test_limits_hold_for_a_source_whose_size_was_not_known(bulk: Bulk) -> None:
    small = bulk.context.settings.model_copy(update={"max_bulk_items": 3})
    bulk.context = replace(bulk.context, settings=small)
    bulk.listed(*[{"dataset": "cifar10-sample", "index": i} for i in range(4)])
    job = bulk.planned(targets=MANIFEST)
    assert (job["state"], job["error"]["title"]) == ("failed", "Invalid inputs")
    assert "allowed: 3" in job["error"]["detail"]
    with bulk.context.db.reading() as session:
        assert session.get_one(Job, job["id"]).state == JobState.FAILED
