"""The Dockerfile and what it copies. `make image-check` builds it; these hold without a network."""

import json
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement

from tests.deploy.chart import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
TARGETS = ("api", "worker")


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, by its name."""
    found: dict[str, list[tuple[str, str]]] = {}
    lines = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found[rest.split(" AS ")[1]] = [("FROM", rest.split(" AS ")[0])]
        elif word and found:
            found[list(found)[-1]].append((word, " ".join(rest.split())))
    return found


def only(stage: str, word: str) -> str:
    (found,) = [rest for each, rest in stages()[stage] if each == word]
    return found


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_images_begin_with_one_debian_that_is_pinned_by_its_point_release() -> None:
    assert re.search(r"^ARG BASE=debian:\d+\.\d+-slim$", DOCKERFILE, re.M)
    assert {stages()[target][0] for target in TARGETS} == {("FROM", "base")}
    assert stages()["base"][0] == ("FROM", "${BASE}")


def test_no_process_is_root_and_a_signal_reaches_it() -> None:
    for target in TARGETS:
        assert only(target, "USER") == "10001:10001"
        assert only(target, "STOPSIGNAL") == "SIGTERM"
        assert json.loads(only(target, "ENTRYPOINT")) == ["/usr/bin/tini", "--", "robustreps"]
    assert [json.loads(only(target, "CMD")) for target in TARGETS] == [["serve"], ["worker"]]


def test_each_image_says_whether_it_works() -> None:
    checks = [json.loads(only(target, "HEALTHCHECK").partition("CMD ")[2]) for target in TARGETS]
    assert checks == [["robustreps", "health"], ["robustreps", "health", "--worker"]]


def test_the_context_has_what_is_copied_and_nothing_else() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        name.strip("./")
        for stage in stages().values()
        for word, rest in stage
        if word == "COPY" and "--from" not in rest
        for name in rest.split()[:-1]
    }
    assert "*" in ignored
    assert sent == copied
    assert all((ROOT / name).exists() for name in copied)


def test_a_change_of_the_code_leaves_the_layer_of_packages_as_it_was() -> None:
    for target in TARGETS:
        words = [word for word, _ in stages()[target]]
        packages, code = [rest for word, rest in stages()[target] if word == "COPY"]
        assert code == "--from=code /code /opt/robustreps"
        stage = packages.split()[0].removeprefix("--from=")
        assert words.index("COPY") < words.index("ARG"), "a revision is another one each time"
        while stage not in ("base", "${BASE}"):
            files = [rest for word, rest in stages()[stage] if word == "COPY"]
            assert files in ([], ["pyproject.toml requirements.lock ./"])
            stage = stages()[stage][0][1]


def needed(extras: set[str]) -> set[str]:
    """The packages that an image installs, on Linux with the Python of the tests."""
    found: set[str] = set()
    waiting = [("robustreps", extras)]
    while waiting:
        name, wanted = waiting.pop()
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            applies = [requirement.marker is None or requirement.marker.evaluate({"extra": e}) for e in wanted or {""}]
            if any(applies) and requirement.name.lower() not in found:
                found.add(requirement.name.lower())
                waiting.append((requirement.name, requirement.extras))
    return found


def pinned() -> set[str]:
    """What the lock pins here."""
    found = set()
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        name, _, marker = line.partition(" ; ")
        if not marker or Marker(marker).evaluate():
            found.add(re.sub(r"[-_.]+", "-", name.partition("==")[0]).lower())
    return found


def test_the_lock_pins_everything_that_an_image_installs() -> None:
    for extras in (set[str](), {"worker"}):
        assert {re.sub(r"[-_.]+", "-", name) for name in needed(extras | {""})} <= pinned()


def test_the_api_needs_no_torch_and_the_worker_does() -> None:
    assert not {name for name in needed({""}) if name.startswith(("torch", "nvidia", "triton"))}
    assert "torch" in needed({"", "worker"})
