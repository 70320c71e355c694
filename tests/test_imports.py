"""The direction of imports: tasks -> recipes -> engine, workers -> service, and never back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGINE_MAY = {"torch", "triton", "torchvision", "numpy", "PIL", "workers.engine"} | sys.stdlib_module_names


def imports(path: Path) -> set[str]:
    """The absolute names that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def within(name: str, packages: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[: i + 1]) in packages for i in range(len(parts)))


@pytest.mark.parametrize("path", python_files("workers/engine"), ids=lambda p: p.name)
def test_the_engine_imports_only_arrays_pictures_and_the_standard_library(path: Path) -> None:
    assert {name for name in imports(path) if not within(name, ENGINE_MAY)} == set()


@pytest.mark.parametrize("path", python_files("service"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_service_imports_no_worker_and_no_torch(path: Path) -> None:
    assert {name for name in imports(path) if within(name, {"workers", "torch", "torchvision"})} == set()


def test_a_process_that_imports_the_whole_service_has_loaded_no_worker_and_no_torch() -> None:
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in python_files("service")]
    code = (
        f"import sys, {', '.join(modules)}; print([m for m in sys.modules if m.split('.')[0] in ('workers', 'torch')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", python_files("workers/recipes"), ids=lambda p: p.name)
def test_recipes_know_no_celery_and_no_http(path: Path) -> None:
    assert {name for name in imports(path) if within(name, {"celery", "kombu", "fastapi", "workers.tasks"})} == set()


@pytest.mark.parametrize("folder", ["service", "workers", "deploy"])
def test_files_stay_under_300_lines(folder: str) -> None:
    long = {str(p.relative_to(ROOT)): n for p in python_files(folder) if (n := len(p.read_text().splitlines())) >= 300}
    assert long == {}


@pytest.mark.parametrize("folder", ["service", "workers", "deploy"])
def test_functions_stay_under_40_lines(folder: str) -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in python_files(folder)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 40
    ]
    assert long == []
