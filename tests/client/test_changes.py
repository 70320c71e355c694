"""The command line on what is changed of a job, and on webhooks."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from service.client import ApiError, Client
from tests.client.conftest import Command
from tests.fixtures import inversion

pytestmark = pytest.mark.slow  # a service that computes
Job = dict[str, Any]


@pytest.fixture(scope="module")
def job(client: Client) -> Iterator[Job]:
    """One that goes on."""
    job = client.submit(**inversion(steps=100_000), labels={"team": "a", "draft": ""}, description="Before")
    yield job
    client.cancel(job)


def test_what_a_job_is_called_and_how_urgent_it_is_is_changed(client: Client, command: Command, job: Job) -> None:
    shown = command("update", job["id"], "--label", "team=b", "--label", "new", "--no-label", "draft",
                    "--priority", "high", "--description", "After", "--retention", "86400",
                    "--deadline", "2100-01-01T00:00:00Z")  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    changed = client.job(job)
    assert (changed["labels"], changed["description"]) == ({"team": "b", "new": ""}, "After")
    assert (changed["priority"], changed["retention_seconds"]) == ("high", 86400)
    assert changed["deadline"].startswith("2100-01-01T00:00:00")
    assert "new, team=b" in shown.stdout


def test_what_a_job_has_is_taken_away(command: Command, job: Job) -> None:
    shown = command("update", job["id"], "--retention", "none", "--deadline", "none", "--description", "", "--json")
    changed = json.loads(shown.stdout)
    assert (changed["retention_seconds"], changed["deadline"], changed["description"]) == (None, None, None)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "nothing to change; allowed: --label"),
        (["--retention", "2d"], 2, "--retention 2d is no number of seconds"),
        (["--deadline", "soon"], 3, "deadline"),
        (["--priority", "top"], 3, "priority"),
    ],
)
def test_a_change_that_cannot_be_is_refused(
    command: Command, job: Job, arguments: list[str], status: int, said: str
) -> None:
    shown = command("update", job["id"], *arguments)
    assert (shown.returncode, shown.stderr.count("\n")) == (status, 1)
    assert said in shown.stderr


@pytest.fixture(scope="module")
def told() -> Iterator[str]:
    """The address of a server that takes every delivery."""

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Taker) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook"
        server.shutdown()


def test_a_webhook_is_added_tested_rotated_and_deleted(client: Client, command: Command, told: str) -> None:
    added = command("webhooks", "add", told, "--event", "job.failed", "--label", "team=a", "--json")
    made = json.loads(added.stdout)
    assert (made["events"], made["labels"], made["secret"][:6]) == (["job.failed"], {"team": "a"}, "whsec_")
    assert [each["id"] for each in json.loads(command("webhooks", "--json").stdout)] == [made["id"]]
    assert command("webhooks", "list").stdout.splitlines()[1].split() == [made["id"], "enabled", "job.failed", told]
    shown = command("webhooks", "show", made["id"]).stdout
    assert told in shown
    assert "whsec_" not in shown
    assert made["secret"] != json.loads(command("webhooks", "rotate", made["id"], "--json").stdout)["secret"]
    sent = json.loads(command("webhooks", "test", made["id"], "--json").stdout)
    assert [each["id"] for each in client.deliveries(made)] == [sent["id"]]
    listed = command("webhooks", "deliveries", made["id"]).stdout.splitlines()
    assert (len(listed), listed[1].split()[0], listed[1].split()[2]) == (2, sent["id"], "webhook.test")
    assert command("webhooks", "delete", made["id"]).stdout == f"{made['id']} deleted\n"
    assert command("webhooks", "show", made["id"]).returncode == 3


def test_webhooks_are_changed_and_deliveries_sent_again_from_python(client: Client, told: str) -> None:
    made = client.add_webhook(told, events=["job.failed"])
    assert client.update_webhook(made, description="Mine")["description"] == "Mine"
    sent = client.test_webhook(made)
    assert client.retry_delivery(sent)["id"] == sent["id"]
    assert client.update_webhook(made["id"], disabled=True)["disabled_at"]
    with pytest.raises(ApiError, match="is disabled"):
        client.test_webhook(made)
    client.delete_webhook(made)
    assert list(client.webhooks()) == []
