"""`make audit` and `make sbom`, as far as they go without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.audit import ROOT, audit, pinned

LOCK = ROOT / "requirements.lock"


def test_every_version_is_pinned() -> None:
    found = list(pinned(LOCK))
    assert len(found) > 150
    for each in found:
        assert [specifier.operator for specifier in each.specifier] == ["=="], each
        assert each.url is None


@pytest.mark.slow
def test_the_bill_of_materials_has_every_pinned_package(tmp_path: Path) -> None:
    command = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "cyclonedx-py" in line)
    words = [tmp_path / "sbom.json" if word == "runs/sbom.json" else word
             for word in command.partition("cyclonedx-py ")[2].split()]  # fmt: skip
    subprocess.run([Path(sys.executable).with_name("cyclonedx-py"), *words], check=True, capture_output=True, cwd=ROOT)
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "robustreps"
    listed = {(each["name"].lower(), each["version"], each["purl"].split("@")[0]) for each in bill["components"]}
    for each in pinned(LOCK):
        version = next(iter(each.specifier)).version
        assert (each.name, version, f"pkg:pypi/{each.name}") in listed


@pytest.mark.slow
def test_without_a_network_an_audit_says_that_it_knows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").write_text("six==1.17.0\n")
    for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nothing is
    status, said = audit(tmp_path / "lock", "--cache-dir", os.fspath(tmp_path))
    assert (status, said.split(":")[0]) == (2, "nothing is known")
    assert "network" in said
