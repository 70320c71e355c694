"""What a tenant may have, and how many wrong keys an address may try."""

from fastapi.testclient import TestClient

from service import limits
from service.access import gate, registry, tokens
from service.app import create_app
from service.db import KEPT
from tests.fixtures import inversion
from tests.service.tenancy import CHECKPOINT, IMAGE, LINE, Tenants
from tests.service.test_images import encode, noise


def test_a_tenants_quota_is_its_own(tenants: Tenants) -> None:
    with tenants.context.db.transaction() as session:
        registry.create_tenant(session, "small")
        registry.set_quota(session, "small", "queued_items", 4)
    headers = tenants.key("small")
    first, second = (tenants.http.post("/v1/jobs", json=inversion(), headers=headers) for _ in "12")
    assert (first.status_code, second.status_code) == (202, 429)
    assert "tenant small, quota queued_items: 4" in second.json()["detail"]
    assert int(second.headers["Retry-After"]) > 0
    assert tenants.http.post("/v1/jobs", json=inversion(), headers=tenants.rival).status_code == 202


def test_what_a_tenant_has_stored_has_a_quota(tenants: Tenants) -> None:
    with tenants.context.db.transaction() as session:
        registry.create_tenant(session, "full")
        registry.set_quota(session, "full", "stored_bytes", len(IMAGE) + 10)
    headers, other = tenants.key("full"), encode(noise("L"))
    assert tenants.http.post("/v1/images", content=IMAGE, headers=headers).status_code == 201
    for path, body in (
        ("/v1/images", {"content": other}), ("/v1/checkpoints", {"content": b"x" * 11}),
        ("/v1/manifests", {"content": b"y" * 11}),
        ("/v1/uploads", {"json": {"kind": "checkpoint", "size": 11, "sha256": "0" * 64}}),
    ):  # fmt: skip
        answer = tenants.http.post(path, headers=headers, **body)
        assert (answer.status_code, answer.json()["type"]) == (413, "/problems/quota-exceeded"), path
        assert "tenant full, quota stored_bytes" in answer.json()["detail"]
    assert tenants.http.post("/v1/jobs", json=inversion(), headers=headers).status_code == 202
    with tenants.context.db.transaction() as session:
        assert limits.stored(session, "acme") >= len(IMAGE) + len(CHECKPOINT) + len(LINE) + 1
        registry.set_quota(session, "full", "stored_bytes", 1)
    tenants.context.db._info[KEPT].clear()
    refused = tenants.http.post("/v1/jobs", json=inversion(), headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (413, "/problems/quota-exceeded")
    assert f"{len(IMAGE):,} bytes are stored" in refused.json()["detail"]


def test_requests_of_a_minute_have_a_quota(tenants: Tenants) -> None:
    with tenants.context.db.transaction() as session:
        registry.create_tenant(session, "eager")
        registry.set_quota(session, "eager", "requests_a_minute", 3)
    headers = tenants.key("eager")
    answers = [tenants.http.get("/v1/jobs", headers=headers) for _ in range(4)]
    assert [each.status_code for each in answers] == [200, 200, 200, 429]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 20
    assert "tenant eager, quota requests_a_minute: 3" in answers[-1].json()["detail"]
    assert tenants.http.get("/v1/jobs", headers=tenants.key("eager")).status_code == 429, "all its keys count together"
    assert tenants.http.get("/v1/jobs", headers=tenants.rival).status_code == 200


def test_an_address_that_tries_many_keys_is_told_to_wait_and_who_had_a_right_one_is_not(tenants: Tenants) -> None:
    settings = tenants.context.settings.model_copy(update={"max_wrong_keys": 3})
    good = tenants.key("acme")
    with TestClient(create_app(settings, tenants.context), client=("10.1.1.1", 1)) as here:
        assert here.get("/v1/jobs", headers=good).status_code == 200
        wrong = [here.get("/v1/jobs", headers={"Authorization": f"Bearer {tokens.new().text}"}) for _ in range(5)]
        assert [each.status_code for each in wrong] == [401, 401, 401, 429, 429]
        assert 0 < int(wrong[-1].headers["Retry-After"]) <= 20
        signing = here.post("/v1/session", json={"key": tokens.new().text}, headers={gate.HEADER: "1"})
        assert signing.status_code == 429
        assert here.get("/v1/jobs", headers=good).status_code == 200
        assert here.get("/v1/jobs", headers=tenants.key("rival")).status_code == 429, "one that it never had"
    assert tenants.http.get("/v1/jobs", headers=tenants.key("rival")).status_code == 200, "another address"
