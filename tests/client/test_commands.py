"""The commands of a client, as processes against a running service."""

import csv
import hashlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.client import Client
from service.remote.progress import described
from tests.client.conftest import ROBUSTREPS, Command
from tests.fixtures import inversion
from tests.service.test_images import noise

pytestmark = pytest.mark.slow  # each starts Python anew
Job = dict[str, Any]
SHORT = ("--kind", "inversion", "--model", "cifar10-robust", "--preset", "cifar", "--set", "steps=5")


def document(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def lines(done: subprocess.CompletedProcess[str]) -> list[Any]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_submit_prints_the_id_of_a_job(client: Client, command: Command) -> None:
    done = command("submit", *SHORT, "--targets", "cifar10-sample:0-1", "--set", "seed=7")
    assert client.job(done.stdout.strip())["parameters"]["seed"] == 7
    assert "the preset cifar is not the paper's" in done.stderr


@pytest.mark.parametrize("written", [json.dumps, yaml.safe_dump], ids=["json", "yaml"])
def test_submit_takes_a_file_and_options_over_it(command: Command, tmp_path: Path, written: Any) -> None:
    (tmp_path / "job").write_text(written(inversion(seed=1, steps=5)))
    job = document(command("submit", "job", "--set", "seed=2", "--json"))
    assert (job["parameters"]["seed"], job["parameters"]["steps"], job["items"]["total"]) == (2, 5, 3)


def test_submit_takes_standard_input(command: Command) -> None:
    assert document(command("submit", "-", "--json", stdin=json.dumps(inversion(steps=5))))["items"]["total"] == 3


def test_submit_uploads_what_it_names(client: Client, command: Command, tmp_path: Path) -> None:
    noise(size=(32, 32)).save(tmp_path / "a.png")
    job = document(command("--json", "submit", *SHORT, "--targets", "a.png", "--start", "gray"))
    (item,) = client.items(job)
    assert item["target"]["image"] == "sha256:" + hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert item["start"]["source"] == "gray"


def test_a_key_makes_one_job_of_two(command: Command) -> None:
    both = [command("submit", *SHORT, "--targets", "cifar10-sample:0", "--key", "once").stdout for _ in range(2)]
    assert both[0] == both[1] != ""


def test_a_watched_job_ends_the_command_with_its_end(command: Command) -> None:
    done = command("submit", *SHORT, "--targets", "cifar10-sample:0", "--watch")
    assert done.returncode == 0
    job_id, last = done.stdout.splitlines()
    assert last == f"{job_id} succeeded"


def test_watching_a_job_that_did_not_succeed_is_a_failure(client: Client, command: Command) -> None:
    job = client.cancel(client.submit(**inversion(steps=100_000)))
    done = command("watch", job["id"])
    assert (done.returncode, done.stdout.strip()) == (1, f"{job['id']} cancelled")


def test_watching_prints_a_line_for_each_change(client: Client, command: Command) -> None:
    jobs = [client.submit(**inversion(steps=steps))["id"] for steps in (5, 20)]
    seen = lines(command("watch", *jobs, "--json"))
    assert {job["id"]: job["state"] for job in seen} == dict.fromkeys(jobs, "succeeded")
    assert all(a != b for a, b in pairwise(seen))


def test_status_lists_jobs_newest_first(client: Client, command: Command, done: Job) -> None:
    newest = client.submit(**inversion(steps=5))
    shown = command("status")
    assert shown.stdout.splitlines()[1].split()[0] == newest["id"]
    assert [job["id"] for job in document(command("status", "--json", "-n", "1"))] == [newest["id"]]
    everything = document(command("status", "--json", "--all", "--state", "succeeded"))
    assert done["id"] in {job["id"] for job in everything}


def test_status_of_a_job_says_how_it_stands(command: Command, done: Job) -> None:
    shown = command("status", done["id"]).stdout
    assert all(said in shown for said in (done["id"], "succeeded", "3/3", "cifar10-robust"))
    assert document(command("status", done["id"], "--json")) == [done]


def test_items_that_were_cancelled_do_not_count_as_done(client: Client, command: Command) -> None:
    job = client.wait(client.cancel(client.submit(**inversion(steps=100_000))), interval=0.05)
    assert "0/3" in command("status", job["id"]).stdout
    assert described(job) == "inversion cancelled, 0 of 3 items"


def test_times_have_their_zone(command: Command, done: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    shown = command("status", done["id"]).stdout
    assert re.search(r"submitted +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+05:30\n", shown)


def test_results_are_listed_with_their_metrics(client: Client, command: Command, done: Job) -> None:
    shown = command("results", done["id"]).stdout.splitlines()
    assert shown[0].split()[:4] == ["item", "state", "label", "relative_distance"]
    assert len(shown) == 4
    assert "result.png, result.safetensors" in shown[1]
    assert lines(command("results", done["id"], "--json")) == list(client.items(done))


def test_results_are_narrowed_by_their_metrics(client: Client, command: Command, done: Job, tmp_path: Path) -> None:
    found = {item["index"]: item["metrics"]["ssim"] for item in client.items(done)}
    best = max(found, key=lambda index: float(found[index]))
    where = f"ssim>={found[best]!r}"
    assert [item["index"] for item in client.items(done, metric=[where, "steps_taken>0"])] == [best]
    assert [item["index"] for item in client.results(done, metric=[where])] == [best]
    assert len(command("results", done["id"], "--where", where).stdout.splitlines()) == 2
    command("results", done["id"], "--where", where, "--out", "best", "--name", "result.png")
    assert [path.name for path in (tmp_path / "best" / "items").iterdir()] == [f"{best:07d}"]
    refused = command("results", done["id"], "--where", "ssim")
    assert (refused.returncode, "metric.0" in refused.stderr, "ssim>=0.5" in refused.stderr) == (3, True, True)
    assert command("results", done["id"], "--where", where, "--table", "csv").returncode == 2


def test_results_are_downloaded(client: Client, command: Command, done: Job, tmp_path: Path) -> None:
    shown = command("results", done["id"], "--out", "here", "--name", "result.png", "--name", "trace.json")
    assert shown.stdout == "6 files in here\n"
    for item in client.items(done):
        path = tmp_path / "here" / "items" / f"{item['index']:07d}" / "result.png"
        assert path.read_bytes() == client.artifact(item, "result.png")
    assert len(lines(command("results", done["id"], "-o", "here", "--json"))) == 15


def test_results_are_downloaded_as_tars_and_printed_as_a_table(command: Command, done: Job, tmp_path: Path) -> None:
    said = command("results", done["id"], "-o", "tars", "--shards").stdout
    assert int(said.split()[0]) == len(list((tmp_path / "tars").glob("*.tar"))) > 0
    rows = list(csv.DictReader(io.StringIO(command("results", done["id"], "--table", "csv").stdout)))
    assert [row["index"] for row in rows] == ["0", "1", "2"]


def test_jobs_are_paused_resumed_and_cancelled(client: Client, command: Command) -> None:
    jobs = [client.submit(**inversion(steps=100_000))["id"] for _ in range(2)]
    for change, state in (("pause", "paused"), ("resume", ""), ("cancel", "cancel")):
        answers = document(command(change, *jobs, "--json"))
        assert all(job["state"].startswith(state) for job in answers)
    assert {job["state"] for job in client.follow(*jobs, interval=0.05)} <= {"cancelling", "cancelled"}


def test_what_cannot_be_changed_is_said_and_the_rest_is_changed(client: Client, command: Command, done: Job) -> None:
    going = client.submit(**inversion(steps=100_000))["id"]
    shown = command("cancel", done["id"], going)
    assert shown.returncode == 3
    assert shown.stderr == f"Conflict: job {done['id']} is succeeded and cannot be cancelled\n"
    assert client.wait(going, interval=0.05)["state"] == "cancelled"


def test_cards_are_listed_and_shown(client: Client, command: Command) -> None:
    assert document(command("models", "--json")) == client.models() == document(command("models", "list", "--json"))
    assert document(command("--json", "datasets")) == client.datasets()
    assert "cifar10-standard" in command("models").stdout
    assert "natural-sample" in command("datasets", "list").stdout
    assert document(command("models", "show", "cifar10-robust", "--json"))["features"] == 192
    assert "400 test images" in command("datasets", "show", "cifar10-sample").stdout


def test_a_data_set_is_registered(client: Client, command: Command, tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text("name: mine\nformat: images\npath: plain\n")
    done = command("datasets", "register", "d.yaml", "--set", "title=Mine", "--watch")
    assert done.returncode == 0, done.stderr
    assert {card["name"]: card["title"] for card in client.datasets()}["mine"] == "Mine"


def test_images_and_checkpoints_are_uploaded(client: Client, command: Command, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("a", "b"):
        noise(size=(8, 8)).save(tmp_path / "pictures" / f"{name}.png")
    digest = hashlib.sha256((tmp_path / "pictures" / "a.png").read_bytes()).hexdigest()
    assert command("upload", "pictures").stdout.split()[::2] == [f"sha256:{digest}"] * 2
    (tmp_path / "weights.pt").write_bytes(b"weights")
    (stored,) = lines(command("upload", "--kind", "checkpoint", "weights.pt", "--json"))
    assert client.json("GET", f"/v1/checkpoints/{stored['id']}")["size"] == 7


def test_the_dashboards_address_is_printed(client: Client, command: Command, done: Job) -> None:
    assert command("open", done["id"], "--no-browser").stdout == f"{client.url}/ui/jobs/{done['id']}\n"


ASKED: dict[str, tuple[list[str], int, str]] = {
    "no such job": (["status", "job_0"], 3, "Not Found: no job job_0"),
    "a field that is missing": (["submit", "--kind", "inversion", "--model", "x"], 3, "targets: Field required"),
    "a value that is not allowed": (
        ["submit", *SHORT, "--targets", "cifar10-sample:0", "--set", "preset=slow"], 3,
        "preset: Input should be 'paper', 'notebook', 'cifar' or 'fast'",
    ),
    "no such model": (
        ["submit", *SHORT, "--targets", "cifar10-sample:0", "--set", "model=x"], 3,
        "model: is unknown; allowed: cifar10-judge, cifar10-robust, cifar10-standard",
    ),
    "no such file": (["submit", "nothing.json"], 2, "there is no file nothing.json\n"),
    "a folder for a file": (["submit", "."], 2, ".: is a directory\n"),
    "no address": (["status", "--api", "127.0.0.1:80"], 2, "'127.0.0.1:80' is no address of a service; allowed:"),
    "no such images": (["submit", *SHORT, "--targets", "nothing.png"], 2, "targets: nothing.png is no file; allowed:"),
    "a file of something else": (["submit", "bad.json"], 2, "bad.json is neither JSON nor YAML"),
    "a setting without a value": (["submit", "--set", "steps"], 2, "steps is not NAME=VALUE"),
    "a kind of upload": (["upload", "--kind", "film", "bad.json"], 2, "film is no kind of upload; allowed: image"),
    "a file that is no image": (["upload", "bad.json"], 3, "Unprocessable Content: bad.json: is not an image"),
    "a service that is not there": (["status", "--api", "http://127.0.0.1:1"], 4, "cannot be reached at http://127"),
}  # fmt: skip


@pytest.mark.parametrize("case", ASKED)
def test_what_cannot_be_done_is_said_in_one_line(command: Command, tmp_path: Path, case: str) -> None:
    arguments, status, said = ASKED[case]
    (tmp_path / "bad.json").write_text("{,")
    shown = command(*arguments)
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (status, "", 1), shown.stderr
    assert said in shown.stderr
    as_json = command("--json", *arguments)
    assert (as_json.returncode, list(json.loads(as_json.stderr))) == (status, ["error"])


def test_of_many_fields_at_fault_the_first_are_shown(command: Command) -> None:
    shown = command("submit", *SHORT, "--targets", "cifar10-sample:390-420")
    said = shown.stderr.splitlines()
    assert (shown.returncode, len(said), said[-1]) == (3, 11, "and 11 more")


def test_a_command_that_is_misspelt_is_guessed(command: Command) -> None:
    shown = command("statsu")
    assert shown.returncode == 2
    assert "Did you mean 'status'?" in shown.stderr


def completed(command: Command, words: str) -> list[str]:
    """What a shell is offered for the last word."""
    split = [*shlex.split(words), *([""] if words.endswith(" ") else [])]
    environment = {"_ROBUSTREPS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(split) - 1)}
    os.environ.update(environment)
    try:
        return command().stdout.split()
    finally:
        for name in environment:
            del os.environ[name]


def test_a_shell_completes_commands_models_and_jobs(command: Command, done: Job) -> None:
    assert completed(command, "robustreps mo") == ["models"]
    assert completed(command, "robustreps submit --model cifar10-r") == ["cifar10-robust"]
    assert done["id"] in completed(command, "robustreps results job_")
    assert completed(command, "robustreps datasets show nat") == ["natural-sample"]


def test_a_shell_completes_nothing_where_the_service_is_away(command: Command) -> None:
    assert completed(command, "robustreps --api http://127.0.0.1:1 submit --model c") == []


def asks(pid: int) -> bool:
    """Whether a process has a connection."""
    for opened in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it is closed by now
            if "socket" in str(opened.readlink()):
                return True
    return False


def test_an_interrupted_watch_leaves_no_traceback(client: Client, tmp_path: Path) -> None:
    job = client.submit(**inversion(steps=100_000))
    watching = subprocess.Popen(
        [ROBUSTREPS, "watch", job["id"], "--api", client.url], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while not asks(watching.pid):
        assert watching.poll() is None
        time.sleep(0.1)
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=120)
    assert watching.returncode == 130
    assert "Traceback" not in said
    client.cancel(job)


def test_a_recipe_is_drawn_by_the_service_that_answers_at_the_settings_port(
    client: Client, command: Command, tmp_path: Path
) -> None:
    port = client.url.rpartition(":")[2]
    asked = ("recipe", "figure-3", "--preset", "cifar", "--images", "cifar10-sample:0-1", "--set", "steps=5")
    shown = command(*asked, "--model", "cifar10-robust", api="", port=port)
    assert shown.returncode == 0, shown.stderr
    assert f" at {client.url}\n" in shown.stderr
    assert next(client.jobs(kind="recipe"))["id"] in shown.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"figure-3.{kind}" for kind in ("csv", "json", "pdf", "png")
    ]


def test_help_loads_no_service() -> None:
    code = "import sys, service.cli\ntry: service.cli.app(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    run = subprocess.run([ROBUSTREPS.with_name("python"), "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.splitlines()[-1].split())
    assert {"httpx2", "pydantic", "sqlalchemy", "fastapi", "celery", "torch", "service.client"} & loaded == set()
