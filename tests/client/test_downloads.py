"""`robustreps results`: what it downloads, and what it says where that is less than one may think."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.client import Client
from tests.client.conftest import Command
from tests.fixtures import inversion

pytestmark = pytest.mark.slow  # a service that computes
Job = dict[str, Any]


def test_some_items_are_downloaded(command: Command, done: Job, tmp_path: Path) -> None:
    shown = command("results", done["id"], "--out", "some", "--items", "0,2-9", "--name", "result.png")
    assert shown.stdout == "2 files in some\n"
    assert sorted(path.parent.name for path in (tmp_path / "some").rglob("*.png")) == ["0000000", "0000002"]


def test_items_taken_over_from_another_job_are_said_to_lie_in_its_tars(
    command: Command, reused: Job, tmp_path: Path
) -> None:
    shown = command("results", reused["id"], "--out", "tars", "--shards")
    assert (shown.returncode, shown.stdout) == (0, "2 files in tars\n")
    assert "3 items were taken over from earlier jobs, in whose tars their files are" in shown.stderr
    assert "taken over" not in command("results", reused["id"], "--out", "all", "--name", "result.png").stderr
    assert len(list((tmp_path / "all").rglob("result.png"))) == 4


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "no such file": (["--out", "x", "--name", "nope.png"], 1, "no item has a file nope.png; allowed: result.png,"),
    "no such file in an archive": (["--archive", "x.zip", "--name", "nope"], 1, "no item has a file nope; allowed:"),
    "in a tar": (["--archive", "x.tar", "--name", "nope", "--items", "1"], 1, "none of the items 1 has a file nope"),
    "no such items": (["--out", "x", "--items", "7-9"], 1, "none of the items 7-9 has a file"),
    "no indices": (["--out", "x", "--items", "a"], 2, "a is no list of indices, such as 0-7,12"),
    "items of a list": (["--items", "0"], 2, "--items chooses what --archive, or --out without --shards, downloads"),
    "items of tars": (["--out", "x", "--shards", "--items", "0"], 2, "--items chooses what"),
    "tars to nowhere": (["--shards"], 2, "--shards downloads whole tars: it goes with --out, and without --name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_downloads_nothing_says_why(command: Command, done: Job, case: str) -> None:
    arguments, status, said = REFUSED[case]
    shown = command("results", done["id"], *arguments)
    assert (shown.returncode, said in shown.stderr.splitlines()[-1]) == (status, True), shown.stderr


def test_a_job_without_a_file_says_how_it_stands(client: Client, command: Command) -> None:
    job = client.wait(client.cancel(client.submit(**inversion(steps=100_000))), interval=0.05)["id"]
    shown = command("results", job, "--out", "x", "--json")
    assert shown.returncode == 1
    error = json.loads(shown.stderr)["error"]["detail"]
    assert error == f"nothing to download: {job} is cancelled, and no item has a file"
