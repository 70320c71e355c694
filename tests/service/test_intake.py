"""What many ask at a time: answered together, and everyone as if alone."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from service import drafts, jobs
from service.batches import Batches
from service.bulk_models import Delivery, Webhook
from service.db import Database, among
from service.drafts import Draft
from service.errors import IdempotencyKeyReused, NotFound, TooManyQueued
from service.intake import Intake, admitted
from service.models import Item, Job, Shard, Transition
from service.settings import Settings
from service.telling import Told
from tests.service import inserting
from tests.service.test_jobs import do, plan


def draft(items: int = 1, key: str | None = None, digest: str = "digest", **beside: Any) -> Draft:
    return drafts.planned(plan(items), digest, key, 2, {"client": "ada"} | beside)


def take(database: Database, *asked: Draft, settings: Settings | None = None) -> Sequence[str | Exception]:
    """Submit in one group."""
    return do(database, admitted, settings or Settings(), asked)


@pytest.fixture
def intake(database: Database) -> Iterator[Intake]:
    intake = Intake(database, Settings())
    yield intake
    intake.close()


def rows(database: Database, table: type[Any]) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_group_is_inserted_whole(database: Database) -> None:
    asked = [draft(3, labels={"team": "a"}), draft(1), draft(2, description="note")]
    assert take(database, *asked) == [each.job["id"] for each in asked]
    assert [rows(database, table) for table in (Job, Transition, Shard, Item)] == [3, 6, 4, 6]


def test_a_key_that_comes_twice_in_a_group_makes_one_job(database: Database) -> None:
    first, same, other = draft(key="k"), draft(key="k"), draft(key="k", digest="another")
    answers = take(database, first, same, other)
    assert answers[:2] == [first.job["id"]] * 2
    assert isinstance(answers[2], IdempotencyKeyReused)
    assert take(database, same, draft())[0] == first.job["id"]
    assert rows(database, Job) == 2


def test_a_limit_is_met_exactly_within_a_group(database: Database) -> None:
    narrow = Settings(max_queued_items=5, max_queued_items_per_client=4)
    asked = [draft(3), draft(2), draft(1), draft(2, client="bob"), draft(1, client="bob")]
    answers = take(database, *asked, settings=narrow)
    assert [isinstance(each, TooManyQueued) for each in answers] == [False, True, False, True, False]
    with database.reading() as session:
        assert session.scalar(select(func.sum(Job.items))) == 5


def test_a_key_is_answered_where_a_limit_is_reached(database: Database) -> None:
    narrow, first = Settings(max_queued_items=1), draft(key="k")
    assert take(database, first, settings=narrow) == take(database, draft(key="k"), settings=narrow)


def test_every_job_of_a_group_is_told_of(database: Database) -> None:
    with database.transaction() as session:
        values = {"secrets": ["s"], "events": ["job.queued"], "labels": {}, "created_at": 0.0}
        session.add(Webhook(id="hook", url="https://example.com", **values))
    ids = take(database, draft(), draft())
    with database.reading() as session:
        assert set(session.scalars(select(Delivery.job_id))) == set(ids)


def test_many_at_once_each_get_their_own(intake: Intake) -> None:
    asked = [draft(n % 3 + 1, key=f"k{n % 20}", digest=f"{n % 20}") for n in range(100)]
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda each: intake.take(each).result(), asked))
        again = list(pool.map(lambda each: intake.tell(each.job_id).result(), told))
    assert again == told
    assert all(each.job_id.encode() in each.body for each in told)
    assert rows(intake.db, Job) == len({each.job_id for each in told}) == 20


def test_processes_that_insert_a_key_at_once_make_one_job(database: Database) -> None:
    several = [Intake(database, Settings()) for _ in range(4)]
    for n in range(10):
        together = threading.Barrier(4)

        def ask(intake: Intake, key: str = f"k{n}", together: threading.Barrier = together) -> Told:
            asked = draft(key=key)
            together.wait()
            return intake.take(asked).result()

        with ThreadPoolExecutor(4) as pool:
            assert len({told.job_id for told in pool.map(ask, several)}) == 1
    for intake in several:
        intake.close()
    assert rows(database, Job) == 10


def test_an_unknown_or_deleted_job_is_not_found_beside_one_that_is(intake: Intake) -> None:
    job_id, gone = (intake.take(draft()).result().job_id for _ in range(2))
    with intake.db.transaction() as session:
        session.get_one(Job, gone).deleted_at = 1.0
    futures = [intake.tell(each) for each in ("job_none", job_id, gone)]
    assert [type(future.exception()) for future in futures] == [NotFound, type(None), NotFound]


def test_what_was_changed_is_told_at_once(intake: Intake) -> None:
    told = intake.take(draft()).result()
    do(intake.db, jobs.pause, told.job_id)
    assert b'"state":"paused"' in intake.tell(told.job_id).result().body


def test_a_broken_draft_fails_alone(intake: Intake) -> None:
    broken = draft()
    broken.job["kind"] = None
    with ThreadPoolExecutor(3) as pool:
        futures = list(pool.map(intake.take, (draft(), broken, draft())))
    assert [future.exception() is None for future in futures] == [True, False, True]
    assert rows(intake.db, Job) == 2


def gathered(answer: Any, questions: Sequence[Any]) -> list[Future[Any]]:
    """The answers to questions that all waited when the first of them was answered."""
    at_it, begin = threading.Event(), threading.Event()

    def held(asked: Sequence[Any]) -> Sequence[Any]:
        if asked != ["first"]:
            return list(answer(asked))
        at_it.set()
        begin.wait()
        return ["first"]

    batches = Batches[Any, Any]("held", held)
    batches.ask("first")
    at_it.wait()
    futures = [batches.ask(question) for question in questions]
    begin.set()
    batches.close()
    return futures


def test_who_waits_is_answered_together_and_in_order() -> None:
    futures = gathered(lambda asked: [(n, len(asked)) for n in asked], range(5))
    assert [future.result() for future in futures] == [(n, 5) for n in range(5)]


def test_nobody_fails_with_a_neighbour() -> None:
    futures = gathered(lambda asked: [1 // n for n in asked], [1, 0, 1])
    assert [type(future.exception()) for future in futures] == [type(None), ZeroDivisionError, type(None)]


def test_a_server_that_is_away_is_asked_once_for_all() -> None:
    calls = []

    def away(asked: Sequence[int]) -> Sequence[int]:
        calls.append(asked)
        raise OperationalError("", None, Exception("away"))

    assert {type(future.exception()) for future in gathered(away, range(9))} == {OperationalError}
    assert len(calls) == 1


def test_who_has_gone_is_not_answered() -> None:
    batches = Batches[int, int]("gone", lambda asked: list(asked))
    future: Future[int] = Future()
    future.cancel()
    batches._waiting.put((1, future))
    assert batches.ask(2).result() == 2
    batches.close()


def test_a_list_is_one_parameter_whatever_is_in_it(database: Database) -> None:
    job_id, _ = do(database, inserting.submit, plan(1), "d", None, 1)
    with database.reading() as session:
        for values, found in (([], []), ([job_id, job_id], [job_id]), (["'\\\"{}", "å,NULL", job_id], [job_id])):
            assert session.scalars(select(Job.id).where(among(Job.id, values))).all() == found
