"""Lists of jobs: what narrows them, what they leave out, and how little is said again when nothing has changed."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, update

from service import jobs, queries, rendering
from service.db import Database
from service.models import Item, Job
from service.queries import Filter
from service.states import ItemState, JobState
from tests.fixtures import inversion
from tests.service import inserting
from tests.service.bodies import figure, post_recipe
from tests.service.test_api import assert_problem, post
from tests.service.test_jobs import cancel, claimed, do, fail_item, finish, plan, save, submit

Labels = dict[str, str]


def labelled(db: Database, labels: Labels, description: str | None = None) -> str:
    beside = {"labels": labels, "description": description}
    return do(db, inserting.submit, plan(1), "digest", None, 1, beside)[0]


def listed(db: Database, **narrowed: Any) -> list[str]:
    with db.reading() as session:
        return [job.id for job in queries.jobs(session, Filter(**narrowed), 50).jobs]


def test_labels_narrow_by_name_by_value_and_together(database: Database) -> None:
    blue, red = labelled(database, {"team": "a=b", "colour": "blue"}), labelled(database, {"colour": "red"})
    none = labelled(database, {})
    assert listed(database) == [none, red, blue]
    assert listed(database, labels=["colour"]) == [red, blue]
    assert listed(database, labels=["colour=red"]) == [red]
    assert listed(database, labels=["colour", "team=a=b"]) == [blue]
    assert listed(database, labels=["colour=red", "team"]) == listed(database, labels=["Colour"]) == []
    assert listed(database, labels=["colour="]) == []


def test_text_is_found_in_what_names_a_job_and_nothing_in_it_is_a_pattern(database: Database) -> None:
    job = labelled(database, {"run": "Nightly"}, "100% of A_B \\ done")
    other = labelled(database, {}, "100 of AxB")
    for text in (job[4:], "nightly", "NIGHTLY", "run=", "100%", "a_b", "\\ d", "inversion\nm"):
        assert job in listed(database, text=text), text
    assert listed(database, text="100%") == listed(database, text="a_b") == [job]
    assert listed(database, text="axb") == [other]
    assert listed(database, text="%") == [job]


def test_states_kinds_and_times_narrow(database: Database) -> None:
    ids = [submit(database)[0] for _ in range(3)]
    with database.transaction() as session:
        for n, job_id in enumerate(ids):
            session.execute(update(Job).where(Job.id == job_id).values(created_at=100.0 * n))
        session.execute(update(Job).where(Job.id == ids[1]).values(kind="evaluation"))
    cancel(database, ids[2])
    assert listed(database, states=[JobState.QUEUED]) == [ids[1], ids[0]]
    assert listed(database, states=[JobState.QUEUED, JobState.CANCELLED]) == ids[::-1]
    assert listed(database, kind="evaluation") == [ids[1]]
    assert listed(database, created_after=0.0, created_before=200.0) == [ids[1]]


def test_a_list_has_no_parameters_and_reads_none(database: Database) -> None:
    submit(database)
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    with database.reading() as session:
        [job] = queries.jobs(session, Filter(), 50).jobs
    assert not {"parameters", "transitions"} & job.model_dump().keys()
    assert "curve" not in job.progress.model_dump()
    assert (job.model, job.networks, job.dataset, job.progress.steps_total) == ("m", ["m"], None, 20)
    [page] = [s.partition(" FROM ")[0] for s in statements if s.startswith("SELECT jobs.id, jobs.kind")]
    assert not {"jobs.parameters", "jobs.request", "jobs.text"} & set(page.replace(",", "").split())


def test_a_list_names_networks_data_sets_and_what_recipes_draw(api: TestClient) -> None:
    job = post(api, inversion()).json()
    recipe = post_recipe(api, "figure-3", figure("figure-3")).json()
    drawn, searched = api.get("/v1/jobs", params={"top_level": True}).json()["jobs"]
    assert (drawn["id"], searched["id"]) == (recipe["id"], job["id"])
    assert (searched["model"], searched["dataset"], searched["title"]) == ("cifar10-robust", "cifar10-sample", None)
    assert drawn["networks"] == ["cifar10-robust", "cifar10-standard"]
    assert drawn["title"].startswith("figure-3: ")
    assert job == job | {name: value for name, value in searched.items() if name != "progress"}


def test_a_job_from_before_there_were_summaries_is_listed_all_the_same(database: Database) -> None:
    job_id, _ = submit(database)
    with database.transaction() as session:
        session.execute(update(Job).values(summary=None))
    with database.reading() as session:
        [job] = queries.jobs(session, Filter(), 50).jobs
        assert (job.model, job.progress.steps_total) == ("m", 20)
        assert queries.job(session, job_id).progress.steps_total == 20


@pytest.mark.parametrize(
    ("query", "field"),
    [("label=%00", "label"), ("label==x", "label"), ("kind=X", "kind"), ("created_after=yesterday", "created_after"),
     ("created_before=2020-01-01", "created_before"), ("text=%00", "text"), ("text=", "text")],
)  # fmt: skip
def test_bad_filters_are_refused_by_name(api: TestClient, query: str, field: str) -> None:
    assert_problem(api.get(f"/v1/jobs?{query}"), 422, field)


def test_pages_of_a_filter_join_on(api: TestClient) -> None:
    ids = [post(api, inversion(labels={"n": str(n)})).json()["id"] for n in range(5)]
    post(api, inversion())
    seen, cursor = [], ""
    while True:
        page = api.get(f"/v1/jobs?label=n&limit=2{cursor and f'&cursor={cursor}'}").json()
        seen += [job["id"] for job in page["jobs"]]
        if not (cursor := page["next_cursor"]):
            break
    assert seen == ids[::-1]


@pytest.mark.parametrize("path", ["", "?limit=1", "/{}", "/{}/items", "/{}/items/0", "/{}/artifacts", "/{}/epochs"])
def test_what_has_not_changed_is_not_sent_again(api: TestClient, path: str) -> None:
    url = "/v1/jobs" + path.format(post(api, inversion()).json()["id"])
    first = api.get(url)
    tag = first.headers["etag"]
    assert not tag.startswith("W/")
    for asked in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = api.get(url, headers={"If-None-Match": asked})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), asked
        assert "content-length" not in again.headers
    assert api.get(url, headers={"If-None-Match": '"other"'}).json() == first.json()


def test_what_has_changed_is_sent_again(api: TestClient) -> None:
    job = post(api, inversion()).json()
    urls = ("/v1/jobs", job["links"]["self"], job["links"]["items"])
    tags = {url: api.get(url).headers["etag"] for url in urls}
    api.post(job["links"]["cancel"])
    for url, tag in tags.items():
        assert api.get(url, headers={"If-None-Match": tag}).status_code == 200


def test_an_error_has_no_etag(api: TestClient) -> None:
    answer = api.get("/v1/jobs/none", headers={"If-None-Match": "*"})
    assert (answer.status_code, "etag" in answer.headers) == (404, False)


def test_a_finished_jobs_items_are_not_counted_again(database: Database) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    save(database, lease, 0)
    fail_item(database, lease, 1)
    finish(database, lease)
    with database.reading() as session:
        assert session.get_one(Job, job_id).counts == {"succeeded": 1, "failed": 1}
    with database.transaction() as session:  # as nothing that is over does: the counts are the ones that were kept
        session.execute(update(Item).values(state=ItemState.CANCELLED))
    with database.reading() as session:
        counted = queries.job(session, job_id).items
        assert (counted.succeeded, counted.failed, counted.cancelled) == (1, 1, 0)


def test_a_job_that_is_opened_again_is_counted_again(database: Database) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    save(database, lease, 0)
    fail_item(database, lease, 1)
    finish(database, lease)
    do(database, jobs.retry, job_id)
    with database.reading() as session:
        assert session.get_one(Job, job_id).counts is None
        assert queries.job(session, job_id).items.queued == 1


def test_the_counts_of_a_big_job_may_be_a_moment_old(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "MANY", 1)
    job_id, [shard] = submit(database)

    def queued() -> int:
        with database.reading() as session:
            return queries.job(session, job_id).items.queued

    assert queued() == 2
    claimed(database, shard)
    assert queued() == 2
    monkeypatch.setattr(rendering, "MANY", 2)
    assert queued() == 0
