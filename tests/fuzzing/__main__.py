"""Knock at every door for as long as there is time: `make fuzz SECONDS=600`.

By Atheris, which follows what the decoders' Python does with the bytes, each door in a process of its own with bounds
on time and memory; where it is not installed, by hypothesis, at random. What breaks a door is kept in the folder.
"""

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzzing import changes
from tests.fuzzing.child import Child
from tests.fuzzing.doors import DOORS


def strategy(name: str, seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """What hypothesis sends to a door."""
    near: st.SearchStrategy[bytes] = changes.changed(DOORS[name], seeds)
    others = {"checkpoint": changes.safetensors(), "pickle": changes.PICKLES}
    return near | others[name] if name in others else near


def by_hypothesis(name: str, examples: int, seed: bool) -> tuple[int, int]:
    """Send so many examples, always the same ones if `seed`; how many were refused and accepted. Raises Fault."""
    child, counts = Child(name), [0, 0]

    @settings(max_examples=examples, derandomize=seed, database=None, deadline=None,
              suppress_health_check=list(HealthCheck), phases=[Phase.generate])  # fmt: skip
    @given(strategy(name, DOORS[name].seeds()))
    def knocked(data: bytes) -> None:
        counts[child.knock(data)] += 1

    try:
        knocked()
    finally:
        child.close()
    return counts[0], counts[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for all doors together")
    parser.add_argument("--folder", type=Path, default=Path("runs/fuzz"))
    args = parser.parse_args()
    failed = []
    for name in DOORS:
        (args.folder / name).mkdir(parents=True, exist_ok=True)
        share = max(args.seconds // len(DOORS), 1)
        print(f"{name}: {share} s", flush=True)  # noqa: T201
        if find_spec("atheris"):
            command = [sys.executable, "-m", "tests.fuzzing.follow", name, str(args.folder / name), str(share)]
            status = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
            failed += [name] if status.returncode else []
        else:
            by_hypothesis(name, share * 50, seed=False)
    if failed:
        sys.exit(f"faults at {', '.join(failed)}: see {args.folder}")
    return


if __name__ == "__main__":
    main()
