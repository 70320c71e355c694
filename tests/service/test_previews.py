"""A preview is what a shard's worker last told of, while it holds the shard; nothing of it outlives the job."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service import deletion, jobs, leases
from service.collector import collect
from service.keys import previews_key
from service.leases import Lease
from service.objects import Stored
from tests.service.served import Served, served
from tests.service.test_jobs import claimed, do, expire, finish, save, submit

__all__ = ["served"]

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)


def show(served: Served, lease: Lease, number: int, steps: list[list[Any]]) -> str:
    """As a worker does; the object's key."""
    key = previews_key(lease.job_id, lease.shard_id, lease.epoch, number)
    served.storage.put(key, PIXELS[: len(steps)].tobytes(), "application/octet-stream")
    told = {"epoch": lease.epoch, "number": number, "side": 8, "age": 2.0, "items": steps}
    progress: dict[str, Any] = {"image_steps": 4, "rate": 2.0, "curve": [], "previews": told}
    do(served.db, leases.heartbeat, lease, 60, progress)
    return key


def items(served: Served, job_id: str) -> list[Any]:
    listed = served.http.get(f"/v1/jobs/{job_id}/items").json()["items"]
    assert [served.http.get(f"/v1/jobs/{job_id}/items/{i['index']}").json()["preview"] for i in listed] == [
        item["preview"] for item in listed
    ]
    return [item["preview"] for item in listed]


@pytest.fixture
def lease(served: Served) -> Lease:
    _, [shard] = submit(served.db)
    return claimed(served.db, shard).lease


def test_running_items_say_their_step_and_serve_a_picture_of_it(served: Served, lease: Lease) -> None:
    assert items(served, lease.job_id) == [None, None]
    show(served, lease, 0, [[0, 7], [1, 9]])
    both = items(served, lease.job_id)
    assert [each["step"] for each in both] == [7, 9]
    for each, pixels in zip(both, PIXELS, strict=True):
        answer = served.http.get(each["url"])
        assert (answer.headers["content-type"], answer.headers["cache-control"]) == ("image/png", "private, max-age=60")
        assert np.array_equal(np.array(Image.open(io.BytesIO(answer.content))), pixels)
    show(served, lease, 1, [[1, 12]])
    assert items(served, lease.job_id)[0] is None
    answer = served.http.get(both[1]["url"])  # of step 9; what there is by now is not kept under its name
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert np.array_equal(np.array(Image.open(io.BytesIO(answer.content))), PIXELS[0])


def test_a_preview_ends_with_its_item(served: Served, lease: Lease) -> None:
    show(served, lease, 0, [[0, 7], [1, 9]])
    first, _ = items(served, lease.job_id)
    save(served.db, lease, 0)
    assert items(served, lease.job_id)[0] is None
    problem = served.http.get(first["url"])
    assert (problem.status_code, problem.headers["content-type"]) == (404, "application/problem+json")
    assert served.http.get(f"/v1/jobs/{lease.job_id}/items/2/preview.png").status_code == 404


def test_what_a_killed_worker_showed_is_shown_no_more_and_collected(served: Served, lease: Lease) -> None:
    key = show(served, lease, 0, [[0, 7], [1, 9]])
    assert collect(served.db, served.storage).orphans == 0
    expire(served.db, lease.shard_id)
    do(served.db, leases.expire_lease, lease.shard_id, 3)
    assert items(served, lease.job_id) == [None, None]
    again = claimed(served.db, lease.shard_id).lease
    assert items(served, lease.job_id) == [None, None]
    own = show(served, again, 0, [[0, 3], [1, 4]])
    collect(served.db, served.storage)
    assert set(served.storage.keys("jobs/")) == {own} != {key}
    served.storage.delete(own)
    assert served.http.get(items(served, lease.job_id)[0]["url"]).status_code == 404


@pytest.mark.parametrize("cancelled", [False, True])
def test_what_is_paused_is_shown_until_it_goes_on_or_ends(served: Served, lease: Lease, cancelled: bool) -> None:
    do(served.db, jobs.pause, lease.job_id)
    do(served.db, leases.save_checkpoint, lease, Stored("elsewhere", 1, "0" * 64))
    key = show(served, lease, 0, [[0, 7, 0.5], [1, 9, None]])
    assert finish(served.db, lease) == "queued"
    both = items(served, lease.job_id)
    assert [(each["step"], each["value"]) for each in both] == [(7, 0.5), (9, None)]
    collect(served.db, served.storage)
    assert served.http.get(both[1]["url"]).status_code == 200
    if cancelled:
        do(served.db, jobs.cancel, lease.job_id)
    else:
        do(served.db, jobs.resume, lease.job_id)
        claimed(served.db, lease.shard_id)
    assert items(served, lease.job_id) == [None, None]
    collect(served.db, served.storage)
    assert key not in set(served.storage.keys("jobs/"))


def test_a_deleted_job_leaves_no_preview(served: Served, lease: Lease) -> None:
    show(served, lease, 0, [[0, 7]])
    url = items(served, lease.job_id)[0]["url"]
    assert served.http.delete(f"/v1/jobs/{lease.job_id}", params={"cancel": True}).status_code == 204
    assert served.http.get(url).status_code == 404
    finish(served.db, lease)
    deletion.sweep(served.db, served.storage)
    assert list(served.storage.keys("")) == []
