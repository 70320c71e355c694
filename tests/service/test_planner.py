"""Who plans large jobs, and what becomes of them when planners end, or their jobs do."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from service import jobs, leases
from service.bulk import plan, planner
from service.bulk_models import Planning
from service.models import Item, Job, Shard
from service.reconciler import Reconciler
from tests.fixtures import inversion
from tests.service.bulk import ALL, MANIFEST, SOME, Bulk, bulk, finish
from tests.service.test_api import assert_problem, post

__all__ = ["bulk"]


def test_a_cancelled_job_is_planned_no_further(bulk: Bulk) -> None:
    job_id = bulk.accepted(targets=SOME)
    assert bulk.api.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    bulk.planner().plan()
    assert bulk.job(job_id)["state"] == "cancelled"
    assert bulk.count(Item, job_id) == 0


def test_a_planner_that_dies_leaves_its_job_to_another(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CHUNK", 4)
    job_id = bulk.accepted(targets=SOME)
    dead = bulk.planner()
    dead._take({})
    steps = dead._planned(job_id)
    for _ in range(3):
        next(steps)
    assert 0 < bulk.count(Item, job_id) < 20
    bulk.planner().plan()  # the lease of the dead one stands
    assert bulk.job(job_id)["state"] == "validating"
    with bulk.context.db.transaction() as session:
        session.execute(update(Planning).values(lease_expires_at=0))
    bulk.planner().plan()
    assert (bulk.job(job_id)["state"], bulk.count(Item, job_id)) == ("queued", 21)
    list(steps)  # it was not dead after all, and may write nothing any more
    assert bulk.count(Item, job_id) == 21


def test_a_planner_that_is_told_to_end_lets_go_of_its_jobs(bulk: Bulk) -> None:
    job_id = bulk.accepted(targets=SOME)
    planner = bulk.planner()
    started = planner.plan
    planner._stop.set()
    started()
    bulk.planner().plan()
    assert bulk.job(job_id)["state"] == "queued"


def test_the_thread_plans_when_it_is_woken(bulk: Bulk) -> None:
    planner = bulk.planner()
    planner.start()
    job_id = bulk.accepted(targets=ALL)
    until = time.monotonic() + 120
    while bulk.job(job_id)["state"] == "validating" and time.monotonic() < until:
        time.sleep(0.05)
    planner.close()
    assert bulk.job(job_id)["state"] == "queued"
    assert not any(thread.name == "planner" and thread.is_alive() for thread in threading.enumerate())


def test_of_very_many_shards_the_first_are_sent_for(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "AHEAD", 3)
    job_id = bulk.planned(targets=SOME)["id"]
    with bulk.context.db.transaction() as session:
        sent = session.scalars(
            select(Shard.first_item).where(Shard.sent_at.is_not(None), ~Shard.last).order_by(Shard.first_item)
        )
        assert sent.all() == [0, 4, 8]
        assert jobs.to_send(session, job_id) == []
    with bulk.context.db.transaction() as session:
        assert leases.claim(session, f"{job_id}.0", "worker", 60) is not None
    with bulk.context.db.transaction() as session:
        assert jobs.to_send(session, job_id) == [f"{job_id}.3"]


def test_two_planners_leave_each_other_their_jobs(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CHUNK", 4)
    monkeypatch.setattr(plan, "LEASE", 2.0)
    monkeypatch.setattr(planner, "LEASE", 2.0)
    ids = [bulk.accepted(targets=ALL | {"slice": {"stop": 40}}) for _ in range(10)]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(bulk.planner().plan) for _ in range(2)]:
            done.result(60)
    assert [bulk.job(job_id)["state"] for job_id in ids] == ["queued"] * 10


def test_a_planner_takes_its_own_jobs_once(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CHUNK", 4)
    bulk.accepted(targets=SOME)
    own = bulk.planner()
    (job_id,) = own._take({})
    with bulk.context.db.transaction() as session:
        session.execute(update(Planning).values(lease_expires_at=0))
    other = bulk.accepted(targets=SOME)
    assert own._take({job_id}) == [other]


def test_a_job_that_was_cancelled_is_not_looked_at_again(bulk: Bulk) -> None:
    job_id = bulk.accepted(targets=SOME)
    bulk.api.post(f"/v1/jobs/{job_id}/cancel")
    bulk.planner().plan()
    with bulk.context.db.reading() as session:
        assert session.get_one(Planning, job_id).finished_at is not None


def test_a_deadline_ends_a_job_that_is_being_planned(bulk: Bulk) -> None:
    job_id = bulk.accepted(targets=SOME, deadline="2099-01-01T00:00:00Z")
    with bulk.context.db.transaction() as session:
        session.execute(update(Job).values(deadline=1.0))
    Reconciler(bulk.context.db, bulk.context.broker, bulk.context.settings)._expire_jobs()
    assert bulk.job(job_id)["state"] == "expired"


def test_a_source_of_unknown_size_passes_no_limit(bulk: Bulk) -> None:
    small = bulk.context.settings.model_copy(update={"max_queued_items": 20})
    bulk.context = replace(bulk.context, settings=small)
    bulk.listed(*[{"dataset": "cifar10-sample", "index": i} for i in range(30)])
    job = bulk.planned(targets=MANIFEST)
    assert (job["state"], job["error"]["title"], bulk.count(Item, job["id"])) == ("failed", "Too many items queued", 0)


def test_a_manifest_of_blank_lines_is_not_read_for_ever(bulk: Bulk) -> None:
    small = bulk.context.settings.model_copy(update={"max_bulk_items": 10})
    bulk.context = replace(bulk.context, settings=small)
    bulk.context.storage.put("imports/list.jsonl", b"\n" * 1000, "application/jsonl")
    job = bulk.planned(targets=MANIFEST)
    assert (job["state"], job["error"]["title"]) == ("failed", "Invalid inputs")
    assert "has over 20 lines" in job["error"]["detail"]


def test_a_prefix_of_too_many_pictures_is_not_listed_to_its_end(bulk: Bulk) -> None:
    small = bulk.context.settings.model_copy(update={"max_bulk_items": 2})
    bulk.context = replace(bulk.context, settings=small)
    for n in range(3):
        bulk.context.storage.put(f"imports/p/{n}.png", b"1", "image/png")
    job = bulk.planned(targets={"source": "prefix", "prefix": "imports/p/"})
    assert "more than 2 pictures" in job["error"]["detail"]


def test_an_index_out_of_range_is_an_entry_that_can_be_skipped(bulk: Bulk) -> None:
    job = bulk.planned(targets=ALL | {"indices": [0, 99_999]}, on_invalid="skip")
    assert (job["state"], job["items"]["total"]) == ("queued", 2)
    assert bulk.errors(job["id"])["errors"] == [
        {"entry": 2, "field": "index", "message": "is 99999; allowed: 0 to 399"}
    ]


@pytest.mark.parametrize("key", ["imports/../x", "imports/a/../../x"])
def test_a_key_that_leads_elsewhere_is_refused(bulk: Bulk, key: str) -> None:
    assert_problem(post(bulk.api, inversion(targets={"source": "manifest", "key": key})), 422, "targets.key")
    assert_problem(post(bulk.api, inversion(targets={"source": "prefix", "prefix": key})), 422, "targets.prefix")


def test_a_job_of_which_only_the_table_was_made_has_failed(bulk: Bulk) -> None:
    job_id = bulk.planned(targets=SOME)["id"]
    finish(bulk, job_id, lambda index: index == 20)
    assert bulk.job(job_id)["state"] == "failed"


def test_errors_are_paged_past_every_field(bulk: Bulk) -> None:
    bulk.listed(*[{"key": "imports/a", field: 1} for field in ("a|b", "a\nb", "\u00e9" * 90)])
    job_id = bulk.planned(targets=MANIFEST)["id"]
    found, query = [], "?limit=1"
    while query:
        page = bulk.errors(job_id, query)
        found += [error["entry"] for error in page["errors"]]
        query = f"?limit=1&cursor={page['next_cursor']}" if page["next_cursor"] else ""
    assert found == [1, 2, 3]
