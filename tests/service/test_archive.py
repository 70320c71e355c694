"""The archive of a job is all of it, in little memory, or visibly none."""

import hashlib
import io
import json
import tarfile
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from http.client import IncompleteRead
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import httpx2
import pytest
from sqlalchemy import update

from service import archive, queries
from service.api import archive as api
from service.db import Database
from service.errors import InvalidInput
from service.models import Artifact, Item, Job
from service.packing import gathered, tarred, zipped
from service.storage import LocalStorage, Storage
from tests.fixtures import LiveService, inversion
from tests.service.served import Served, served
from tests.service.test_api import assert_problem
from tests.service.test_jobs import submit
from tests.service.test_packing import unzipped

__all__ = ["served"]
Files = dict[tuple[int, str], bytes]
LARGE = 9 << 20  # more than a piece


def content(index: int, name: str, size: int = 500) -> bytes:
    return (f"{index}/{name} ".encode() * (size // 4))[: size + index]


def fill(db: Database, storage: Storage, items: int, tar: bool, size: int = 500, large: int = 0) -> tuple[str, Files]:
    """A job whose items are over, each with two files: objects of their own, or parts of one that holds more."""
    job_id, _ = submit(db, items=items, shard_items=items)
    files = {(n, name): content(n, name, size) for n in range(items) for name in ("result.png", "start.png")}
    if large:
        files[0, "result.png"] = content(0, "result.png", large)
    with db.transaction() as session:
        over = {"state": "succeeded", "epoch": 1, "finished_at": 1.7e9, "metrics": {"ssim": 0.5}}
        session.execute(update(Item).where(Item.job_id == job_id).values(over))
        whole = b""
        for (n, name), data in reversed(files.items()):
            key, offset = f"jobs/{job_id}/items/{n}/1/{name}", None
            if tar:
                key, offset = f"jobs/{job_id}/results/0/1/0.tar", len(whole) + 512
                whole += bytes(512) + data
            else:
                storage.put(key, data, "image/png")
            session.add(
                Artifact(job_id=job_id, item_index=n, name=name, key=key, offset=offset, media_type="image/png",
                         size=len(data), sha256=hashlib.sha256(data).hexdigest())
            )  # fmt: skip
        if tar:
            storage.put(f"jobs/{job_id}/results/0/1/0.tar", whole, "application/x-tar")
    return job_id, files


def named(files: Files) -> dict[str, bytes]:
    return {f"items/{n:07d}/{name}": data for (n, name), data in sorted(files.items())}


def ask(served: Served, job_id: str, **query: str) -> Any:
    return served.http.get(f"/v1/jobs/{job_id}/archive", params=query)


def broken(served: Served, job_id: str, **query: str) -> bool:
    """Whether two HTTP libraries see that a transfer broke off."""
    with pytest.raises(httpx2.RemoteProtocolError):
        ask(served, job_id, **query)
    url = str(httpx2.URL(f"{served.url}/v1/jobs/{job_id}/archive", params=query))
    with urlopen(url, timeout=30) as answer, pytest.raises(IncompleteRead):
        answer.read()
    return True


def members(db: Database, storage: Storage, job_id: str, sized: bool = False) -> Any:
    with db.reading() as session:
        job = queries.job(session, job_id)
    return archive.members(db, storage, job, archive.spans(None, job.items.total), [], sized)


@pytest.mark.parametrize("tar", [False, True], ids=["objects", "in a tar"])
def test_a_zip_has_every_file_and_what_the_api_says_of_it(served: Served, tmp_path: Path, tar: bool) -> None:
    job_id, files = fill(served.db, served.storage, 12, tar, large=LARGE)
    response = ask(served, job_id)
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-disposition"] == f'attachment; filename="{job_id}.zip"'
    (tmp_path / "a.zip").write_bytes(response.content)
    with zipfile.ZipFile(tmp_path / "a.zip") as found:
        assert found.testzip() is None
        assert found.namelist() == ["job.json", *named(files), "items.jsonl"]
        assert {name: found.read(name) for name in named(files)} == named(files)
        assert json.loads(found.read("job.json")) == served.http.get(f"/v1/jobs/{job_id}").json()
        lines = [json.loads(line) for line in found.read("items.jsonl").splitlines()]
    items = served.http.get(f"/v1/jobs/{job_id}/items").json()["items"]
    assert [line["index"] for line in lines] == list(range(12))
    for line, item in zip(lines, items, strict=True):
        assert line | {"finished_at": 0} == {k: v for k, v in item.items() if k in line} | {"finished_at": 0}
    unzipped(tmp_path / "a.zip")


@pytest.mark.parametrize("tar", [False, True], ids=["objects", "in a tar"])
def test_a_tar_is_unpacked_while_it_comes(served: Served, tar: bool) -> None:
    job_id, files = fill(served.db, served.storage, 12, tar, large=LARGE)
    with (
        urlopen(f"{served.url}/v1/jobs/{job_id}/archive?format=tar") as answer,
        tarfile.open(fileobj=answer, mode="r|") as found,
    ):
        unpacked = {m.name: found.extractfile(m).read() for m in found}  # type: ignore[union-attr]
    assert list(unpacked) == ["job.json", *named(files), "items.jsonl"]
    assert {name: unpacked[name] for name in named(files)} == named(files)
    assert unpacked["items.jsonl"].count(b"\n") == 12


def test_items_and_names_choose(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "PAGE", 2)
    job_id, files = fill(served.db, served.storage, 9, tar=True)
    with zipfile.ZipFile(io.BytesIO(ask(served, job_id, items="7,0-4,3", names="start.png").content)) as found:
        chosen = {(n, name): data for (n, name), data in files.items() if n in (0, 1, 2, 3, 4, 7) and name[0] == "s"}
        assert found.namelist() == ["job.json", *named(chosen), "items.jsonl"]
        lines = found.read("items.jsonl").splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2, 3, 4, 7]


@pytest.mark.parametrize("text", ["", "x", "1,", "-1", "2-1", "0-9", "9", "1-", "0-1-2", "1.5", "99999999999", "１"])
def test_items_that_are_none_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput, match="allowed: numbers from 0 to 8 and ranges of them, such as 0-99,200"):
        archive.spans(text, 9)


@pytest.mark.parametrize(
    ("text", "found"), [("3", [3]), ("0-2, 5", [0, 1, 2, 5]), ("5,1-3,2-4,3", [1, 2, 3, 4, 5]), (None, [*range(9)])]
)
def test_items_are_taken_in_order_and_once(text: str | None, found: list[int]) -> None:
    assert [n for span in archive.spans(text, 9) for n in span] == found


def test_bad_requests_are_problems(served: Served) -> None:
    job_id, _ = fill(served.db, served.storage, 2, tar=False)
    assert_problem(ask(served, job_id, items="2-1"), 422, "items")
    assert_problem(ask(served, job_id, format="rar"), 422, "format")
    assert_problem(ask(served, job_id, names="a\0b"), 422, "names")
    assert_problem(ask(served, "job_none"), 404)


def test_items_that_are_not_over_are_not_in_it(served: Served) -> None:
    job_id, _ = fill(served.db, served.storage, 3, tar=False)
    with served.db.transaction() as session:
        session.execute(update(Item).where(Item.index == 1).values(state="running"))
    with zipfile.ZipFile(io.BytesIO(ask(served, job_id).content)) as found:
        assert {name.split("/")[1] for name in found.namelist() if "/" in name} == {"0000000", "0000002"}


def _lose(served: Served, job_id: str) -> None:
    served.storage.delete(f"jobs/{job_id}/items/8/1/start.png")


def _damage(served: Served, job_id: str) -> None:
    served.storage.put(f"jobs/{job_id}/items/8/1/start.png", content(8, "other.png"), "")


def _shorten(served: Served, job_id: str) -> None:
    served.storage.put(f"jobs/{job_id}/items/0/1/result.png", content(0, "result.png", LARGE - 1), "")


@pytest.mark.parametrize("fault", [_lose, _damage, _shorten])
@pytest.mark.parametrize("packed", ["zip", "tar"])
def test_a_fault_of_the_storage_breaks_the_transfer(
    served: Served, fault: Callable[[Served, str], None], packed: str
) -> None:
    job_id, _ = fill(served.db, served.storage, 9, tar=False, large=LARGE)
    fault(served, job_id)
    assert broken(served, job_id, format=packed)
    nothing_is_read()


@pytest.mark.parametrize(
    "values", [{"deleted_at": 1.0}, {"state": "queued"}], ids=["the job is deleted", "an item is queued again"]
)
def test_a_change_meanwhile_ends_it(
    database: Database, tmp_path: Path, values: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "PAGE", 5)
    storage = LocalStorage(tmp_path / "objects")
    job_id, _ = fill(database, storage, 40, tar=False)
    stream = zipped(members(database, storage, job_id))
    for _ in range(10):
        next(stream)
    with database.transaction() as session:
        session.execute(update(Job if "deleted_at" in values else Item).values(values))
    with pytest.raises(RuntimeError, match="while its archive was being sent"):
        list(stream)


def nothing_is_read() -> None:
    deadline = time.monotonic() + 60
    while any(t.name.startswith("archive") for t in threading.enumerate()):
        assert time.monotonic() < deadline, "threads yet read for an archive that nobody takes"
        time.sleep(0.05)


def test_a_client_that_goes_away_ends_the_reading(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, _ = fill(served.db, served.storage, 60, tar=False, size=200_000)
    read, get = [], served.storage.get

    def counted(key: str) -> bytes:
        read.append(key)
        return get(key)

    monkeypatch.setattr(served.storage, "get", counted)
    with urlopen(f"{served.url}/v1/jobs/{job_id}/archive") as answer:
        answer.read(1000)
    nothing_is_read()
    assert len(read) < 120


def test_no_more_archives_than_there_is_memory_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "FREE", threading.BoundedSemaphore(1))
    job_id, _ = fill(served.db, served.storage, 60, tar=False, size=200_000)
    with urlopen(f"{served.url}/v1/jobs/{job_id}/archive") as answer:
        answer.read(1000)
        refused = ask(served, job_id)
        assert_problem(refused, 503)
        assert int(refused.headers["retry-after"]) > 0
    served.storage.delete(f"jobs/{job_id}/items/8/1/start.png")
    for _ in range(2):  # neither who goes away nor what breaks off keeps a place
        deadline = time.monotonic() + 60
        while (answered := status(served, job_id)) == 503:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert answered == 200


def status(served: Served, job_id: str) -> int:
    with served.http.stream("GET", f"/v1/jobs/{job_id}/archive") as answer:
        with suppress(httpx2.RemoteProtocolError):
            answer.read()
        return answer.status_code


def test_reading_ahead_hides_the_storage_s_delay(database: Database, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "objects")
    job_id, files = fill(database, storage, 50, tar=False)

    at_once, most, lock = 0, 0, threading.Lock()

    class Slow(LocalStorage):
        def get(self, key: str) -> bytes:
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.02)
            with lock:
                at_once -= 1
            return super().get(key)

    assert sum(len(chunk) for chunk in tarred(members(database, Slow(storage.folder), job_id, True))) > len(files) * 500
    assert most > 2


@pytest.mark.parametrize("size", [1000, 3_900_000, 6_000_000], ids=["small", "held", "streamed"])
def test_an_archive_takes_little_memory(database: Database, tmp_path: Path, size: int) -> None:
    storage = LocalStorage(tmp_path / "objects")
    job_id, _ = fill(database, storage, 20, tar=False, size=size)
    tracemalloc.start()
    total = sum(len(chunk) for chunk in gathered(zipped(members(database, storage, job_id))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total > 40 * size
    assert peak < 70_000_000


def test_a_tar_of_results_is_read_in_few_requests(database: Database, tmp_path: Path) -> None:
    asked = []

    class Counted(LocalStorage):
        def get_range(self, key: str, start: int, length: int) -> bytes:
            asked.append(length)
            return super().get_range(key, start, length)

    storage = Counted(tmp_path / "objects")
    job_id, files = fill(database, storage, 100, tar=True, size=20_000)
    list(zipped(members(database, storage, job_id)))
    assert len(asked) <= 3
    assert sum(asked) < 1.1 * sum(len(data) for data in files.values())


def test_the_archive_of_a_computed_job_has_what_the_api_serves(live_service: LiveService) -> None:
    job = live_service.wait(live_service.submit(inversion())["id"])
    served = live_service.client.request("GET", job["links"]["artifacts"]).json()["artifacts"]
    data = live_service.client.request("GET", job["links"]["self"] + "/archive").content
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        digests = {name: hashlib.sha256(found.read(name)).hexdigest() for name in found.namelist() if "/" in name}
        assert json.loads(found.read("job.json"))["state"] == "succeeded"
    assert digests == {f"items/{a['item']:07d}/{a['name']}": a["sha256"] for a in served}
    assert len(digests) >= 9
