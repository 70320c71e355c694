"""The runbook has a section for each alert, and nothing in it that does not exist."""

import re
import shlex
from typing import Any

import pytest
import yaml
from click import Group

from deploy import backup
from service import cli
from service.settings import PREFIX, Settings
from tests.deploy.chart import ROOT

RUNBOOK = (ROOT / "docs/runbook.md").read_text()
RULES = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
BLOCKS = re.findall(r"^ {4,}(\S.*)$", RUNBOOK, re.M)
SPANS = re.findall(r"`([^`\n]+)`", RUNBOOK)
COMMANDS = sorted({line for line in BLOCKS + SPANS if re.match(r"(robustreps|python -m|make) \w", line)})
HEADINGS = re.findall(r"^##+ (.*)$", RUNBOOK, re.M)


def anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    alerts = [rule["alert"] for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
    sections = RUNBOOK.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^### (\w+)$", sections, re.M)) == sorted(alerts)
    assert all(len(text.split()) > 1 for text in re.split(r"^### \w+$", sections, flags=re.M)[1:])


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", RUNBOOK)
    anchors = {anchor(heading) for heading in HEADINGS}
    assert [link for link in links if link.startswith("#") and link[1:] not in anchors] == []
    assert [link for link in links if not link.startswith("#") and not (ROOT / "docs" / link).exists()] == []


def test_every_setting_is_one() -> None:
    named = set(re.findall(rf"{PREFIX}(\w+)", RUNBOOK)) - {"API"}
    assert {name for name in named if name.lower() not in Settings.model_fields} == set()


def parse(command: Any, words: list[str]) -> None:
    """Raises click.UsageError for what the command does not take. Nothing is run."""
    if isinstance(command, Group) and words:
        name, found, rest = command.resolve_command(command.make_context(command.name, words[:1]), words)
        assert found is not None, name
        parse(found, rest)
    else:
        command.make_context(command.name, words)


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 25


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command: str) -> None:
    program, *words = shlex.split(command)
    if program == "robustreps":
        name, *rest = words
        parse(cli.loaded(name), rest)
    elif program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.M)
    else:
        assert words[:2] == ["-m", "deploy.backup"]
        backup.parser().parse_args(words[2:])
