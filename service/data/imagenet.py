"""ImageNet's 1000 classes, and the nine that Restricted ImageNet makes of some (paper, table 1)."""

from collections.abc import Collection
from functools import cache
from pathlib import Path

from service.data.index import DatasetError, some

RANGES = {
    "dog": (151, 268), "cat": (281, 285), "frog": (30, 32), "turtle": (33, 37), "bird": (80, 100),
    "primate": (365, 382), "fish": (389, 397), "crab": (118, 121), "insect": (300, 319),
}  # fmt: skip
"""Both ends included, over the sorted wnids."""


@cache
def wnids() -> tuple[str, ...]:
    """WordNet ids of the 1000 classes, sorted: a class's place is its label."""
    return tuple((Path(__file__).parent / "imagenet_wnids.txt").read_text().split())


@cache
def restricted() -> dict[str, int]:
    """The label of each wnid that Restricted ImageNet takes, a place in RANGES."""
    return {wnid: label for label, (first, last) in enumerate(RANGES.values()) for wnid in wnids()[first : last + 1]}


def check_whole(folders: Collection[str]) -> None:
    """Ranges mean something only over all 1000 folders. Raises DatasetError if one is missing or there are others."""
    missing, extra = sorted(set(wnids()) - set(folders)), sorted(set(folders) - set(wnids()))
    wrong = [f"{len(missing)} are missing: {some(missing)}"] if missing else []
    wrong += [f"{len(extra)} are not among them: {some(extra)}"] if extra else []
    if wrong:
        raise DatasetError("path", f"must hold images in ImageNet's 1000 folders, named by wnid; {'; '.join(wrong)}")
