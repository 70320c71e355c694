"""SECURITY.md keeps its word: each row of its threat model names tests, and these are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "SECURITY.md").read_text().splitlines()
ROWS = [line.split("|")[1:-1] for line in LINES if line.startswith("|")][2:]
NODE = re.compile(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`")


def test_the_threat_model_has_rows() -> None:
    assert len(ROWS) > 20
    assert all(len(row) == 3 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip()[:60] for row in ROWS])
def test_what_holds_each_threat_is_tested(row: list[str]) -> None:
    named = NODE.findall(row[2])
    assert named
    assert row[2].count("`tests/") == len(named)
    for file, test in named:
        nodes = ast.parse((ROOT / file).read_text()).body
        there = {node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
        assert test in there if test else there, f"{file} has no {test}"
