"""What every answer tells browsers: at every door of the API, of every file, and of the pages."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from service.app import create_app, open_context
from service.headers import disposition
from service.models import Artifact
from service.settings import Settings
from tests import compatibility
from tests.fixtures import migrated
from tests.service.doors import Doors
from tests.service.test_images import BLACK, encode, noise, npy

METHODS = ("get", "post", "put", "patch", "delete")
OPERATIONS = [(m.upper(), path) for path, of in compatibility.present()["paths"].items() for m in of if m in METHODS]
PAGES = ("/", "/ui/", "/ui/jobs/x", "/docs")
OTHERS = ("/ui/static/app.js", "/ui/static/favicon.svg", "/openapi.json", "/nowhere", "/ui/static/nowhere.js", "/v1/x")
ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


@pytest.fixture(scope="module")
def knocking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("headers")
    (folder / "robustreps.db").write_bytes(migrated())
    context = open_context(settings := Settings(data_dir=folder))
    with TestClient(create_app(settings, context), follow_redirects=False) as client:
        yield client
    context.close()


def policy(headers: dict[str, str]) -> dict[str, str]:
    return dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))


def guarded(headers: dict[str, str]) -> bool:
    """Whether an answer has all that any has, and no origin to run scripts of."""
    return headers.items() >= ALWAYS.items() and policy(headers).get("frame-ancestors") == "'none'"


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_operation_answers_with_them(knocking: TestClient, method: str, path: str) -> None:
    body: Any = {"content": b"{}", "headers": {"Content-Type": "application/json"}} if method != "GET" else {}
    answer = knocking.request(method, re.sub(r"\{\w+\}", "0", path), **body)
    headers = dict(answer.headers)
    assert guarded(headers)
    assert policy(headers).keys() >= {"sandbox"}
    assert policy(headers)["default-src"] == "'none'"
    if path.startswith("/v1/"):
        assert "no-store" in headers["cache-control"] or "private" in headers["cache-control"]


@pytest.mark.parametrize("path", OTHERS)
def test_so_does_whatever_else_is_there_or_is_not(knocking: TestClient, path: str) -> None:
    headers = dict(knocking.get(path).headers)
    assert guarded(headers)
    assert "sandbox" in policy(headers)


@pytest.mark.parametrize("path", PAGES[1:])
def test_pages_run_their_own_scripts_alone_and_stand_in_no_frame(knocking: TestClient, path: str) -> None:
    answer = knocking.get(path)
    assert guarded(dict(answer.headers))
    found = policy(dict(answer.headers))
    assert found["default-src"] == "'self'"
    assert found["object-src"] == found["base-uri"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|<style|javascript:", answer.text)


def test_an_answer_about_a_bug_has_them_too() -> None:
    app = create_app(Settings())

    @app.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError

    answer = TestClient(app, raise_server_exceptions=False).get("/broken")
    assert answer.status_code == 500
    assert guarded(dict(answer.headers))


def test_https_is_asked_for_once_it_is_there(knocking: TestClient) -> None:
    assert "strict-transport-security" not in knocking.get("/ui/").headers
    assert knocking.get("https://testserver/ui/").headers["strict-transport-security"] == "max-age=31536000"


def test_secrets_and_links_that_open_doors_are_stored_nowhere(doors: Doors) -> None:
    job = f"/v1/jobs/{doors.ended}"
    made = doors.http.post("/v1/webhooks", json={"url": "http://127.0.0.1:1/"})
    answers = [
        made,
        doors.http.post(f"/v1/webhooks/{made.json()['id']}/rotate"),
        doors.http.post("/v1/uploads", json={"kind": "image", "size": 1, "sha256": "0" * 64}),
        doors.http.get(f"{job}/artifacts", params={"presign": True}),
        doors.http.get(f"{job}/items/0", params={"presign": True}),
    ]
    assert [(a.status_code < 300, a.headers["cache-control"]) for a in answers] == [(True, "no-store")] * 5
    assert not any("etag" in answer.headers for answer in answers)
    doors.http.delete(f"/v1/webhooks/{made.json()['id']}").raise_for_status()


POLYGLOT = encode(noise()) + b"<html><script>alert(document.domain)</script>"


@pytest.mark.parametrize(("data", "shown"), [(POLYGLOT, "image/png"), (npy(BLACK), "application/x-npy")])
def test_an_upload_comes_back_as_what_it_was_checked_to_be(doors: Doors, data: bytes, shown: str) -> None:
    image = doors.http.post("/v1/images", content=data, headers={"Content-Type": "text/html"}).json()["id"]
    answer = doors.http.get(f"/v1/images/{image}", headers={"Accept": "text/html"})
    assert (answer.content, answer.headers["content-type"]) == (data, shown)
    assert answer.headers["content-disposition"] == disposition(shown, image.replace(":", "-"))
    assert "sandbox" in policy(dict(answer.headers))


@pytest.mark.parametrize(
    "media_type", ["text/html", "image/svg+xml", "application/xhtml+xml", "application/pdf", "text/xml"]
)
def test_a_file_of_a_type_that_could_hold_a_script_is_saved_and_not_shown(doors: Doors, media_type: str) -> None:
    named = (Artifact.job_id == doors.ended) & (Artifact.name == "trace.json") & (Artifact.item_index == 0)
    with doors.context.db.transaction() as session:
        session.execute(update(Artifact).where(named).values(media_type=media_type))
    answer = doors.http.get(f"/v1/jobs/{doors.ended}/items/0/artifacts/trace.json")
    assert answer.headers["content-type"].startswith(media_type)
    assert answer.headers["content-disposition"].startswith("attachment; ")
    assert "sandbox" in policy(dict(answer.headers))
    with doors.context.db.transaction() as session:
        session.execute(update(Artifact).where(named).values(media_type="application/json"))
