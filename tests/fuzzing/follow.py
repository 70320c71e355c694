"""Atheris at one door: `python -m tests.fuzzing.follow DOOR FOLDER SECONDS`. What breaks it is kept beside it."""

import sys
from pathlib import Path

import atheris

FOLLOWED = ["service.images", "workers.engine.pickles", "workers.engine.checkpoint_files", "workers.engine.checkpoints",
            "PIL", "zipfile", "pickletools"]  # fmt: skip
"""Modules whose branches guide what is sent. They are loaded here first, for that has to be seen."""
with atheris.instrument_imports(include=FOLLOWED):
    import PIL.Image

    PIL.Image.preinit()
    import PIL.WebPImagePlugin

    import service.images  # noqa: F401
    import workers.engine.checkpoints  # noqa: F401 - for its branches, as the one before
    from tests.fuzzing.doors import DOORS, quiet

MEMORY, HANGS = 2048, 30
"""Megabytes; seconds for one input."""


def main(name: str, folder: Path, seconds: str) -> None:
    """Does not return: the fuzzer ends the process."""
    quiet()
    door = DOORS[name]
    for n, seed in enumerate(door.seeds()):
        (folder / str(n)).write_bytes(seed)

    def knock(data: bytes) -> None:
        for each in {data, door.mended(data)}:
            door.knock(each)

    limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY}", f"-timeout={HANGS}", "-max_len=8192",
              "-print_final_stats=1", f"-artifact_prefix={folder.parent}/{name}-"]  # fmt: skip
    atheris.Setup([sys.argv[0], str(folder), *limits], knock)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
