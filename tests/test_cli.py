"""The command line, as processes."""

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

ROBUSTREPS = Path(sys.executable).with_name("robustreps")
pytestmark = pytest.mark.slow  # each starts Python anew


def run(tmp_path: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {f"ROBUSTREPS_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [ROBUSTREPS, *arguments],
        cwd=tmp_path,
        env=environment | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = run(tmp_path, "--help").stdout
    assert all(command in shown for command in ("serve", "worker", "migrate", "demo", "recipe", "submit", "watch"))


def test_the_version_is_the_distributions(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout == f"robustreps {version('robustreps')}\n"


def test_migrate_makes_the_database(tmp_path: Path) -> None:
    done = run(tmp_path, "migrate")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "robustreps-data" / "robustreps.db").exists()


@pytest.mark.parametrize(("name", "value", "said"), [("prot", "1", "ROBUSTREPS_PROT"), ("port", "x", "port")])
def test_a_wrong_setting_is_refused_in_one_line(tmp_path: Path, name: str, value: str, said: str) -> None:
    done = run(tmp_path, "migrate", **{name: value})
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_of_the_embedded_mode_says_that_serve_is_it(tmp_path: Path) -> None:
    done = run(tmp_path, "worker")
    assert done.returncode == 1
    assert "robustreps serve" in done.stderr


def test_help_of_a_recipe_says_how_images_are_named(tmp_path: Path) -> None:
    shown = run(tmp_path, "recipe", "--help")
    assert shown.returncode == 0
    assert all(
        said in shown.stdout for said in ("--model", "--baseline", "--images", "--set", "DATASET:0-7,12", "fast")
    )


ASKED: dict[str, tuple[list[str], int, str]] = {
    "unknown recipe": (["figure-9"], 2, "no recipe figure-9; allowed: figure-2, figure-3,"),
    "no such images": (["figure-3", "--images", "nope"], 2, "nope is no file; allowed: DATASET:0-7,12"),
    "no such indices": (["figure-12", "--first", "cifar10-sample:5-2"], 2, "5-2 is no list of indices, such as 0-7,12"),
    "a setting without a value": (["figure-3", "--set", "steps"], 2, "steps is not NAME=VALUE"),
    "a service that is not there": (["figure-3", "--api", "http://127.0.0.1:1"], 4, "the service cannot be reached"),
}


@pytest.mark.parametrize("case", ASKED)
def test_a_recipe_that_cannot_be_asked_for_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    arguments, status, said = ASKED[case]
    done = run(tmp_path, "recipe", *arguments, "--model", "cifar10-robust")
    assert done.returncode == status
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not (tmp_path / "robustreps-data").exists()  # it did not come to a service


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "x", "--images", "cifar10-sample:0-3"], "model: is unknown; allowed: "),
        (["--model", "cifar10-robust", "--images", "bad.png"], "Unprocessable Content: bad.png: is not an image"),
        (
            ["--model", "cifar10-robust", "--images", "cifar10-sample:0-3", "--set", "name=1"],
            "name: Extra inputs are not permitted",
        ),
    ],
)
def test_a_recipe_that_the_service_refuses_ends_in_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    done = run(tmp_path, "recipe", "figure-3", *arguments, port="0")  # where nobody answers
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_second_process_on_the_same_data_is_refused(tmp_path: Path) -> None:
    environment = os.environ | {"ROBUSTREPS_PORT": "0"}
    first = subprocess.Popen([ROBUSTREPS, "serve"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    try:
        while not (tmp_path / "robustreps-data" / "robustreps.db").exists():
            assert first.poll() is None
            time.sleep(0.05)
        second = run(tmp_path, "serve", port="0")
        assert second.returncode == 1
        assert "another process serves" in second.stderr
        assert "use it, by --api URL" in second.stderr
    finally:
        first.send_signal(signal.SIGTERM)  # a runner in the background may have SIGINT ignored for all below it
        _, said = first.communicate(timeout=240)
    assert first.returncode == 0
    assert b"Traceback" not in said


def test_the_demo_draws_its_contact_sheet_and_prints_its_numbers(tmp_path: Path) -> None:
    done = run(tmp_path, "demo", "--images", "2", "--steps", "10")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "demo-output" / "contact-sheet.png") as sheet:
        assert sheet.width > 2 * 128
        assert sheet.height > 4 * 128
    assert "an independent judge sees the target's class" in done.stdout
    assert "serve" in done.stdout
