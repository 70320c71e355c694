"""How the command line names images and settings."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from service.commands.submit import overrides
from service.remote.pictures import UsageError
from service.remote.sources import parsed
from service.schemas import BulkImages, DatasetImages

MANY = "cifar10-sample:" + ",".join(map(str, range(1000)))  # longer than a file's name may be


@pytest.mark.parametrize(
    ("spec", "indices"),
    [("cifar10-sample:0-3,7", [0, 1, 2, 3, 7]), ("cifar10-sample:5", [5]), ("cifar10-sample:4-4,4", [4, 4]),
     (MANY, list(range(1000)))],
)  # fmt: skip
def test_a_data_set_is_named_with_indices_and_ranges(spec: str, indices: list[int]) -> None:
    assert parsed(spec) == {"source": "dataset", "dataset": "cifar10-sample", "indices": indices}


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ("cifar10-sample:*", {}),
        ("cifar10-sample:0:100:10", {"slice": {"start": 0, "stop": 100, "step": 10}}),
        ("cifar10-sample:5:", {"slice": {"start": 5}}),
        ("cifar10-sample:class=cat,dog;random=8;seed=3", {"classes": ["cat", "dog"], "random": 8, "seed": 3}),
    ],
)
def test_a_data_set_is_named_with_filters(spec: str, source: dict[str, Any]) -> None:
    named = parsed(spec)
    assert named == {"source": "dataset", "dataset": "cifar10-sample", **source}
    DatasetImages.model_validate(named)


def test_prefixes_and_manifests_are_named_by_key_or_digest() -> None:
    for spec in ("prefix:imports/photos/", "manifest:imports/list.csv", f"manifest:sha256:{'0' * 64}"):
        TypeAdapter[Any](BulkImages).validate_python(parsed(spec))


def test_patterns_are_named_by_kind() -> None:
    assert parsed("patterns:stripes,text") == {"source": "patterns", "patterns": ["stripes", "text"]}


def test_a_file_and_the_pictures_of_a_folder_are_named_by_path(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.npy", "notes.txt"):
        (tmp_path / name).touch()
    assert parsed(str(tmp_path)) == [tmp_path / name for name in ("a.JPG", "b.png", "c.npy")]
    assert parsed(str(tmp_path / "b.png")) == [tmp_path / "b.png"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nope", "nope is no file; allowed: DATASET:0-7,12"),
        ("cifar10-sample:", "cifar10-sample: is no file"),
        ("cifar10-sample:all", "all is no list of indices, such as 0-7,12"),
        ("cifar10-sample:1,5-2", "1,5-2 is no list of indices"),
        ("cifar10-sample:1-2-3", "1-2-3 is no list of indices"),
        ("cifar10-sample:5-", "5- is no list of indices"),
        ("cifar10-sample:-5", "-5 is no list of indices"),
        ("cifar10-sample:1,,2", "1,,2 is no list of indices"),
        ("cifar10-sample:0-99999999", "is 100,000,000 indices; allowed: 65,536"),
        (f"{MANY},x", "999,x is no list of indices"),
    ],
)
def test_what_names_no_image_is_refused(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parsed(spec)


def test_a_folder_without_a_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no picture; looked for \.jpeg, \.jpg, \.npy, \.png, \.webp"):
        parsed(str(tmp_path))


def test_a_setting_is_json_or_a_word() -> None:
    given = ["steps=20", "eps=0.5", "layer=logits", 'first={"source": "gray"}', "frames="]
    expected = {"steps": 20, "eps": 0.5, "layer": "logits", "first": {"source": "gray"}, "frames": ""}
    assert overrides(given) == expected
    with pytest.raises(UsageError, match="steps is not NAME=VALUE"):
        overrides(["steps"])
