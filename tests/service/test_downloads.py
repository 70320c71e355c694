"""Links to the storage give exactly an artifact's bytes to whoever has them, for a while."""

import hashlib
import time
from typing import Any

import pytest
from sqlalchemy import delete

from service import downloads, queries
from service.models import Artifact
from service.settings import Settings
from service.storage import S3Storage
from tests.fixtures import s3_settings
from tests.servers import Bucket
from tests.service.served import Served, send, served
from tests.service.test_archive import fill

__all__ = ["served"]


def fetched(artifact: dict[str, Any]) -> bytes:
    status, body = send("GET", artifact["download"]["url"], headers=artifact["download"]["headers"])
    assert status in (200, 206)
    return body


@pytest.mark.parametrize("tar", [False, True], ids=["objects", "in a tar"])
def test_a_link_gives_the_bytes_of_the_artifact(served: Served, tar: bool) -> None:
    job_id, files = fill(served.db, served.storage, 3, tar)
    listed = served.http.get(f"/v1/jobs/{job_id}/artifacts", params={"presign": True}).json()["artifacts"]
    of_item = served.http.get(f"/v1/jobs/{job_id}/items/1", params={"presign": True}).json()["artifacts"]
    for artifact in [*listed, *({"item": 1} | a for a in of_item)]:
        data = fetched(artifact)
        assert data == files[artifact["item"], artifact["name"]]
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (artifact["sha256"], artifact["size"])
        assert bool(artifact["download"]["headers"]) == (tar and served.on_s3)
        assert (artifact["download"]["expires_at"] is not None) == served.on_s3


def test_lists_have_no_links_unless_asked_for(served: Served) -> None:
    job_id, _ = fill(served.db, served.storage, 1, tar=False)
    for path in ("/artifacts", "/items/0"):
        assert {a["download"] for a in served.http.get(f"/v1/jobs/{job_id}{path}").json()["artifacts"]} == {None}
    assert served.http.get("/v1/jobs/job_none/artifacts", params={"presign": True}).status_code == 404


def test_an_artifact_may_be_had_by_a_redirect(served: Served) -> None:
    job_id, files = fill(served.db, served.storage, 1, tar=False)
    path = f"/v1/jobs/{job_id}/items/0/artifacts/result.png"
    answer = served.http.get(path, params={"redirect": True}, follow_redirects=False)
    assert answer.status_code == (307 if served.on_s3 else 200)
    followed = served.http.get(path, params={"redirect": True}, follow_redirects=True)
    assert (followed.content, followed.headers["content-type"]) == (files[0, "result.png"], "image/png")
    assert f'filename="{job_id}-0-result.png"' in followed.headers["content-disposition"]


def test_a_link_is_for_one_object_and_a_while(s3_bucket: Bucket) -> None:
    storage = S3Storage(s3_bucket.name, Settings(**s3_settings(s3_bucket)))
    for key in ("jobs/a/b", "jobs/a/c"):
        storage.put(key, b"data", "text/plain")
    link, brief = (storage.download_link("jobs/a/b", "b", "text/plain", seconds) for seconds in (900, 1))
    assert send("GET", link.url) == (200, b"data")
    assert send("GET", link.url.replace("a/b", "a/c"))[0] == 403
    assert send("PUT", link.url, b"other")[0] == 403
    assert send("DELETE", link.url)[0] == 403
    time.sleep(2.1)
    assert send("GET", brief.url)[0] == 403


def test_links_name_the_endpoint_that_clients_reach(s3_bucket: Bucket) -> None:
    values = s3_settings(s3_bucket) | {"s3_public_endpoint": "https://files.example.org/"}
    storage = S3Storage(s3_bucket.name, Settings(**values))
    for link in (storage.download_link("k", "k", "a/b", 9), storage.upload_link("k", 1, "0" * 64, "a/b", 9)):
        assert link.url.startswith(f"https://files.example.org/{s3_bucket.name}/k?")
    storage.put("k", b"x", "text/plain")  # itself it uses the other


def test_an_artifact_that_is_removed_meanwhile_has_no_link(served: Served) -> None:
    job_id, _ = fill(served.db, served.storage, 2, tar=False)
    with served.db.transaction() as session:
        listed = queries.artifacts(session, job_id, 9, None).artifacts
        session.execute(delete(Artifact).where(Artifact.item_index == 0))
        items = {index: [a for a in listed if a.item == index] for index in (0, 1)}
        downloads.add(session, served.storage, 9, "http://api", job_id, items)
    assert {bool(a.download) for a in items[0]} == {False}
    assert {bool(a.download) for a in items[1]} == {True}


def test_an_empty_part_of_an_object_has_no_link(s3_bucket: Bucket) -> None:
    storage = S3Storage(s3_bucket.name, Settings(**s3_settings(s3_bucket)))
    row = Artifact(job_id="j", item_index=0, name="n", key="k", media_type="a/b", size=0, sha256="", offset=512)
    assert downloads.link(storage, row, 9) is None
