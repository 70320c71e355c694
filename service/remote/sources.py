"""Images as people name them, turned into the sources that the API takes; what is not there yet is uploaded."""

import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Protocol

from service.remote.pictures import UsageError, is_picture

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".npy"}
FIELDS = {"targets", "start", "starts", "first", "second", "images", "out_of_distribution"}
"""Fields of requests that are sources, where a string can be nothing else."""
MADE = {"noise", "gray", "blend", "other_target"}
"""Starts that name no image."""
LONGEST_LIST = 65_536  # indices that the API takes in one list
MANIFESTS = {".jsonl", ".csv"}
SPEC = "DATASET:0-7,12, patterns:stripes,text, a file or a folder"
MORE = "DATASET:*, DATASET:0:1000:10, DATASET:class=cat;random=100;seed=1, prefix:imports/, manifest:imports/KEY"
"""What inversions take beside that."""
KINDS = "a source (a dict), a string or path that names images, a PIL image, an array, a tensor, or a list of those"


class Uploads(Protocol):
    """Where files go; answers the ids that jobs name."""

    def upload_all(self, images: Sequence[Any], /) -> list[str]: ...
    def upload_file(self, path: Path, kind: str, /) -> str: ...


def parsed(spec: str) -> dict[str, Any] | list[Path] | Path:
    """What a string names as the API takes it, or the pictures, or the manifest, to upload. Raises UsageError."""
    path = Path(spec)
    if os.path.exists(spec):  # noqa: PTH110 - Path.exists raises for a list of indices longer than a file's name
        return path if path.suffix.lower() in MANIFESTS else files(path)
    name, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise UsageError(f"{spec} is no file; allowed: {SPEC}")
    if name == "patterns":
        return {"source": "patterns", "patterns": rest.split(",")}
    if name == "prefix":
        return {"source": "prefix", "prefix": rest}
    if name == "manifest":
        return {"source": "manifest", "manifest" if rest.startswith("sha256:") else "key": rest}
    return {"source": "dataset", "dataset": name, **filters(rest)}


def files(path: Path) -> list[Path]:
    """The file, or the pictures of the folder by name. Raises UsageError if there is none."""
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES) if path.is_dir() else [path]
    if not found:
        raise UsageError(f"{path} holds no picture; looked for {', '.join(sorted(PICTURES))}")
    return found


def filters(text: str) -> dict[str, Any]:
    """Which images of a data set: `*`, `0-7,12`, `0:1000:10`, `class=cat,dog`, `random=100`, `seed=1`, by `;`."""
    found: dict[str, Any] = {}
    for part in text.split(";"):
        name, _, value = part.partition("=")
        if name in ("random", "seed") and re.fullmatch(r"\d{1,9}", value):
            found[name] = int(value)
        elif name == "class" and value:
            found["classes"] = value.split(",")
        elif limits := re.fullmatch(r"(\d{0,9}):(\d{0,9})(?::(\d{1,9}))?", part):
            named = zip(("start", "stop", "step"), limits.groups(), strict=True)
            found["slice"] = {key: int(number) for key, number in named if number}
        elif part != "*":
            found["indices"] = indices(part)
    return found


def ranges(text: str) -> list[range]:
    """`0-7,12` as ranges. Raises UsageError."""
    parts = [re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", each) for each in text.split(",")]
    spans = [range(int(found[1]), int(found[2] or found[1]) + 1) for found in parts if found]
    if len(spans) < len(parts) or not all(spans):
        raise UsageError(f"{text} is no list of indices, such as 0-7,12")
    return spans


def indices(text: str) -> list[int]:
    """The same as numbers, as many as the API takes. Raises UsageError."""
    spans = ranges(text)
    if (asked := sum(map(len, spans))) > LONGEST_LIST:
        raise UsageError(f"{text} is {asked:,} indices; allowed: {LONGEST_LIST:,}")
    return [i for span in spans for i in span]


def named(value: Any) -> dict[str, Any] | list[Any] | Path | None:
    """What stands for a source: a string, a path or folder, a picture, or a list of those. None: nothing of them.

    Answers a source, the pictures to upload, or a manifest. Raises UsageError for a string that names nothing.
    """
    if isinstance(value, str):
        return {"source": value} if value in MADE else parsed(value)
    if isinstance(value, Path):
        return value if value.suffix.lower() in MANIFESTS else files(value)
    if is_picture(value):
        return list(value) if getattr(value, "ndim", 3) == 4 else [value]
    return None


def resolve(body: Mapping[str, Any], uploads: Uploads) -> dict[str, Any]:
    """A request with every image in it uploaded and named. Raises UsageError naming the field."""
    each = body.get("kind") == "feature_visualization"  # whose `starts` is a list of sources
    return {
        name: [_field(name, one, uploads) for one in value]
        if each and name == "starts" and isinstance(value, list | tuple)
        else _field(name, value, uploads)
        for name, value in body.items()
    }


def _field(name: str, value: Any, uploads: Uploads) -> Any:
    if name not in FIELDS or value is None or isinstance(value, int):  # an evaluation's `images` is how many
        return value
    try:
        return joined(value if isinstance(value, list | tuple) else [value], uploads)
    except UsageError as e:
        raise UsageError(f"{name}: {e}") from e


def joined(values: Sequence[Any], uploads: Uploads) -> dict[str, Any]:
    """One source of what several name, one after the other. Raises UsageError if one of them names no images."""
    if not values:
        raise UsageError(f"[] names no image; allowed: {KINDS}")
    found = [_one(value, uploads) for value in values]
    parts: list[Any] = []
    for pictures, each in groupby(found, key=lambda one: isinstance(one, list)):
        run = list(each)
        parts += [{"source": "images", "images": uploads.upload_all([*chain(*run)])}] if pictures else run
    return parts[0] if len(parts) == 1 else {"source": "mixed", "parts": parts}


def _one(value: Any, uploads: Uploads) -> Any:
    """A source, or pictures that are yet to be uploaded. Raises UsageError for anything else."""
    if isinstance(value, Mapping):
        return _listed(value, uploads)
    if (found := named(value)) is None:
        raise UsageError(f"{reprlib.repr(value)} names no image; allowed: {KINDS}")
    if isinstance(found, Path):
        return {"source": "manifest", "manifest": uploads.upload_file(found, "manifest")}
    return found


def _listed(source: Mapping[str, Any], uploads: Uploads) -> dict[str, Any]:
    """A source as the API has it, with pictures or paths in place of some ids."""
    if isinstance(source.get("parts"), list):
        return {**source, "parts": [_listed(part, uploads) for part in source["parts"] if isinstance(part, Mapping)]}
    if source.get("source") != "images" or not isinstance(source.get("images"), list | tuple):
        return dict(source)
    new = [each for each in source["images"] if not isinstance(each, str)]
    ids = iter(uploads.upload_all(new) if new else ())
    return {**source, "images": [each if isinstance(each, str) else next(ids) for each in source["images"]]}
