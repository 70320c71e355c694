"""Finished items of equal jobs are taken over, with their files, and only these."""

from typing import Any

import pytest
from sqlalchemy import select, text

from service import jobs, reuse
from service.bulk import plan
from service.bulk_models import Reuse
from service.models import Artifact, Item
from tests.fixtures import inversion
from tests.service.bulk import ALL, MANIFEST, SOME, Bulk, bulk, finish
from tests.service.test_api import post

__all__ = ["bulk"]


def test_a_job_that_is_sent_again_takes_over_what_was_finished(bulk: Bulk) -> None:
    first = bulk.planned(targets=ALL | {"slice": {"stop": 10}})["id"]
    finish(bulk, first, lambda index: index not in (5, 6, 10))
    again = bulk.planned(targets=ALL | {"slice": {"stop": 10}}, reuse=True)
    assert (again["items"]["succeeded"], again["items"]["queued"]) == (8, 3)
    items = bulk.items(again["id"])
    assert items[3]["provenance"]["reused"] == {"job": first, "index": 3}
    assert items[3]["metrics"] == {"m": 3}
    with bulk.context.db.reading() as session:
        assert session.get_one(Artifact, (again["id"], 3, "a")).key == f"jobs/{first}/items/3/1/a"
        assert session.get_one(Reuse, (again["id"], first))
    finish(bulk, again["id"])
    assert bulk.job(again["id"])["state"] == "succeeded"


def test_a_job_whose_every_item_was_finished_has_only_its_table_to_make(bulk: Bulk) -> None:
    finish(bulk, bulk.planned(targets=SOME)["id"])
    again = bulk.planned(targets=SOME, reuse=True)
    assert (again["items"]["succeeded"], again["items"]["queued"]) == (20, 1)
    finish(bulk, again["id"])
    assert bulk.job(again["id"])["state"] == "succeeded"


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"steps": 21}, {"model": "cifar10-standard"}, {"start": {"source": "gray"}}]
)
def test_other_parameters_are_another_item(bulk: Bulk, change: dict[str, Any]) -> None:
    finish(bulk, bulk.planned(targets=ALL | {"slice": {"stop": 10}})["id"])
    again = bulk.planned(targets=ALL | {"slice": {"stop": 10}}, reuse=True, **change)
    assert again["items"]["succeeded"] == 0


def test_without_being_asked_nothing_is_taken_over(bulk: Bulk) -> None:
    finish(bulk, bulk.planned(targets=SOME)["id"])
    assert bulk.planned(targets=SOME)["items"]["succeeded"] == 0


def test_small_jobs_are_taken_over_too_and_take_over(bulk: Bulk) -> None:
    finish(bulk, post(bulk.api, inversion()).json()["id"])
    assert bulk.planned(reuse=True)["items"]["succeeded"] == 3


def files(bulk: Bulk, job_id: str) -> list[list[str]]:
    return [[artifact["name"] for artifact in item["artifacts"]] for item in bulk.items(job_id)]


def test_equal_items_of_one_job_all_get_the_files(bulk: Bulk) -> None:
    same = ALL | {"indices": [1, 1, 2, 1]}
    body = {"targets": same, "start": {"source": "gray"}, "reuse": True}
    finish(bulk, bulk.planned(**body)["id"])
    again = bulk.planned(**body)
    assert files(bulk, again["id"]) == [["a"], ["a"], ["a"], ["a"], []]


def test_a_job_takes_nothing_over_from_itself(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CHUNK", 4)
    body = {"targets": ALL | {"indices": [1] * 12}, "start": {"source": "gray"}, "reuse": True}
    first = bulk.planned(**body)["id"]
    finish(bulk, first)
    again = bulk.planned(**body)["id"]
    with bulk.context.db.reading() as session:
        assert session.execute(select(Reuse.job_id, Reuse.source_id)).all() == [(again, first)]


def test_what_the_key_of_an_object_does_not_tell_is_computed_anew(bulk: Bulk) -> None:
    bulk.listed({"key": "imports/a.png"})
    finish(bulk, bulk.planned(targets=MANIFEST)["id"])
    assert bulk.planned(targets=MANIFEST, reuse=True)["items"]["succeeded"] == 0


def test_an_object_that_was_replaced_is_computed_anew(bulk: Bulk) -> None:
    photos = {"source": "prefix", "prefix": "imports/p/"}
    bulk.context.storage.put("imports/p/a.png", b"1", "image/png")
    finish(bulk, bulk.planned(targets=photos)["id"])
    assert bulk.planned(targets=photos, reuse=True)["items"]["succeeded"] == 1
    bulk.context.storage.put("imports/p/a.png", b"22", "image/png")
    assert bulk.planned(targets=photos, reuse=True)["items"]["succeeded"] == 0


def test_a_start_that_is_drawn_for_an_index_is_taken_over_at_that_index_alone(bulk: Bulk) -> None:
    drawn = {"start": {"source": "gray"}, "random_start": True, "eps": 1.0}
    finish(bulk, bulk.planned(targets=ALL | {"indices": [3, 4, 5] * 3}, **drawn)["id"])
    again = bulk.planned(targets=ALL | {"indices": [3, 5, 4] * 3}, reuse=True, **drawn)
    assert [item["state"] for item in bulk.items(again["id"])[:3]] == ["succeeded", "queued", "queued"]


def test_a_plan_that_fails_holds_on_to_no_other_job(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CHUNK", 4)
    finish(bulk, bulk.planned(targets=SOME)["id"])
    bulk.listed(*[{"dataset": "cifar10-sample", "index": i} for i in range(8)], "{")
    assert bulk.planned(targets=MANIFEST, reuse=True)["state"] == "failed"
    with bulk.context.db.reading() as session:
        assert session.scalars(select(Reuse.source_id)).all() == []


def test_workers_of_a_job_do_not_wait_for_those_that_take_over_from_it(bulk: Bulk) -> None:
    job_id = bulk.planned(targets=SOME)["id"]
    finish(bulk, job_id, lambda index: index < 10)
    db = bulk.context.db
    if db.sqlite:  # it has one writer at a time
        return
    with db.reading() as session:
        of_job = select(Item.digest).where(Item.job_id == job_id, Item.digest.is_not(None))
        digests = [str(digest) for digest in session.scalars(of_job)]
    with db.transaction() as reuser:
        assert len(reuse.finished(reuser, "job_other", digests)) == 10
        with db.transaction() as worker:
            worker.execute(text("SET LOCAL lock_timeout = '2s'"))
            assert jobs.retry(worker, job_id) == 11
