"""The release before this one: its code, packed beside the tests, so that an upgrade can be tried from what ran before.

    python -m tests.release COMMIT

packs the Python files of COMMIT, the last one of the release before; run it when a release is made. What is no Python
(pages, shipped networks and data sets) is this version's, and so are the packages that both run on.
"""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKED = Path(__file__).with_name("release.tar.xz")
FOLDERS = ("service", "workers", "migrations")


def pack(commit: str) -> None:
    tree = subprocess.run(["git", "archive", commit, *FOLDERS], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(tree)) as old, tarfile.open(PACKED, "w:xz", preset=9) as new:
        for member in old:
            if member.name.endswith(".py"):
                new.addfile(member, old.extractfile(member))


def unpack(folder: Path) -> Path:
    """Its folder, to be the first on the path of a process that is to run it."""
    with tarfile.open(PACKED) as packed:
        packed.extractall(folder, filter="data")
    for file in (file for each in FOLDERS for file in (ROOT / each).rglob("*")):
        there = folder / file.relative_to(ROOT)
        if file.is_file() and file.suffix not in (".py", ".pyc"):
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(file)
    return folder


def revision() -> str:
    """The newest migration that it has."""
    with tarfile.open(PACKED) as packed:
        found = [Path(name).name for name in packed.getnames() if name.startswith("migrations/versions/0")]
    return max(found)[:4]


def environment(folder: Path, settings: dict[str, str]) -> dict[str, str]:
    """Of a process that runs it. It would refuse settings that it does not know, such as the tests may have."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("ROBUSTREPS_")}
    return others | settings | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


if __name__ == "__main__":
    pack(sys.argv[1])
