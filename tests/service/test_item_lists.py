"""Lists of a job's items: what narrows them, what orders them, and that pages of any order are the whole list."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from service import item_lists, queries
from service.cursors import encode_cursor
from service.db import Database
from service.errors import InvalidInput
from service.item_lists import Wanted
from service.models import Item
from service.responses import ItemList
from service.states import ItemState
from tests.service.test_jobs import claimed, fail_item, save, submit

VALUES: list[Any] = [0.5, -2, 1e300, None, 0.5, -1e-9, "word", True, {"a": 1}, 3, 0.1 + 0.2, 0]
RISING = [1, 5, 11, 10, 0, 4, 9, 2, 3, 6, 7, 8]
FALLING = [2, 9, 0, 4, 10, 11, 5, 1, 3, 6, 7, 8]


@pytest.fixture
def job(database: Database) -> str:
    """Of twelve items, measured as in VALUES."""
    job_id, _ = submit(database, len(VALUES), len(VALUES))
    with database.transaction() as session:
        for index, value in enumerate(VALUES):
            measured = update(Item).where(Item.job_id == job_id, Item.index == index)
            session.execute(measured.values(metrics={"a.b-c": 1.0} | ({} if value is None else {"m": value})))
    return job_id


def page(db: Database, job_id: str, limit: int = 100, counted: bool = False, **wanted: Any) -> ItemList:
    with db.reading() as session:
        return queries.items(session, job_id, limit, Wanted(**wanted), counted)


def indices(found: ItemList) -> list[int]:
    return [item.index for item in found.items]


def pages(db: Database, job_id: str, limit: int, **wanted: Any) -> Iterator[int]:
    cursor, more = None, True
    while more:
        found = page(db, job_id, limit, cursor=cursor, **wanted)
        assert 0 < len(found.items) <= limit
        yield from indices(found)
        cursor, more = found.next_cursor, found.next_cursor is not None


def test_numbers_of_any_size_order_and_what_is_none_comes_last(database: Database, job: str) -> None:
    assert indices(page(database, job, sort="m")) == RISING
    assert indices(page(database, job, sort="m", order="desc")) == FALLING
    assert indices(page(database, job, order="desc")) == list(range(12))[::-1]
    assert indices(page(database, job, sort="none", order="desc")) == indices(page(database, job)) == list(range(12))
    assert indices(page(database, job, sort="a.b-c")) == list(range(12))


@pytest.mark.parametrize("limit", [1, 5, 12])
@pytest.mark.parametrize(("sort", "order"), [("index", "asc"), ("index", "desc"), ("m", "asc"), ("m", "desc")])
def test_pages_by_cursor_and_by_offset_are_the_list(
    database: Database, job: str, sort: str, order: str, limit: int
) -> None:
    whole = indices(page(database, job, sort=sort, order=order))
    assert list(pages(database, job, limit, sort=sort, order=order)) == whole
    offsets = random.Random(limit).sample(range(14), 5)
    for offset in offsets:
        assert indices(page(database, job, limit, sort=sort, order=order, offset=offset)) == whole[offset:][:limit]


def test_states_and_causes_narrow_and_are_counted(database: Database) -> None:
    job_id, [shard] = submit(database, 6, 6)
    lease = claimed(database, shard).lease
    save(database, lease, 1)
    for index in (2, 4):
        fail_item(database, lease, index)
    with database.transaction() as session:
        session.execute(update(Item).where(Item.job_id == job_id, Item.index == 4).values(error={"title": "O'Other"}))
    succeeded, failed, running = ItemState.SUCCEEDED, ItemState.FAILED, ItemState.RUNNING
    assert indices(page(database, job_id, states=[failed])) == [2, 4]
    assert indices(page(database, job_id, states=[failed, succeeded], sort="ssim", offset=1)) == [2, 4]
    assert indices(page(database, job_id, error="O'Other")) == [4]
    assert indices(page(database, job_id, error="Title", states=[running])) == []
    assert page(database, job_id, 1, True, states=[running], offset=2).total == 3
    assert page(database, job_id, 1, True, error="Title").total == 1
    assert page(database, job_id, 1, True, offset=99).total == 6
    assert page(database, job_id, 1).total is None


@pytest.mark.parametrize(("metrics", "those"), [
        (["m>0.5"], [2, 9]), (["m>=0.5"], [0, 2, 4, 9]), (["m<0"], [1, 5]), (["m<=-1e-9"], [1, 5]), (["m=3.0"], [9]),
        (["m=0.30000000000000004"], [10]), (["m>-1e+300"], [0, 1, 2, 4, 5, 9, 10, 11]), (["m>0", "m<0.5"], [10]),
        (["none=0"], []), (["a.b-c=1", "m>1"], [2, 9]),
    ])  # fmt: skip
def test_metrics_narrow_and_what_is_no_number_matches_nothing(
    database: Database, job: str, metrics: list[str], those: list[int]
) -> None:
    found = page(database, job, counted=True, metrics=metrics)
    assert (indices(found), found.total) == (those, len(those))
    falling = [index for index in FALLING if index in those]
    assert indices(page(database, job, sort="m", order="desc", metrics=metrics)) == falling
    assert indices(page(database, job, offset=1, order="desc", metrics=metrics)) == those[::-1][1:]
    assert indices(page(database, job, metrics=metrics, states=[ItemState.FAILED])) == []


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 3])
def test_of_very_many_items_a_page_looks_through_some(
    database: Database, job: str, order: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = indices(page(database, job, order=order, metrics=["m>0.4"]))
    monkeypatch.setattr(item_lists, "MOST_SORTED", 2)
    found: list[int] = []
    cursor, asked = None, 0
    while asked == 0 or cursor is not None:
        now = page(database, job, limit, order=order, metrics=["m>0.4"], cursor=cursor)
        found, cursor, asked = found + indices(now), now.next_cursor, asked + 1
    assert found == whole == sorted([0, 2, 4, 9], reverse=order == "desc")
    assert asked >= len(VALUES) // 2
    with pytest.raises(InvalidInput, match="offset: cannot stand beside metric in a job of more than 2 items"):
        page(database, job, metrics=["m>0.4"], offset=1)
    with pytest.raises(InvalidInput, match="counted: cannot stand beside metric"):
        page(database, job, metrics=["m>0.4"], counted=True)


def test_a_sorted_page_has_each_items_files(database: Database) -> None:
    job_id, [shard] = submit(database, 3, 3)
    lease = claimed(database, shard).lease
    save(database, lease, 2)
    save(database, lease, 0)
    found = page(database, job_id, sort="ssim", order="desc")
    urls = [[artifact.url.split("?")[0] for artifact in item.artifacts] for item in found.items]
    assert indices(found) == [0, 2, 1]
    assert urls == [[f"/v1/jobs/{job_id}/items/{index}/artifacts/a.png"] for index in (0, 2)] + [[]]


@pytest.mark.parametrize("cursor", [
        encode_cursor("asc index", 1), encode_cursor("asc m", "nan", 1), encode_cursor("asc m", 1.0, "x"), "!",
        encode_cursor("desc m", 1.0, 1), encode_cursor("asc n", 1.0, 1),
    ])  # fmt: skip
def test_a_cursor_of_another_order_is_refused(database: Database, job: str, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        page(database, job, sort="m", cursor=cursor)


def test_too_many_items_are_listed_by_index_alone(
    database: Database, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_lists, "MOST_SORTED", len(VALUES) - 1)
    with pytest.raises(InvalidInput, match="sort: a job of more than 11 items is only listed by index"):
        page(database, job, sort="m")
    assert len(indices(page(database, job, order="desc"))) == len(VALUES)


def test_an_offset_beside_a_cursor_is_refused(database: Database, job: str) -> None:
    with pytest.raises(InvalidInput, match="offset: cannot stand beside cursor"):
        page(database, job, cursor=encode_cursor(1), offset=1)


def test_the_api_takes_all_of_it_and_names_what_is_wrong(api: TestClient) -> None:
    db = api.app.state.context.db  # type: ignore[attr-defined]
    job_id, [shard] = submit(db, 4, 4)
    lease = claimed(db, shard).lease
    for index in (0, 3):
        save(db, lease, index)
    url = f"/v1/jobs/{job_id}/items"
    ordered = {"sort": "ssim", "order": "desc"}
    asked: dict[str, Any] = {"state": ["succeeded", "running"], "offset": 1, "counted": True, "limit": 2}
    found = api.get(url, params=ordered | asked).json()
    assert ([item["index"] for item in found["items"]], found["total"]) == ([3, 1], 4)
    again = api.get(url, params=ordered | {"cursor": found["next_cursor"]}).json()
    assert ([item["index"] for item in again["items"]], again["total"]) == ([2], None)
    measured = api.get(url, params={"metric": ["ssim>0.1", "ssim<=1"], "counted": True}).json()
    assert ([item["index"] for item in measured["items"]], measured["total"]) == ([0, 3], 2)
    for wrong in ("ssim", "ssim>", ">1", "ssim<nan", "ssim<1e999", "a b<1", "ssim==1", "ssim<1\n"):
        refused = api.get(url, params={"metric": ["ssim>0", wrong]})
        [error] = refused.json()["errors"]
        assert (refused.status_code, error["field"]) == (422, "metric.1")
        assert "such as ssim>=0.5" in error["message"]
    assert api.get(url, params={"metric": ["ssim>0"] * 5}).status_code == 422
    for name, value in {"state": "done", "sort": 'a"b', "order": "up", "offset": "-1", "counted": "x"}.items():
        refused = api.get(url, params={name: value})
        assert (refused.status_code, [e["field"].split(".")[0] for e in refused.json()["errors"]]) == (422, [name])
