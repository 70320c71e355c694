"""Keys: what opens, what does not, and what it is told; how they are made, rotated and revoked."""

import json
import os
import re
import stat
import subprocess
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from sqlalchemy import select, update

from deploy.servers import usable_port
from service.access import gate, registry, tokens
from service.access.first import first_key
from service.access.models import ApiKey, Tenant
from service.access.principal import Scope
from service.access.scraping import may_scrape
from service.access.secret import server_secret
from service.app import create_app, open_context
from service.client import ApiError, Client
from service.db import Database, migrate, now
from service.reference.schema import operations
from service.remote import credentials
from service.server import Server, config
from service.serving import running
from service.settings import Settings
from tests import compatibility
from tests.fixtures import inversion, migrated
from tests.service.tenancy import SECRET, Tenants
from tests.stack import PATIENCE, ROBUSTREPS

SCHEMA = compatibility.present()
OPERATIONS = [(m, p) for p, m, _ in operations(SCHEMA) if p.startswith("/v1/") and (m, p) != ("post", gate.SESSION)]
SCOPED = [(m, p) for m, p in OPERATIONS if p != gate.SESSION]
SECRET_KEY = SECRET.encode()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_nobody_comes_in_without_a_key(tenants: Tenants, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Basic cnI6"}, {"Authorization": f"Bearer {tokens.new().text}"}):
        answer = tenants.http.request(method, path, headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="robustreps"')
        assert answer.json()["type"] == "/problems/unauthorized"


@pytest.mark.parametrize(("method", "path"), SCOPED)
def test_a_key_without_the_scope_that_the_schema_names_is_refused_and_told_which(
    tenants: Tenants, method: str, path: str
) -> None:
    [needed] = SCHEMA["paths"][path][method]["security"][0]["key"]
    others = [scope for scope in Scope if scope != needed]
    answer = tenants.http.request(method, path, headers=tenants.key("rival", *others))
    assert answer.status_code == 403
    assert f"the scope {needed}" in answer.json()["detail"]
    assert tenants.http.request(method, path, headers=tenants.key("rival", Scope(needed))).status_code != 403


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json", "/ui/", "/ui/static/style.css"])
def test_what_tells_nothing_of_anybody_is_for_everybody(tenants: Tenants, path: str) -> None:
    assert tenants.http.get(path).status_code == 200


def test_an_unknown_address_says_nothing_without_a_key(tenants: Tenants) -> None:
    assert tenants.http.get("/v1/nothing").status_code == 401
    assert tenants.http.get("/v1/nothing", headers=tenants.acme).status_code == 404


def test_a_body_is_not_read_before_the_key_is(tenants: Tenants) -> None:
    answer = tenants.http.post("/v1/images", content=b"x" * (tenants.context.settings.max_body_bytes + 1))
    assert answer.status_code == 401


def test_the_key_is_stored_only_as_a_keyed_hash(tenants: Tenants) -> None:
    header = tenants.key("acme")["Authorization"]
    text = header.removeprefix("Bearer ")
    with tenants.context.db.reading() as session:
        row = session.get_one(ApiKey, tokens.parse(text).id)  # type: ignore[union-attr]
    assert text[16:] not in json.dumps({c.name: str(getattr(row, c.name)) for c in ApiKey.__table__.columns})
    assert row.hash == tokens.hashed(text, SECRET_KEY) != tokens.hashed(text, b"another secret")


def test_a_key_has_256_random_bits_and_a_checksum() -> None:
    made = {tokens.new().text for _ in range(100)}
    assert len(made) == 100
    for text in made:
        assert re.fullmatch(r"rr_[a-z0-9]{12}_[A-Za-z0-9_-]{49}", text)
        assert tokens.parse(text) is not None
        wrong = text[:20] + ("A" if text[20] != "A" else "B") + text[21:]
        assert tokens.parse(wrong) is None
    for text in ("", "rr_", "rr_" + "a" * 62, " " + next(iter(made)), next(iter(made)) + "\n"):
        assert tokens.parse(text) is None


def test_a_key_of_the_right_form_with_another_secret_part_opens_nothing(tenants: Tenants) -> None:
    own = tokens.parse(tenants.acme["Authorization"].removeprefix("Bearer "))
    other = tokens.new().text
    assert own is not None
    forged = f"rr_{own.id}_{other[16:59]}"
    forged += tokens._checksum(own.id + other[16:59])
    assert tokens.parse(forged) is not None
    assert tenants.http.get("/v1/jobs", headers={"Authorization": f"Bearer {forged}"}).status_code == 401


def test_a_key_that_has_expired_opens_nothing(tenants: Tenants) -> None:
    headers = tenants.key("acme", seconds=3600)
    assert tenants.http.get("/v1/jobs", headers=headers).status_code == 200
    another = tenants.key("acme", seconds=3600)
    key_id = another["Authorization"][10:22]
    with tenants.context.db.transaction() as session:
        session.execute(update(ApiKey).where(ApiKey.id == key_id).values(expires_at=now() - 1))
    assert tenants.http.get("/v1/jobs", headers=another).status_code == 401


def test_a_revoked_key_opens_nothing_once_processes_have_forgotten_it(tenants: Tenants) -> None:
    headers = tenants.key("acme")
    assert tenants.http.get("/v1/jobs", headers=headers).status_code == 200
    with tenants.context.db.transaction() as session:
        registry.revoke(session, headers["Authorization"][10:22])
    end = time.monotonic() + PATIENCE
    while tenants.http.get("/v1/jobs", headers=headers).status_code == 200:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert gate.KEPT <= 5, "README says 5 seconds"


def test_a_disabled_tenants_keys_open_nothing(tenants: Tenants) -> None:
    with tenants.context.db.transaction() as session:
        registry.create_tenant(session, "leaving")
        session.execute(update(Tenant).where(Tenant.id == "leaving").values(disabled_at=now()))
    assert tenants.http.get("/v1/jobs", headers=tenants.key("leaving")).status_code == 401


def test_both_keys_open_while_one_is_rotated(tenants: Tenants) -> None:
    old = tenants.key("acme", Scope.READ, seconds=90 * 86_400)
    key_id = old["Authorization"][10:22]
    with tenants.context.db.transaction() as session:
        made = registry.rotate(session, key_id, SECRET_KEY, grace=3600)
    new = {"Authorization": f"Bearer {made.text}"}
    assert [tenants.http.get("/v1/jobs", headers=h).status_code for h in (old, new)] == [200, 200]
    with tenants.context.db.reading() as session:
        before, after = session.get_one(ApiKey, key_id), session.get_one(ApiKey, made.row.id)
        at = session.scalars(select(now())).one()
    assert (after.rotated_from, after.scopes, after.tenant) == (key_id, ["read"], "acme")
    assert before.expires_at is not None
    assert after.expires_at is not None
    assert before.expires_at <= at + 3600 < after.expires_at


def test_when_a_key_was_used_is_noted_behind_the_request(tenants: Tenants) -> None:
    headers = tenants.key("acme")

    def used() -> float | None:
        with tenants.context.db.reading() as session:
            return session.scalar(select(ApiKey.last_used_at).where(ApiKey.id == headers["Authorization"][10:22]))

    assert used() is None
    tenants.http.get("/v1/jobs", headers=headers)
    end = time.monotonic() + PATIENCE
    while used() is None:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_without_a_database_nobody_is_let_in_and_told_to_come_again(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, auth="on", database_url=f"sqlite:///{tmp_path}/none/at/all.db")
    context = open_context(settings)
    with TestClient(create_app(settings, context)) as http:
        answer = http.get("/v1/recipes", headers={"Authorization": f"Bearer {tokens.new().text}"})
    context.close()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


def test_the_embedded_modes_secret_and_key_are_made_once_and_are_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "robustreps.db").write_bytes(migrated())
    settings = Settings(data_dir=tmp_path, auth="on")
    db = Database(settings.database)
    file = first_key(db, settings)
    text, secret = file.read_text(), server_secret(settings)
    assert (first_key(db, settings).read_text(), server_secret(settings)) == (text, secret)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("key", "secret")} == {0o600}
    with db.transaction() as session:
        found = registry.verify(session, text, secret)
        assert found is not None
        assert (found.tenant, found.scopes) == ("default", frozenset(Scope))
        registry.revoke(session, str(found.key))
    assert first_key(db, settings).read_text() != text, "a key that opens nothing is replaced"
    db.close()


def test_servers_need_a_secret_of_the_settings() -> None:
    settings = Settings(auth="on", broker_url="redis://127.0.0.1:1", database_url="postgresql+psycopg://127.0.0.1:1/x")
    with pytest.raises(ValueError, match="ROBUSTREPS_SECRET_KEY is needed"):
        server_secret(settings)
    with pytest.raises(ValueError, match="at least 32"):
        Settings(secret_key="short")


def test_keys_are_asked_for_unless_one_says_otherwise_and_then_only_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ROBUSTREPS_AUTH", raising=False)
    assert Settings().auth == "on"
    for host in ("0.0.0.0", "10.0.0.1", "::", "example.com"):
        assert Settings(host=host).auth == "on"
        with pytest.raises(ValidationError, match="auth off is for this machine alone"):
            Settings(host=host, auth="off")
    assert {Settings(host=host, auth="off").auth for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")} == {"off"}


@pytest.mark.e2e
def test_servers_without_a_secret_do_not_start(sqlite_url: str, tmp_path: Path) -> None:
    values = {"AUTH": "on", "DATABASE_URL": sqlite_url, "BROKER_URL": "redis://127.0.0.1:1", "DATA_DIR": str(tmp_path)}
    environment = os.environ | {f"ROBUSTREPS_{name}": value for name, value in values.items()}
    done = subprocess.run([ROBUSTREPS, "serve"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ROBUSTREPS_SECRET_KEY is needed" in done.stderr


@pytest.mark.e2e
def test_an_embedded_service_prints_a_link_and_the_command_line_finds_its_key(tmp_path: Path) -> None:
    port = usable_port()
    environment = os.environ | {
        "ROBUSTREPS_DATA_DIR": str(tmp_path),
        "ROBUSTREPS_AUTH": "on",
        "ROBUSTREPS_PORT": str(port),
    }
    with subprocess.Popen([ROBUSTREPS, "serve"], env=environment, stderr=subprocess.PIPE, text=True) as serve:
        assert serve.stderr is not None
        link = next(line for line in serve.stderr if "#token=" in line)
        assert re.search(rf"http://127.0.0.1:{port}/ui/#token=rs_[A-Za-z0-9_-]{{43}}$", link.strip())
        end = time.monotonic() + PATIENCE
        command: list[str | Path] = [ROBUSTREPS, "models", "list", "--json"]
        while (
            done := subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        ).returncode:
            assert time.monotonic() < end, done.stderr
        assert "cifar10-robust" in done.stdout
        wrong = environment | {"ROBUSTREPS_API_KEY": tokens.new().text}
        refused = subprocess.run(command, env=wrong, capture_output=True, text=True, check=False)
        assert (refused.returncode, "opens nothing" in refused.stderr) == (3, True)
        serve.terminate()


def test_a_client_sends_its_key_to_the_service_and_to_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "robustreps.db").write_bytes(migrated())
    settings = Settings(data_dir=tmp_path, port=0, auth="on")
    context = open_context(settings)
    key = first_key(context.db, settings).read_text()
    server = Server(config(settings, create_app(settings, context)))
    with running(server) as url:
        with Client(url) as client, pytest.raises(ApiError, match="send a key"):
            client.submit(**inversion())
        with Client(url, key=key) as client:
            assert client.submit(**inversion())["state"] == "queued"
            assert client._http.auth is not None
            elsewhere = client._http.build_request("GET", url.replace("127.0.0.1", "localhost") + "/v1/jobs")
            assert "Authorization" not in next(client._http.auth.auth_flow(elsewhere)).headers
    context.close()


@pytest.mark.parametrize(
    ("host", "is_it"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("evil", False)]
)
def test_the_key_in_the_folder_is_for_this_machine(host: str, is_it: bool) -> None:
    assert credentials.is_loopback(host) is is_it


@pytest.mark.e2e
def test_keys_and_tenants_are_made_by_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "robustreps.db").write_bytes(migrated())
    environment = os.environ | {"ROBUSTREPS_DATA_DIR": str(tmp_path), "ROBUSTREPS_AUTH": "on"}

    def admin(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [ROBUSTREPS, "admin", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        return done.stdout.strip() if status == 0 else done.stderr

    admin("tenants", "create", "acme")
    assert "already" in admin("tenants", "create", "acme", status=2)
    assert "allowed" in admin("tenants", "create", "A B", status=2)
    assert "no tenant nobody" in admin("keys", "create", "--tenant", "nobody", status=2)
    assert "allowed: read, write, admin" in admin("keys", "create", "--scopes", "all", status=2).replace("\n", " ")
    text = admin("keys", "create", "--tenant", "acme", "--scopes", "read", "--expires", "90d", "--name", "of a test")
    found = tokens.parse(text)
    assert found is not None
    [listed] = [json.loads(line) for line in admin("keys", "list", "--json").splitlines()]
    assert (listed["id"], listed["scopes"], listed["name"]) == (found.id, ["read"], "of a test")
    rotated = tokens.parse(admin("keys", "rotate", found.id))
    admin("keys", "revoke", found.id)
    settings = Settings(data_dir=tmp_path, auth="on")
    db = Database(settings.database)
    with db.reading() as session:
        assert registry.verify(session, text, server_secret(settings)) is None
        assert registry.verify(session, str(rotated and rotated.text), server_secret(settings)) is not None
    db.close()
    admin("tenants", "quota", "acme", "queued_items", "100")
    [_, acme] = sorted(
        (json.loads(line) for line in admin("tenants", "list", "--json").splitlines()), key=lambda t: t["id"] == "acme"
    )
    assert acme["quotas"] == {"queued_items": 100}


def test_metrics_of_a_service_that_others_reach_take_their_token(tmp_path: Path) -> None:
    token = "a token that is long enough"
    for values, sent, status in (
        ({"host": "127.0.0.1"}, "", 200),
        ({"host": "0.0.0.0"}, "", 401),
        ({"host": "0.0.0.0", "metrics_token": token}, f"Bearer {token}", 200),
        ({"host": "127.0.0.1", "metrics_token": token}, "", 401),
        ({"host": "0.0.0.0", "metrics_token": token}, f"Bearer {token[:-1]}", 401),
        ({"host": "0.0.0.0", "metrics_token": token}, f"Basic {token}", 401),
        ({"host": "0.0.0.0"}, "Bearer ", 401),
    ):
        settings = Settings(data_dir=tmp_path, auth="on", secret_key=SECRET, **values)  # type: ignore[arg-type]
        assert may_scrape(settings, sent) is (status == 200), values
    migrate(settings.database)
    with TestClient(create_app(settings)) as http:
        assert http.get("/metrics").status_code == 401
        assert "robustreps_jobs" not in http.get("/metrics", headers={"Authorization": "Bearer x"}).text
        assert http.get("/healthz").status_code == 200
