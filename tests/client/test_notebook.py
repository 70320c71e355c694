"""The notebook, run from its first cell to its last as a reader would, with a service of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "quickstart.ipynb"


@pytest.mark.slow
@pytest.mark.e2e
def test_the_notebook_runs_to_its_end_and_shows_pictures_and_a_table(tmp_path: Path) -> None:
    shutil.copy(NOTEBOOK, tmp_path)
    execute = [str(Path(sys.executable).with_name("jupyter-execute")), NOTEBOOK.name, "--output", "done.ipynb"]
    environment = os.environ | {"PYTHONPATH": str(NOTEBOOK.parents[2])}
    ran = subprocess.run(
        execute, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=250
    )
    assert ran.returncode == 0, ran.stderr
    shown = [output for cell in cells(tmp_path / "done.ipynb") for output in cell["outputs"]]
    kinds = [kind for output in shown for kind in output.get("data", {})]
    assert kinds.count("image/png") == 3
    assert sum("<table" in "".join(output.get("data", {}).get("text/html", "")) for output in shown) == 2
    assert {output.get("name") for output in shown} <= {None, "stdout"}  # nothing was written to stderr


def test_the_notebook_is_kept_without_outputs() -> None:
    assert [cell["outputs"] for cell in cells(NOTEBOOK) if cell["outputs"] or cell["execution_count"]] == []


def cells(path: Path) -> list[dict[str, Any]]:
    """Those of code."""
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
