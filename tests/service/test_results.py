"""What clients read of results: files that are objects or lie in tars, by ranges; the tars; a table of the items."""

import csv
import io
import json
import tarfile
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from service import leases, objects, results
from service.models import Item, Job
from service.storage import artifact_key
from tests.fixtures import inversion
from tests.service.tars import packed
from tests.service.test_jobs import claimed, do, fail_item

SMALL, LARGE = bytes(range(256)) * 4, bytes(range(251)) * 20_000
"""The second is over what is read as a whole."""


@dataclass(frozen=True)
class Shown:
    """A job with a small and a large file in a tar, a file that is an object, and an item that failed."""

    api: TestClient
    job: str

    @property
    def url(self) -> str:
        return f"/v1/jobs/{self.job}"

    def get(self, path: str, **headers: str) -> Any:
        return self.api.get(f"{self.url}/{path}", headers={name.replace("_", "-"): v for name, v in headers.items()})


@pytest.fixture
def shown(api: TestClient) -> Shown:
    context: Any = api.app.state.context  # type: ignore[attr-defined]
    targets = {"source": "dataset", "dataset": "cifar10-sample", "indices": [0, 1, 2, 3]}
    job = api.post("/v1/jobs", json=inversion(targets=targets)).json()["id"]
    lease = claimed(context.db, f"{job}.0").lease
    tar, saved = packed(context.storage, lease, {0: {"small.bin": SMALL}, 1: {"large.bin": LARGE}})
    do(context.db, leases.save_items, lease, saved, tar)
    stored = context.storage.put(artifact_key(job, 2, lease.epoch, "small.bin"), SMALL, "x/y")
    do(context.db, leases.save_item, lease, 2, {"n": 2.5, "later": {"a": 1}}, {}, {"small.bin": (stored, "x/y")})
    fail_item(context.db, lease, 3)
    return Shown(api, job)


FILES = [(0, "small.bin", SMALL), (1, "large.bin", LARGE), (2, "small.bin", SMALL)]


@pytest.mark.parametrize(("index", "name", "data"), FILES)
def test_a_file_is_the_same_wherever_it_lies(shown: Shown, index: int, name: str, data: bytes) -> None:
    got = shown.get(f"items/{index}/artifacts/{name}")
    assert (got.status_code, got.content) == (200, data)
    assert (int(got.headers["content-length"]), got.headers["accept-ranges"]) == (len(data), "bytes")
    assert shown.get(f"items/{index}/artifacts/{name}", If_None_Match=got.headers["etag"]).status_code == 304


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("0-0", 0, 1), ("10-19", 10, 20), ("1000-", 1000, None), ("-7", -7, None), ("5-99999999999", 5, None),
     ("0-", 0, None), ("-99999999999", 0, None)],
)  # fmt: skip
@pytest.mark.parametrize(("index", "name", "data"), FILES)
def test_a_range_is_what_it_says(
    shown: Shown, index: int, name: str, data: bytes, asked: str, start: int, end: int | None
) -> None:
    got = shown.get(f"items/{index}/artifacts/{name}", Range=f"bytes={asked}")
    assert (got.status_code, got.content) == (206, data[start:end])
    first = start if start >= 0 else len(data) + start
    assert got.headers["content-range"] == f"bytes {first}-{first + len(got.content) - 1}/{len(data)}"


def test_a_large_range_comes_in_pieces(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PIECE", 1_000_003)
    for asked, part in (("", LARGE), ("bytes=11-4900000", LARGE[11:4900001])):
        assert shown.get("items/1/artifacts/large.bin", Range=asked).content == part


@pytest.mark.parametrize("asked", ["bytes=5-4", "bytes=-", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b"])
def test_what_is_no_single_range_of_bytes_is_the_whole(shown: Shown, asked: str) -> None:
    got = shown.get("items/0/artifacts/small.bin", Range=asked)
    assert (got.status_code, got.content) == (200, SMALL)


@pytest.mark.parametrize("asked", ["1024-", "9999-10000", "-0"])
def test_a_range_behind_the_end_is_refused_with_the_size(shown: Shown, asked: str) -> None:
    got = shown.get("items/0/artifacts/small.bin", Range=f"bytes={asked}")
    assert (got.status_code, got.headers["content-range"]) == (416, "bytes */1024")
    assert got.json()["errors"] == [{"field": "Range", "message": "allowed: bytes=0-1023"}]


def test_a_range_of_what_has_changed_is_the_whole(shown: Shown) -> None:
    path, asked = "items/0/artifacts/small.bin", "bytes=1-2"
    etag = shown.get(path).headers["etag"]
    assert shown.get(path, Range=asked, If_Range=etag).status_code == 206
    assert shown.get(path, Range=asked, If_Range='"other"').content == SMALL


def test_result_shards_are_listed_and_downloaded(shown: Shown) -> None:
    [listed] = shown.get("result-shards").json()["result_shards"]
    assert (listed["name"], listed["first_item"], listed["items"]) == ("0-1-0.tar", 0, 2)
    got = shown.api.get(listed["url"])
    assert (len(got.content), got.headers["etag"]) == (listed["size"], f'"{listed["sha256"]}"')
    with tarfile.open(fileobj=io.BytesIO(got.content)) as tar:
        assert tar.getnames() == ["0000000.small.bin", "0000001.large.bin"]
    assert shown.api.get(listed["url"], headers={"Range": "bytes=0-15"}).content == got.content[:16]
    assert shown.api.get(listed["url"], headers={"If-None-Match": got.headers["etag"]}).status_code == 304


def test_result_shards_come_in_pages(shown: Shown) -> None:
    context: Any = shown.api.app.state.context  # type: ignore[attr-defined]
    job = shown.api.post("/v1/jobs", json=inversion()).json()["id"]
    lease = claimed(context.db, f"{job}.0").lease
    for n, index in enumerate((2, 0, 1)):
        tar, saved = packed(context.storage, lease, {index: {"a.bin": SMALL}}, n)
        do(context.db, leases.save_items, lease, saved, tar)
    found, cursor = [], ""
    while cursor is not None:
        page = shown.api.get(f"/v1/jobs/{job}/result-shards?limit=2{cursor and '&cursor=' + cursor}").json()
        found += [each["name"] for each in page["result_shards"]]
        cursor = page["next_cursor"]
    assert found == ["0-1-1.tar", "0-1-2.tar", "0-1-0.tar"]


@pytest.mark.parametrize("name", ["0-1-1.tar", "0-2-0.tar", "none", "0-1-0.tar.gz", "999999999999999999-1-0.tar"])
def test_a_result_shard_that_is_not_there_is_not_found(shown: Shown, name: str) -> None:
    assert shown.get(f"result-shards/{name}").status_code == 404


@pytest.mark.parametrize("path", ["result-shards", "result-shards/0-1-0.tar", "table"])
def test_a_job_that_is_deleted_or_unknown_has_no_results(shown: Shown, path: str) -> None:
    context: Any = shown.api.app.state.context  # type: ignore[attr-defined]
    assert shown.get(path).status_code == 200
    assert shown.api.get(f"/v1/jobs/job_none/{path}").status_code == 404
    with context.db.transaction() as session:
        session.execute(update(Job).values(deleted_at=1.0))
    assert shown.get(path).status_code == 404


def test_the_table_has_a_row_an_item(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PAGE", 2)
    context: Any = shown.api.app.state.context  # type: ignore[attr-defined]
    with context.db.transaction() as session:
        named = {"source": "image", "id": "mine", "label": 'a "cat", or\nnot'}
        session.execute(update(Item).where(Item.index == 0).values(target=named))
    got = shown.get("table")
    rows = list(csv.DictReader(io.StringIO(got.text, newline="")))
    assert [(row["index"], row["state"], row["n"]) for row in rows] == [
        ("0", "succeeded", "0"), ("1", "succeeded", "1"), ("2", "succeeded", "2.5"), ("3", "failed", ""),
    ]  # fmt: skip
    assert (rows[0]["id"], rows[0]["label"]) == ("mine", 'a "cat", or\nnot')
    assert (json.loads(rows[2]["more"]), rows[3]["error"]) == ({"later": {"a": 1}}, "Title")
    lines = [json.loads(line) for line in shown.get("table?format=jsonl").text.splitlines()]
    assert [line["metrics"] for line in lines] == [{"n": 0}, {"n": 1}, {"n": 2.5, "later": {"a": 1}}, {}]
    assert shown.get("table?format=xml").status_code == 422


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_table_whose_job_is_deleted_meanwhile_does_not_look_whole(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, form: results.Format
) -> None:
    monkeypatch.setattr(results, "PAGE", 2)
    context: Any = shown.api.app.state.context  # type: ignore[attr-defined]
    lines = results.table(context.db, shown.job, form)
    next(lines)
    with context.db.transaction() as session:
        session.execute(update(Job).values(deleted_at=1.0))
    with pytest.raises(objects.StorageError, match="was deleted"):
        list(lines)
