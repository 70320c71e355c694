"""The sender: signed, tried again by the schedule, at least once whatever is killed, and nobody held up by another."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from sqlalchemy import select, update
from standardwebhooks import Webhook as Oracle
from standardwebhooks import WebhookVerificationError

from service.bulk_models import Delivery, Webhook
from service.db import Database, now
from service.settings import Settings
from service.webhooks import posting, registry, schemas, sender
from service.webhooks.posting import Answer
from service.webhooks.sender import KEPT, SCHEDULE, Claimed, Sender, claim, due, purge, record
from service.webhooks.signing import new_secret
from tests.service.receiver import Received, dropping, hanging, receiving, status
from tests.service.test_jobs import do, submit, together
from tests.service.test_webhooks import complete
from tests.stack import Stack

SECRET = "a secret of the server's, which is long enough"
OPEN = Settings(webhook_http=True, webhook_private=True, secret_key=SECRET)
CLOSED, SECURE = (OPEN.model_copy(update={name: False}) for name in ("webhook_private", "webhook_http"))
FAILED = Answer(500, "answered 500")


def hook(db: Database, url: str = "http://127.0.0.1:9/", **changes: Any) -> schemas.NewWebhook:
    return do(db, registry.create, schemas.WebhookRequest(**{"url": url} | changes), "client", OPEN)


def queued(db: Database, webhook: schemas.Webhook) -> str:
    """Queue an event for a webhook; answers the delivery's id."""
    return do(db, registry.test, webhook.id).id


def delivery(db: Database, delivery_id: str) -> schemas.Delivery:
    with db.reading() as session:
        return registry.shown_delivery(session.get_one(Delivery, delivery_id))


def wait_state(db: Database, delivery_id: str, *, attempts: int) -> schemas.Delivery:
    end = time.monotonic() + 120
    while (found := delivery(db, delivery_id)).attempts < attempts:
        assert time.monotonic() < end, f"not tried so often: {found}"
        time.sleep(0.05)
    return found


def claimed(db: Database, webhook: schemas.Webhook) -> Claimed:
    found = do(db, claim, webhook.id, OPEN)
    assert found is not None
    return found


def pass_time(db: Database, seconds: float) -> None:
    """Let everything that waits have waited so much longer."""
    with db.transaction() as session:
        session.execute(update(Delivery).values(next_at=Delivery.next_at - seconds))


@contextmanager
def sending(db: Database, settings: Settings = OPEN) -> Iterator[Sender]:
    sender = Sender(db, settings)
    sender.start()
    try:
        yield sender
    finally:
        sender.close()


def verified(got: Received, secret: str) -> Any:
    """What a receiver that knows this secret makes of a request, by another implementation."""
    return Oracle(secret).verify(got.body, got.headers)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "TICK", 0.1)


def test_every_state_of_a_job_arrives_signed_as_the_standard_says(database: Database) -> None:
    with receiving(status(200)) as receiver, sending(database):
        secret = hook(database, receiver.url).secret
        job_id, [shard] = submit(database)
        complete(database, shard)
        received = receiver.wait(4)
    bodies = [verified(got, secret) for got in received]
    assert {body["data"]["id"] for body in bodies} == {job_id}
    assert [body["type"] for body in bodies] == ["job.queued", "job.running", "job.finalizing", "job.succeeded"]
    assert len({got.headers["webhook-id"] for got in received}) == 4
    for got, body in zip(received, bodies, strict=True):
        assert json.dumps(body, separators=(",", ":")).encode() == got.body
        with pytest.raises(WebhookVerificationError):
            Oracle(secret).verify(got.body + b" ", got.headers)
        with pytest.raises(WebhookVerificationError):
            Oracle(new_secret()).verify(got.body, got.headers)


def test_while_a_secret_is_replaced_both_are_good(database: Database) -> None:
    with receiving(status(200)) as receiver, sending(database):
        first = hook(database, receiver.url)
        second = do(database, registry.rotate, first.id, OPEN)
        queued(database, first)
        [got] = receiver.wait(1)
        assert verified(got, first.secret) == verified(got, second.secret)
        with database.transaction() as session:
            row = session.get_one(Webhook, first.id)
            row.secrets = [row.secrets[0], row.secrets[1] | {"expires_at": 1.0}]
        queued(database, first)
        got = receiver.wait(2)[1]
    verified(got, second.secret)
    with pytest.raises(WebhookVerificationError):
        verified(got, first.secret)


def test_a_failed_attempt_is_made_again_with_the_same_id_and_a_new_signature(database: Database) -> None:
    with receiving(status(500), dropping, status(204)) as receiver, sending(database) as sender:
        webhook = hook(database, receiver.url)
        delivery_id = queued(database, webhook)
        first = wait_state(database, delivery_id, attempts=1)
        assert (first.state, first.status, first.error) == ("pending", 500, "answered 500")
        pass_time(database, 10)
        second = wait_state(database, delivery_id, attempts=2)
        assert (second.state, second.status) == ("pending", None)
        pass_time(database, 400)
        last = wait_state(database, delivery_id, attempts=3)
        assert (last.state, last.status, last.error) == ("delivered", 204, None)
        assert sender._rests == {}
    assert {got.headers["webhook-id"] for got in receiver.received} == {delivery_id}
    assert len({got.body for got in receiver.received}) == 1
    for got in receiver.received:
        verified(got, webhook.secret)


def test_the_pauses_are_those_of_the_standard_and_then_it_is_given_up(database: Database) -> None:
    webhook = hook(database)
    delivery_id = queued(database, webhook)
    for n, pause in enumerate((*SCHEDULE[1:], None), 1):
        do(database, record, claimed(database, webhook), FAILED)
        found = delivery(database, delivery_id)
        assert found.attempts == n
        if pause is None:
            break
        with database.reading() as session:
            row = session.get_one(Delivery, delivery_id)
            wait = row.next_at - session.scalars(select(now())).one()
        assert pause - 1 < wait < pause * 1.2 + 1
        assert do(database, claim, webhook.id, OPEN) is None
        pass_time(database, wait)
    assert (found.state, found.attempts, found.next_at) == ("failed", 10, None)
    assert do(database, due) == []
    do(database, registry.retry, delivery_id)
    assert claimed(database, webhook).id == delivery_id


def test_who_answers_410_is_not_told_again(database: Database) -> None:
    with receiving(status(410)) as receiver, sending(database):
        webhook = hook(database, receiver.url)
        first, second = queued(database, webhook), queued(database, webhook)
        assert wait_state(database, first, attempts=1).state == "failed"
        submit(database)
        time.sleep(1.5)
    assert len(receiver.received) == 1
    assert delivery(database, second).error == "the webhook was disabled"
    with database.reading() as session:
        assert registry.find(session, webhook.id).disabled_reason == "it answered 410 (Gone)"


def test_slow_targets_hold_up_nobody_else(database: Database) -> None:
    with ExitStack() as exits:
        slow = [exits.enter_context(receiving(hanging)) for _ in range(8)]
        fast = exits.enter_context(receiving(status(200)))
        for receiver in slow:
            webhook = hook(database, receiver.url, events=["job.expired"])
            for _ in range(3):
                queued(database, webhook)
        exits.enter_context(sending(database))
        for receiver in slow:
            receiver.wait(1)
        quick = hook(database, fast.url)
        begun = time.monotonic()
        for _ in range(20):
            queued(database, quick)
        fast.wait(20)
        assert time.monotonic() - begun < posting.SECONDS, "it did not wait for the others to be given up"
        assert [len(receiver.received) for receiver in slow] == [1] * 8  # one at a time for each
        for receiver in slow:  # so that the sender need not wait for its timeouts
            receiver.hang_up()


def test_a_target_that_fails_is_left_alone_for_longer_and_longer(database: Database) -> None:
    with receiving(status(500)) as receiver, sending(database):
        webhook = hook(database, receiver.url)
        for _ in range(50):
            queued(database, webhook)
        receiver.wait(3)
        time.sleep(1)
    assert len(receiver.received) < 6
    assert receiver.received[2].at - receiver.received[1].at > receiver.received[1].at - receiver.received[0].at


@pytest.mark.parametrize(
    ("settings", "url", "error"),
    [
        (CLOSED, "http://localhost:PORT/", "leads to an address that is not public"),
        (SECURE, "http://127.0.0.1:PORT/", "refused: the address must begin with https://"),
        (OPEN, "http://nobody.invalid:PORT/", "the name cannot be resolved"),
    ],
)
def test_a_target_that_is_not_allowed_is_not_connected_to(
    database: Database, settings: Settings, url: str, error: str
) -> None:
    with receiving(status(200)) as receiver, sending(database, settings):
        port = receiver.url.split(":")[2].split("/")[0]
        found = wait_state(database, queued(database, hook(database, url.replace("PORT", port))), attempts=1)
    assert receiver.received == []
    assert error in str(found.error)
    assert "127." not in str(found.error)
    assert (found.state, found.status) == ("pending", None)


def test_two_senders_send_everything_and_nothing_twice(database: Database) -> None:
    with ExitStack() as exits:
        receivers = [exits.enter_context(receiving(status(200))) for _ in range(3)]
        hooks = [hook(database, receiver.url) for receiver in receivers]
        sent = [[queued(database, each) for _ in range(15)] for each in hooks]
        for _ in range(2):
            exits.enter_context(sending(database))
        for receiver, ids in zip(receivers, sent, strict=True):
            assert sorted(got.headers["webhook-id"] for got in receiver.wait(15)) == sorted(ids)
        time.sleep(1.5)
    assert [len(receiver.received) for receiver in receivers] == [15] * 3


def test_a_delivery_is_claimed_once(database: Database) -> None:
    webhook = hook(database)
    ids = {queued(database, webhook) for _ in range(4)}
    taken: list[str] = []
    assert together(*[lambda: taken.append(claimed(database, webhook).id)] * 4) == []
    assert set(taken) == ids
    assert do(database, claim, webhook.id, OPEN) is None


def test_a_webhook_that_is_removed_meanwhile_is_no_fault(database: Database) -> None:
    webhook = hook(database)
    queued(database, webhook)
    taken = claimed(database, webhook)
    registry.remove(database, webhook.id)
    for answer in (FAILED, Answer(410, "answered 410"), Answer(200, None)):
        do(database, record, taken, answer)
    assert do(database, claim, webhook.id, OPEN) is None


def test_an_attempt_that_another_outran_undoes_nothing(database: Database) -> None:
    webhook = hook(database)
    delivery_id = queued(database, webhook)
    slow = claimed(database, webhook)
    pass_time(database, 61)
    quick = claimed(database, webhook)
    do(database, record, quick, Answer(200, None))
    do(database, record, slow, FAILED)
    found = delivery(database, delivery_id)
    assert (found.state, found.status, found.error) == ("delivered", 200, None)


def test_old_deliveries_are_removed(database: Database) -> None:
    webhook = hook(database)
    old, new = queued(database, webhook), queued(database, webhook)
    with database.transaction() as session:
        session.execute(update(Delivery).where(Delivery.id == old).values(created_at=now() - KEPT - 1))
    assert do(database, purge, 9) == 1
    with database.reading() as session:
        assert session.scalars(select(Delivery.id)).all() == [new]


KILLED = """
import sys
from service.db import Database
from service.settings import Settings
from service.webhooks.sender import Sender

class Dying(Sender):
    def _send(self, claimed):
        print(claimed.id, flush=True)
        sys.stdin.read()  # until it is killed

sender = Dying(Database(sys.argv[1]), Settings(webhook_http=True, webhook_private=True, secret_key=sys.argv[2]))
sender.start()
sys.stdin.read()
"""


def test_what_a_killed_process_had_claimed_is_sent_by_another(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    with receiving(status(200)) as receiver:
        delivery_id = queued(database, hook(database, receiver.url))
        with subprocess.Popen([sys.executable, "-c", KILLED, url, SECRET], stdin=-1, stdout=-1, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == delivery_id
            process.send_signal(signal.SIGKILL)
        with sending(database):
            time.sleep(2)
            assert receiver.received == []  # it cannot know that the other one is dead
            pass_time(database, 60)
            [got] = receiver.wait(1)
        assert got.headers["webhook-id"] == delivery_id
    assert delivery(database, delivery_id).attempts == 1


@pytest.mark.e2e
@pytest.mark.slow
def test_a_service_that_is_killed_while_it_sends_sends_again(stack: Stack) -> None:
    stack.environment |= OPEN.environment(["webhook_http", "webhook_private", "secret_key"])
    [first] = stack.processes
    first.kill()
    first.wait()
    second = stack.start("serve")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        delivery_id = queued(stack.db, hook(stack.db, f"http://127.0.0.1:{port}/"))
        connection, _ = silent.accept()
        with connection:
            assert delivery_id.encode() in connection.recv(10_000)
            second.kill()
            second.wait()
    stack.start("serve")
    with receiving(status(200), port=port) as receiver:
        pass_time(stack.db, 60)
        [got] = receiver.wait(1)
    assert got.headers["webhook-id"] == delivery_id
    stack.wait_until(lambda: delivery(stack.db, delivery_id).state == "delivered")
