"""Webhooks as clients manage them, and the outbox: what is written, with what it tells of or not at all."""

import base64
import json
import threading
from functools import partial
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from service import jobs
from service.bulk_models import Delivery, Webhook
from service.db import Database, now
from service.errors import Conflict
from service.settings import Settings
from service.states import JobState
from service.webhooks import outbox, registry, schemas
from service.webhooks.sealing import SEALED, seal, unsealed
from service.webhooks.sender import claim
from tests.fixtures import inversion
from tests.service import inserting
from tests.service.test_api import assert_problem, post
from tests.service.test_jobs import cancel, claimed, do, finish, plan, save, submit, together
from tests.service.test_recipe_parts import submit_recipe

URL = "https://hooks.example.com/a?b=c"
SETTINGS = Settings(secret_key="a secret of the server's, which is long enough")


def hook(db: Database, **changes: Any) -> schemas.NewWebhook:
    request = schemas.WebhookRequest(**{"url": URL} | changes)
    return do(db, registry.create, request, "client", SETTINGS)


def told(db: Database, webhook_id: str | None = None) -> list[dict[str, Any]]:
    """The bodies in the outbox, in the order in which they were written."""
    with db.reading() as session:
        rows = session.scalars(select(Delivery).order_by(Delivery.created_at)).all()
    return [json.loads(row.body) for row in rows if webhook_id in (None, row.webhook_id)]


def types(db: Database, webhook_id: str | None = None) -> list[str]:
    return [body["type"] for body in told(db, webhook_id)]


def complete(db: Database, shard: str) -> None:
    work = claimed(db, shard)
    for item in work.items:
        save(db, work.lease, item.index)
    finish(db, work.lease)


def made(api: TestClient, **changes: Any) -> dict[str, Any]:
    response = api.post("/v1/webhooks", json={"url": URL} | changes)
    assert response.status_code == 201, response.text
    assert response.headers["location"] == f"/v1/webhooks/{response.json()['id']}"
    answer: dict[str, Any] = response.json()
    return answer


def test_every_state_that_a_job_enters_is_told(database: Database) -> None:
    hook(database)
    job_id, [shard] = submit(database)
    complete(database, shard)
    assert types(database) == ["job.queued", "job.running", "job.finalizing", "job.succeeded"]
    last = told(database)[-1]
    data = last["data"]
    assert last["timestamp"].endswith("Z")
    assert (data["id"], data["kind"], data["state"], data["model"]) == (job_id, "inversion", "succeeded", "m")
    assert data["items"]["total"] == 2
    assert data["finished_at"] is not None
    assert data["links"]["self"] == f"/v1/jobs/{job_id}"


def test_a_webhook_is_told_only_of_what_it_asked_for(database: Database) -> None:
    ends = hook(database, events=["job.succeeded", "job.failed"])
    none = hook(database, labels={"team": "vision"})
    both = hook(database, labels={"team": "vision", "run": "7"}, events=["job.*"])
    _, [shard] = submit(database)
    complete(database, shard)
    labelled = {"labels": {"team": "vision", "run": "7", "more": "x"}}
    job_id, _ = do(database, inserting.submit, plan(1), "digest", None, 1, labelled)
    other = {"labels": {"team": "vision", "run": "8"}}
    do(database, inserting.submit, plan(1), "digest", None, 1, other)
    assert types(database, ends.id) == ["job.succeeded"]
    assert types(database, none.id) == ["job.queued", "job.queued"]
    [only] = told(database, both.id)
    assert (only["data"]["id"], only["data"]["labels"]) == (job_id, labelled["labels"])


def test_a_part_of_a_recipe_names_its_recipe(database: Database) -> None:
    hook(database, events=["job.queued"])
    recipe = submit_recipe(database)
    parents = {body["data"]["id"]: body["data"]["parent"] for body in told(database)}
    assert parents == dict.fromkeys(recipe.parts.values(), recipe.id) | {recipe.id: None}


def test_what_is_undone_is_not_told(database: Database) -> None:
    hook(database)
    job_id, _ = submit(database)

    def broken(session: Session) -> None:
        assert jobs.move(session, job_id, JobState.CANCELLING)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        do(database, broken)
    assert types(database) == ["job.queued"]


def test_nobody_is_told_of_a_move_that_was_none(database: Database) -> None:
    hook(database)
    job_id, _ = submit(database)
    assert not do(database, jobs.move, job_id, JobState.SUCCEEDED)
    assert types(database) == ["job.queued"]


def test_a_job_goes_on_while_its_webhooks_come_and_go(database: Database) -> None:
    for _ in range(6):
        hooks = [hook(database) for _ in range(4)]
        job_id, _ = submit(database)
        errors = together(
            partial(cancel, database, job_id),
            *(partial(registry.remove, database, each.id) for each in hooks[:3]),
            partial(do, database, registry.disable, hooks[3].id, "so"),
        )
        assert errors == []
        registry.remove(database, hooks[3].id)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Delivery)) == 0


def test_there_are_at_most_so_many_webhooks(database: Database) -> None:
    for _ in range(registry.MOST):
        hook(database)
    with pytest.raises(Conflict, match="allowed: 100"):
        hook(database)


def test_a_secret_is_shown_once_and_never_again(api: TestClient) -> None:
    with capture_logs() as logs:
        new = made(api, events=["job.failed"], labels={"a": "b"}, description="mine")
        rotated = api.post(f"/v1/webhooks/{new['id']}/rotate").json()
    secrets = {new.pop("secret"), rotated.pop("secret")}
    assert len(secrets) == 2
    for secret in secrets:
        assert secret.startswith("whsec_")
        assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64
    assert rotated == new == api.get(f"/v1/webhooks/{new['id']}").json()
    shown = api.get("/v1/webhooks").text + api.get(f"/v1/webhooks/{new['id']}/deliveries").text + repr(logs)
    assert not any(secret in shown for secret in secrets)


def test_webhooks_are_listed_newest_first_by_page(api: TestClient) -> None:
    ids = [made(api, url=f"https://example.com/{n}")["id"] for n in range(5)]
    page = api.get("/v1/webhooks", params={"limit": 3}).json()
    rest = api.get("/v1/webhooks", params={"limit": 3, "cursor": page["next_cursor"]}).json()
    assert [w["id"] for w in page["webhooks"] + rest["webhooks"]] == ids[::-1]
    assert rest["next_cursor"] is None


def test_a_webhook_is_changed_field_by_field(api: TestClient) -> None:
    new = made(api, labels={"a": "b"}, description="mine")
    url = f"/v1/webhooks/{new['id']}"
    changed = api.patch(url, json={"events": ["job.failed"], "description": None}).json()
    assert (changed["events"], changed["description"], changed["labels"]) == (["job.failed"], None, {"a": "b"})
    assert api.patch(url, json={"url": "https://example.org/", "labels": None}).json()["labels"] == {}
    assert api.get(url).json()["url"] == "https://example.org/"
    assert api.patch(url, json={}).json() == api.get(url).json()


def test_a_disabled_webhook_is_told_of_nothing_and_what_waited_is_given_up(api: TestClient) -> None:
    new = made(api)
    url = f"/v1/webhooks/{new['id']}"
    post(api, inversion())
    assert api.patch(url, json={"disabled": True}).json()["disabled_reason"] == "disabled by a client"
    post(api, inversion())
    [waited] = api.get(f"{url}/deliveries").json()["deliveries"]
    assert (waited["state"], waited["error"], waited["next_at"]) == ("failed", "the webhook was disabled", None)
    assert_problem(api.post(f"{url}/test"), 409)
    assert_problem(api.post(f"/v1/deliveries/{waited['id']}/retry"), 409)
    again = api.patch(url, json={"disabled": False}).json()
    assert (again["disabled_at"], again["disabled_reason"]) == (None, None)
    retried = api.post(f"/v1/deliveries/{waited['id']}/retry")
    assert (retried.status_code, retried.json()["state"], retried.json()["attempts"]) == (202, "pending", 0)


def test_deliveries_are_listed_newest_first_by_page(api: TestClient) -> None:
    url = f"/v1/webhooks/{made(api)['id']}"
    sent = [api.post(f"{url}/test").json() for _ in range(3)]
    assert sent[0]["event"] == sent[0]["body"]["type"] == "webhook.test"
    page = api.get(f"{url}/deliveries", params={"limit": 2}).json()
    rest = api.get(f"{url}/deliveries", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert page["deliveries"] + rest["deliveries"] == sent[::-1]


def test_a_webhook_goes_with_its_deliveries(api: TestClient) -> None:
    url = f"/v1/webhooks/{made(api)['id']}"
    delivery = api.post(f"{url}/test").json()["id"]
    assert api.delete(url).status_code == 204
    for response in (api.get(url), api.delete(url), api.patch(url, json={}), api.post(f"{url}/rotate"),
                     api.post(f"{url}/test"), api.get(f"{url}/deliveries"),
                     api.post(f"/v1/deliveries/{delivery}/retry")):  # fmt: skip
        assert_problem(response, 404)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no url": ({"url": None}, "url"),
    "plain http": ({"url": "http://example.com/"}, "url"),
    "a private address": ({"url": "https://10.0.0.1/"}, "url"),
    "credentials": ({"url": "https://a:b@example.com/"}, "url"),
    "a long url": ({"url": "https://example.com/" + "x" * 2000}, "url"),
    "a lone surrogate": ({"url": "https://example.com/\ud800"}, "url"),
    "an event that is none": ({"events": ["job.exploded"]}, "events.0"),
    "no events": ({"events": []}, "events"),
    "a label with a bad key": ({"labels": {" ": "x"}}, "labels. .[key]"),
    "a label that is no text": ({"labels": {"a": 1}}, "labels.a"),
    "a secret of one's own": ({"secret": "whsec_x"}, "secret"),
    "a long description": ({"description": "x" * 501}, "description"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_webhook_is_refused_by_name_and_leaves_nothing(api: TestClient, case: str) -> None:
    changes, field = BAD[case]
    body = json.dumps({"url": URL} | changes)
    headers = {"Content-Type": "application/json"}
    assert_problem(api.post("/v1/webhooks", content=body, headers=headers), 422, field)
    url = f"/v1/webhooks/{made(api)['id']}"
    before = api.get(url).json()
    assert_problem(api.patch(url, content=body, headers=headers), 422, field if case != "no url" else "body")
    assert api.get("/v1/webhooks").json()["webhooks"] == [before]


def test_old_secrets_sign_for_a_day(database: Database) -> None:
    first = hook(database)
    second = do(database, registry.rotate, first.id, SETTINGS)

    def signing(at: float) -> list[str]:
        with database.reading() as session:
            row, today = session.get_one(Webhook, first.id), session.scalars(select(now())).one()
            return [str(unsealed(s["secret"], SETTINGS)) for s in registry.valid(row, today + at)]

    assert signing(0) == [second.secret, first.secret]
    assert signing(86_390) == [second.secret, first.secret]
    assert signing(86_410) == [second.secret]
    for _ in range(registry.MOST_SECRETS - 2):
        do(database, registry.rotate, first.id, SETTINGS)
    with pytest.raises(Conflict, match="still sign"):
        do(database, registry.rotate, first.id, SETTINGS)
    with database.transaction() as session:
        row = session.get_one(Webhook, first.id)
        row.secrets = [s if s["expires_at"] is None else s | {"expires_at": 1.0} for s in row.secrets]
    do(database, registry.rotate, first.id, SETTINGS)
    assert len(signing(0)) == 2


def test_two_rotations_at_once_both_count(database: Database) -> None:
    new = hook(database)
    made: list[str] = []
    lock = threading.Lock()

    def rotate() -> None:
        secret = do(database, registry.rotate, new.id, SETTINGS).secret
        with lock:
            made.append(secret)

    assert together(rotate, rotate, rotate) == []
    with database.reading() as session:
        kept = {unsealed(s["secret"], SETTINGS) for s in session.get_one(Webhook, new.id).secrets}
    assert kept == {new.secret, *made}


def test_a_webhook_that_was_disabled_as_an_event_was_written_gives_it_up(database: Database) -> None:
    new = hook(database)
    with database.transaction() as session:
        session.execute(update(Webhook).values(disabled_at=1.0))
        outbox.write(session, [new.id], "job.queued", 1.0, {})
    assert do(database, claim, new.id, SETTINGS) is None
    with database.reading() as session:
        assert session.scalars(select(Delivery)).one().failed_at is not None


def test_secrets_lie_sealed_in_the_database_and_those_of_before_still_sign(database: Database) -> None:
    new = hook(database)
    with database.transaction() as session:
        row = session.get_one(Webhook, new.id)
        assert row.secrets[0]["secret"].startswith(SEALED)
        assert new.secret not in str(row.secrets)
        row.secrets = [{"secret": new.secret, "expires_at": None}]  # as the version before wrote it
        outbox.write(session, [new.id], "job.queued", 1.0, {})
    claimed = do(database, claim, new.id, SETTINGS)
    assert claimed is not None
    assert claimed.secrets == [new.secret]
    server = Settings(broker_url="redis://127.0.0.1:1", database_url="postgresql+psycopg://x", auth="off")
    assert unsealed(seal("whsec_x", server), server) == "whsec_x", "a server without a secret has nothing to seal by"


def test_a_webhook_whose_secret_cannot_be_read_any_more_says_what_to_do(database: Database) -> None:
    new, other = hook(database), Settings(secret_key="another secret of the server's, after the first was lost")
    with database.transaction() as session:
        outbox.write(session, [new.id], "job.queued", 1.0, {})
    assert do(database, claim, new.id, other) is None
    with database.reading() as session:
        row = session.get_one(Webhook, new.id)
        assert "sealed under another ROBUSTREPS_SECRET_KEY: rotate it" in str(row.disabled_reason)
    made = do(database, registry.rotate, new.id, other)
    with database.reading() as session:
        assert unsealed(session.get_one(Webhook, new.id).secrets[0]["secret"], other) == made.secret
