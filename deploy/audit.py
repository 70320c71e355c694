"""Known holes in the versions of requirements.lock: `make audit`. It asks the advisories, which needs a network.

Ends with 0 if none is known, 1 if some are, which it lists, and 2 if of some or all nothing can be said.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
UNKNOWN = 2


def pinned(lock: Path) -> Iterator[Requirement]:
    """Every line of a lock, those for other platforms and versions of Python too."""
    for line in lock.read_text().splitlines():
        if text := line.partition("#")[0].strip():
            yield Requirement(text)


def audit(lock: Path, *options: str) -> tuple[int, str]:
    """The status and what is to be said. Versions for other platforms are asked for as well, markers aside."""
    found, left = list[dict[str, Any]](), list(pinned(lock))
    while left:  # a name with two versions, by markers, is asked for twice
        now = {each.name: each for each in reversed(left)}
        left = [each for each in left if now[each.name] is not each]
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("".join(f"{each.name}{each.specifier}\n" for each in now.values()))
            file.flush()
            command = [sys.executable, "-m", "pip_audit", "--requirement", file.name, "--no-deps", "--disable-pip"]
            quiet = ["--format", "json", "--progress-spinner", "off", *options]
            done = subprocess.run([*command, *quiet], capture_output=True, text=True)
        try:
            found += json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError):
            last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            return UNKNOWN, f"nothing is known: the advisories cannot be asked, which takes a network ({last[:300]})"
    holes = [f"{each['name']} {each['version']}: {hole['id']}, fixed in {', '.join(hole['fix_versions']) or 'none'}"
             for each in found for hole in each.get("vulns", [])]  # fmt: skip
    skipped = [f"{each['name']}: {each['skip_reason']}" for each in found if "skip_reason" in each]
    said = [*holes, *skipped, f"{len(found)} packages, {len(holes)} known holes, {len(skipped)} not looked at"]
    return 1 if holes else UNKNOWN if skipped else 0, "\n".join(said)


if __name__ == "__main__":
    status, said = audit(ROOT / "requirements.lock", *sys.argv[1:])
    print(said)
    sys.exit(status)
