"""Faults in a worker's process, for tests: Python runs this at its start where PYTHONPATH names this folder.

FAULT=die:LABEL   the process kills itself when it reads the picture with this label
FAULT=hang:FILE   the device hangs in its 40th step, unless FILE is there, which is made then
"""

import os
import signal
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

KIND, _, ARGUMENT = os.environ.get("FAULT", "").partition(":")
STEPS = 40


def dying(module: Any) -> None:
    read = module.read

    def deadly(runtime: Any, p: Any, source: Any, restart: int = 0) -> Any:
        if source.get("label") == ARGUMENT:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(runtime, p, source, restart)

    module.read = deadly


def hanging(module: Any) -> None:
    step, made = module.step, 0

    def stuck(*args: Any) -> Any:
        nonlocal made
        made += 1
        if made == STEPS and not Path(ARGUMENT).exists():
            Path(ARGUMENT).touch()
            time.sleep(3600)
        return step(*args)

    module.step = stuck


PATCHED = {"die": ("workers.recipes.sources", dying), "hang": ("workers.engine.lanes", hanging)}


class Finder(MetaPathFinder):
    """Changes a module once it is loaded."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        wanted, change = PATCHED[KIND]
        if name != wanted:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def changed(module: Any) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = changed  # type: ignore[method-assign]
        return spec


if KIND:
    sys.meta_path.insert(0, Finder())
