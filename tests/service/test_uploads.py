"""What a client puts by itself is what it announced, in S3 and here, and then as if it had been posted."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from sqlalchemy import func, select, update

from service import collector, s3, uploads
from service.bulk_models import Manifest, PendingUpload
from service.collector import collect
from service.keys import pending_key
from service.models import Image, Upload
from service.objects import OtherContent
from tests.service.served import Served, send, served
from tests.service.test_api import assert_problem
from tests.service.test_images import BLACK, encode, noise, npy

__all__ = ["served"]
PNG = encode(noise())
BYTES = {
    "image": PNG,
    "tensor": npy(BLACK),
    "checkpoint": b"PK\3\4" * 1000,
    "manifest": b'{"image": "sha256:00"}\n' * 9,
}
FOLDER = {"image": "images", "tensor": "images", "checkpoint": "checkpoints", "manifest": "manifests"}


def announced(data: bytes, kind: str = "image", **changes: Any) -> dict[str, Any]:
    return {"kind": kind, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}


def begin(served: Served, data: bytes, kind: str = "image", **changes: Any) -> dict[str, Any]:
    response = served.http.post("/v1/uploads", json=announced(data, kind, **changes))
    assert response.status_code == 201, response.text
    link: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/v1/uploads/{link['id']}"
    return link


def put(link: dict[str, Any], data: bytes) -> int:
    return send(link["method"], link["url"], data, link["headers"])[0]


def complete(served: Served, link: dict[str, Any]) -> Any:
    return served.http.post(f"/v1/uploads/{link['id']}/complete")


def keys(served: Served) -> set[str]:
    return set(served.storage.keys(""))


@pytest.mark.parametrize("kind", BYTES)
def test_what_is_put_is_as_if_it_had_been_posted(served: Served, kind: str) -> None:
    data = BYTES[kind]
    link = begin(served, data, kind)
    assert served.url in link["url"] or served.on_s3
    assert put(link, data) in (200, 204)
    done = complete(served, link)
    assert done.status_code == 200, done.text
    digest = hashlib.sha256(data).hexdigest()
    assert done.json()["id"] == f"sha256:{digest}"
    assert (done.json()["kind"], done.json()["size"]) == (kind, len(data))
    assert keys(served) == {f"{FOLDER[kind]}/{digest}"}
    assert served.storage.get(f"{FOLDER[kind]}/{digest}") == data
    posted = served.http.post(f"/v1/{FOLDER[kind]}", content=data)
    assert posted.status_code == 201
    assert done.json() | {"kind": kind} == {"media_type": None, "width": None, "height": None} | posted.json() | {
        "kind": kind
    }
    assert served.http.get(f"/v1/uploads/{link['id']}").json()["result"] == f"sha256:{digest}"


def test_what_is_here_already_need_not_be_sent(served: Served) -> None:
    posted = served.http.post("/v1/images", content=PNG).json()
    link = begin(served, PNG)
    assert link["result"] == posted["id"]
    assert complete(served, link).json()["id"] == posted["id"]
    served.storage.delete(f"images/{posted['id'].removeprefix('sha256:')}")
    assert begin(served, PNG)["result"] is None


@pytest.mark.parametrize(
    "sent", [b"\0" * len(PNG), PNG[:-1], PNG + b"\0", b""], ids=["other bytes", "fewer", "more", "none"]
)
def test_a_put_of_anything_else_is_refused_and_leaves_nothing(served: Served, sent: bytes) -> None:
    link = begin(served, PNG)
    assert 400 <= put(link, sent) < 500
    assert keys(served) == set()
    assert_problem(complete(served, link), 409)
    assert put(link, PNG) in (200, 204)
    assert complete(served, link).status_code == 200


def test_a_put_that_leaves_the_headers_out_is_refused_by_s3(served: Served) -> None:
    link = begin(served, PNG, media_type="image/png")
    if served.on_s3:
        assert send("PUT", link["url"], PNG)[0] == 403
        assert send("PUT", link["url"], PNG, link["headers"] | {"Content-Type": "text/html"})[0] == 403
        assert send("GET", link["url"])[0] == 403
        assert keys(served) == set()


def test_a_store_that_checks_nothing_is_checked_again(served: Served) -> None:
    for kind, data in BYTES.items():
        for other in (data[:-1] + b"!", data + b"!"):
            link = begin(served, data, kind)
            served.storage.put(pending_key(link["id"]), other, "")
            assert_problem(complete(served, link), 422, "content")
    assert {key.partition("/")[0] for key in keys(served)} == {"uploads"}
    with served.db.reading() as session:
        assert [session.scalar(select(func.count()).select_from(t)) for t in (Image, Upload, Manifest)] == [0, 0, 0]


def test_what_is_no_image_is_refused_when_it_is_completed(served: Served) -> None:
    for kind in ("image", "tensor"):
        link = begin(served, b"this is no image", kind)
        assert put(link, b"this is no image") in (200, 204)
        problem = assert_problem(complete(served, link), 422, "body")
        assert "not an image in a known format" in problem["detail"]
    assert not any(key.startswith("images/") for key in keys(served))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kind": "video"}, "kind"),
        ({"size": 0}, "size"),
        ({"size": 500_001}, "size"),
        ({"size": 50_000_001, "kind": "manifest"}, "size"),
        ({"size": 2**70, "kind": "checkpoint"}, "size"),
        ({"size": "12"}, "size"),
        ({"sha256": "00"}, "sha256"),
        ({"sha256": "A" * 64}, "sha256"),
        ({"media_type": "text"}, "media_type"),
        ({"media_type": "a/b\r\nX: y"}, "media_type"),
        ({"name": "x"}, "name"),
    ],
)
def test_a_bad_announcement_names_its_field_and_leaves_nothing(served: Served, changes: Any, field: str) -> None:
    assert_problem(served.http.post("/v1/uploads", json=announced(PNG) | changes), 422, field)
    with served.db.reading() as session:
        assert session.scalar(select(func.count()).select_from(PendingUpload)) == 0


def test_an_unknown_upload_is_not_found(served: Served) -> None:
    for method, path in (("GET", ""), ("PUT", "/content"), ("POST", "/complete")):
        assert_problem(served.http.request(method, f"/v1/uploads/upload_0{path}", content=b"x"), 404)


def test_completing_again_and_by_several_at_once_answers_the_same(served: Served) -> None:
    data = b"checkpoint" * 500_000
    link = begin(served, data, "checkpoint")
    assert put(link, data) in (200, 204)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: complete(served, link), range(6)))
    answers.append(complete(served, link))
    assert {(a.status_code, a.json()["id"]) for a in answers} == {(200, f"sha256:{hashlib.sha256(data).hexdigest()}")}
    assert keys(served) == {f"checkpoints/{hashlib.sha256(data).hexdigest()}"}


def test_an_object_that_another_process_has_taken_over_meanwhile_is_no_error(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = begin(served, PNG)
    put(link, PNG)
    find = uploads.find
    row = find(served.db, link["id"])
    assert complete(served, link).status_code == 200
    stale = iter([row])  # as it was read before the other process was done
    monkeypatch.setattr(uploads, "find", lambda db, upload_id: next(stale, None) or find(db, upload_id))
    context = served.context
    kept = uploads.complete(context.db, context.storage, context.settings, link["id"])
    assert kept.id == f"sha256:{hashlib.sha256(PNG).hexdigest()}"


@pytest.mark.parametrize("part", [5 << 20, 256 << 20], ids=["in parts", "at once"])
def test_a_copy_is_of_what_was_said_or_is_not(served: Served, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = TransferConfig(multipart_threshold=part, multipart_chunksize=part, use_threads=False)
    monkeypatch.setattr(s3, "COPIED", copied)
    data = bytes(range(256)) * 40_000  # more than a piece
    digest = hashlib.sha256(data).hexdigest()
    served.storage.put("uploads/a", data, "")
    for size, said in ((len(data), "0" * 64), (len(data) - 1, digest)):
        with pytest.raises(OtherContent):
            served.storage.copy("uploads/a", "checkpoints/a", size, said)
    assert keys(served) == {"uploads/a"}
    served.storage.copy("uploads/a", "checkpoints/a", len(data), digest)
    assert served.storage.get("checkpoints/a") == data


def test_a_link_expires(served: Served) -> None:
    link = begin(served, PNG)
    if served.on_s3:
        quick = served.storage.upload_link(pending_key(link["id"]), len(PNG), announced(PNG)["sha256"], "a/b", 1)
        assert quick is not None
        time.sleep(2.1)
        assert send("PUT", quick.url, PNG, quick.headers)[0] == 403
    else:
        with served.db.transaction() as session:
            session.execute(update(PendingUpload).values(expires_at=time.time() - 1))
        assert put(link, PNG) == 409
    assert keys(served) == set()


def test_a_large_body_is_refused_before_it_is_sent(served: Served) -> None:
    link = begin(served, b"x", "manifest")
    content = f"/v1/uploads/{link['id']}/content"
    for method, path, status in (
        ("POST", "/v1/manifests", 413),
        ("POST", "/v1/checkpoints", 413),
        ("PUT", content, 422),
    ):
        connection = HTTPConnection(served.url.removeprefix("http://"), timeout=60)
        connection.request(method, path, headers={"Content-Length": "60000000000"})
        assert connection.getresponse().status == status
        connection.close()


def test_a_body_of_unknown_length_is_counted(served: Served) -> None:
    link = begin(served, b"xyz", "manifest")
    address = f"/v1/uploads/{link['id']}/content"
    assert_problem(served.http.put(address, content=iter([b"xyz", b"!"])), 413, "body")
    assert_problem(served.http.put(address, content=iter([b"xy"])), 422, "body")
    assert served.http.put(address, content=iter([b"x", b"yz"])).status_code == 204
    assert_problem(served.http.post("/v1/manifests", content=b""), 422, "body")
    assert_problem(served.http.get("/v1/manifests/sha256:00"), 404)


def test_what_was_put_and_never_completed_is_collected_after_a_day(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, left, never = begin(served, PNG), begin(served, b"left", "manifest"), begin(served, b"never", "checkpoint")
    for link, data in ((done, PNG), (left, b"left")):
        assert put(link, data) in (200, 204)
    assert complete(served, done).status_code == 200
    served.storage.put(pending_key("upload_of_another_database"), b"x", "")
    before = keys(served)
    assert collect(served.db, served.storage).orphans == 0
    monkeypatch.setattr(collector, "GRACE", -3600)  # the other end of a day
    assert collect(served.db, served.storage, dry_run=True, strangers=False).orphans == 1
    assert keys(served) == before
    assert collect(served.db, served.storage, strangers=False).orphans == 1
    assert keys(served) == before - {pending_key(left["id"])}
    assert collect(served.db, served.storage).orphans == 1
    assert {key.partition("/")[0] for key in keys(served)} == {"images"}
    for link in (done, left, never):
        assert_problem(served.http.get(f"/v1/uploads/{link['id']}"), 404)
