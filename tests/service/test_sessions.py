"""A browser's session: by a key or a link, in a cookie that no script reads and no other page can use."""

import time
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from service.access import first, gate, registry, sessions
from service.access.models import BrowserSession
from service.access.principal import Scope
from service.app import create_app
from service.db import now
from service.settings import Settings
from tests.fixtures import inversion, migrated
from tests.service.tenancy import SECRET, Tenants
from tests.stack import PATIENCE

OWN = {"X-Robustreps-Dashboard": "1"}


def text_of(headers: dict[str, str]) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


@pytest.fixture
def browser(tenants: Tenants) -> Iterator[TestClient]:
    """Without a cookie yet."""
    with TestClient(create_app(tenants.context.settings, tenants.context)) as http:
        yield http


@pytest.fixture
def signed_in(browser: TestClient, tenants: Tenants) -> TestClient:
    answer = browser.post("/v1/session", json={"key": text_of(tenants.key("acme"))}, headers=OWN)
    assert (answer.status_code, answer.json()["tenant"]) == (200, "acme")
    return browser


def test_signing_in_sets_a_cookie_that_no_script_reads_and_no_other_site_sends(
    browser: TestClient, tenants: Tenants
) -> None:
    key = {"key": text_of(tenants.acme)}
    cookie = browser.post("/v1/session", json=key, headers=OWN).headers["set-cookie"]
    assert cookie.startswith("robustreps=rs_")
    assert {"HttpOnly", "Path=/", "SameSite=strict", "Max-Age=43200"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    browser.base_url = browser.base_url.copy_with(scheme="https")
    assert "Secure" in browser.post("/v1/session", json=key, headers=OWN).headers["set-cookie"]


def test_a_cookie_reads_and_beside_the_dashboards_header_changes_things(
    signed_in: TestClient, tenants: Tenants
) -> None:
    assert signed_in.get("/v1/session").json() == {
        "tenant": "acme", "key": signed_in.get("/v1/session").json()["key"], "scopes": ["read", "write"],
    }  # fmt: skip
    assert signed_in.get(f"/v1/jobs/{tenants.known['job_id']}").status_code == 200
    assert signed_in.post("/v1/jobs", json=inversion(), headers=OWN).status_code == 202


@pytest.mark.parametrize("headers", [{}, OWN | {"Sec-Fetch-Site": "cross-site"}, OWN | {"Sec-Fetch-Site": "same-site"}])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/jobs"), ("DELETE", "/v1/session"), ("PATCH", "/v1/jobs/x")])
def test_another_page_changes_nothing_by_the_cookie(
    signed_in: TestClient, headers: dict[str, str], method: str, path: str
) -> None:
    answer = signed_in.request(method, path, json=inversion(), headers=headers)
    assert (answer.status_code, "x-robustreps-dashboard" in answer.json()["detail"]) == (403, True)


def test_nor_does_it_sign_a_browser_in_as_somebody_else(browser: TestClient, tenants: Tenants) -> None:
    for headers in ({}, OWN | {"Sec-Fetch-Site": "cross-site"}):
        answer = browser.post("/v1/session", json={"key": text_of(tenants.acme)}, headers=headers)
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)


def test_a_session_is_refused_as_a_key(signed_in: TestClient) -> None:
    text = signed_in.cookies["robustreps"]
    signed_in.cookies.clear()
    assert signed_in.get("/v1/jobs", headers={"Authorization": f"Bearer {text}"}).status_code == 401


def test_signing_out_ends_the_session_at_once(signed_in: TestClient) -> None:
    text = signed_in.cookies["robustreps"]
    assert signed_in.delete("/v1/session", headers=OWN).status_code == 204
    assert "robustreps" not in signed_in.cookies
    signed_in.cookies["robustreps"] = text
    assert signed_in.get("/v1/jobs").status_code == 401


def test_all_sessions_of_a_key_end_with_it(browser: TestClient, tenants: Tenants) -> None:
    headers = tenants.key("acme")
    browser.post("/v1/session", json={"key": text_of(headers)}, headers=OWN)
    assert browser.get("/v1/jobs").status_code == 200
    with tenants.context.db.transaction() as session:
        registry.revoke(session, text_of(headers)[3:15])
    end = time.monotonic() + PATIENCE
    while browser.get("/v1/jobs").status_code == 200:
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_session_that_is_over_opens_nothing_and_is_forgotten(browser: TestClient, tenants: Tenants) -> None:
    key = {"key": text_of(tenants.acme)}
    browser.post("/v1/session", json=key, headers=OWN)
    with tenants.context.db.transaction() as session:
        session.execute(update(BrowserSession).values(expires_at=now() - 1))
    assert browser.get("/v1/jobs").status_code == 401
    browser.post("/v1/session", json=key, headers=OWN)
    with tenants.context.db.reading() as session:
        assert session.scalar(select(func.count()).select_from(BrowserSession)) == 1


def test_a_session_is_stored_only_as_a_keyed_hash(signed_in: TestClient, tenants: Tenants) -> None:
    with tenants.context.db.reading() as session:
        hashes = session.scalars(select(BrowserSession.hash)).all()
    assert not [each for each in hashes if signed_in.cookies["robustreps"] in each or len(each) != 64]


def test_a_session_has_the_scopes_of_its_key(browser: TestClient, tenants: Tenants) -> None:
    browser.post("/v1/session", json={"key": text_of(tenants.key("acme", Scope.READ))}, headers=OWN)
    assert browser.get("/v1/jobs").status_code == 200
    assert browser.post("/v1/jobs", json=inversion(), headers=OWN).status_code == 403


@pytest.mark.parametrize("key", ["rr_nothing", "rs_" + "A" * 43, "x"])
def test_what_opens_nothing_signs_nobody_in(browser: TestClient, key: str) -> None:
    answer = browser.post("/v1/session", json={"key": key}, headers=OWN)
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)


def test_a_link_signs_in_once(browser: TestClient, tenants: Tenants) -> None:
    key_id = text_of(tenants.acme)[3:15]
    with tenants.context.db.transaction() as session:
        link = sessions.begin(session, key_id, 60, SECRET.encode(), once=True)
    browser.cookies["robustreps"] = link
    assert browser.get("/v1/jobs").status_code == 401, "a link is no session"
    browser.cookies.clear()
    assert [browser.post("/v1/session", json={"key": link}, headers=OWN).status_code for _ in "12"] == [200, 401]


def test_the_embedded_services_link_is_of_its_own_key(settings: Settings) -> None:
    guarded = settings.model_copy(update={"auth": "on"})
    guarded.data_dir.mkdir(parents=True)
    (guarded.data_dir / "robustreps.db").write_bytes(migrated())
    token = first.link(guarded)
    with TestClient(create_app(guarded)) as http:
        answer = http.post("/v1/session", json={"key": token}, headers=OWN)
        assert answer.json()["scopes"] == sorted(Scope)
        assert answer.json()["key"] == (guarded.data_dir / "key").read_text()[3:15]


def test_services_on_two_ports_of_a_host_have_two_cookies() -> None:
    named = [gate.cookie_name({"host": host}) for host in ("h:8000", "h:9000", "h")]  # type: ignore[arg-type]
    assert named == ["robustreps-8000", "robustreps-9000", "robustreps"]


def test_without_keys_everybody_is_the_default_tenant(api: TestClient) -> None:
    assert api.get("/v1/session").json() == {"tenant": "default", "key": None, "scopes": ["admin", "read", "write"]}
    assert api.post("/v1/session", json={"key": "x"}).status_code == 200
    assert api.delete("/v1/session").status_code == 204
