"""From a folder or a bucket to what a data set holds."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from service.data import arrays, imagenet, shards
from service.data.index import UNLABELLED, Arrays, DatasetError, Index, choose_per_class, some
from service.objects import ObjectNotFound, Source

Format = Literal["cifar10", "npz", "image_folder", "imagenet", "restricted_imagenet", "webdataset", "images"]
READABLE = (".png", ".jpg", ".jpeg", ".webp")
UNREADABLE = (".ppm", ".bmp", ".pgm", ".tif", ".tiff")
"""What torchvision would also take for an image."""
MOST_IMAGES = 10_000_000


@dataclass(frozen=True)
class Spec:
    """What to look for. `path` is a folder or prefix below the source's root; for npz, the file."""

    format: Format
    path: str = ""
    split: Literal["train", "test"] = "test"
    """For cifar10."""
    balanced: bool = False
    """As many images of each class as the rarest has, drawn by `seed`."""
    seed: int = 0
    shards: str = "*.tar"
    """For webdataset: names below `path`, with *, ? and braces as in train-{000..099}.tar or {train,val}-*.tar."""
    classes: tuple[str, ...] = ()
    """For npz and webdataset: the labels' names; left out, the numbers."""


def scan(source: Source, spec: Spec) -> Index | Arrays:
    """What is there, in an order that depends on names alone.

    An Index points into the source; Arrays hold pixels, to be stored by the caller. Raises DatasetError naming the
    field at fault, StorageError, or ObjectNotFound if a file vanishes meanwhile.
    """
    found = _FORMATS[spec.format](source, spec)
    if not len(found):
        raise DatasetError("path", f"holds no image; allowed: {', '.join(READABLE)}")
    if bad := [repr(name) for name in found.classes if not _is_text(name)]:
        raise DatasetError("path", f"has {len(bad)} classes whose names are not UTF-8: {some(bad)}")
    if not spec.balanced:
        return found
    try:
        return found.select(choose_per_class(found.labels, seed=spec.seed))
    except ValueError as e:
        raise DatasetError("balanced", str(e)) from e


def prefix(path: str) -> str:
    """A folder's path as the beginning of its files' keys."""
    return f"{path.strip('/')}/" if path.strip("/") else ""


def listing(source: Source, path: str) -> dict[str, int]:
    """Sizes of the files below a folder by their names there, without hidden files or folders. Raises DatasetError."""
    found: dict[str, int] = {}
    start = prefix(path)
    for key, size in source.entries(start):
        name = key[len(start) :]
        if name and not name.startswith(".") and "/." not in name:
            found[name] = size
            if len(found) > MOST_IMAGES:
                raise DatasetError("path", f"holds more than {MOST_IMAGES:,} files")
    if not found:
        raise DatasetError("path", f"holds no files: {path or '/'}")
    return found


def images_among(names: Iterable[str]) -> list[str]:
    """The names of images. Raises DatasetError if some are in a format that is not read."""
    names = list(names)
    if other := sorted(name for name in names if name.lower().endswith(UNREADABLE)):
        raise DatasetError("path", f"holds {len(other):,} images in formats that are not read; allowed: "
                                   f"{', '.join(READABLE)}; found: {some(other)}")  # fmt: skip
    return [name for name in names if name.lower().endswith(READABLE)]


def _class_of(name: str) -> str:
    return name.partition("/")[0]


def _is_text(name: str) -> bool:
    """Whether a name can be shown: a file system may hold other bytes, which Python keeps as surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def _order(name: str) -> str:
    """torchvision's: by class, then by folder, then by file."""
    folder, _, file = name.rpartition("/")
    return f"{_class_of(name)}\0{folder}\0{file}"


def _folders(
    source: Source, path: str, labels_of: Callable[[Iterable[str]], Mapping[str, int]], classes: Iterable[str] = ()
) -> Index:
    """Images in folders. `labels_of` says which of the folders to take, and their labels."""
    found = listing(source, path)
    labels = labels_of({_class_of(name) for name in found if "/" in name})
    names = sorted((n for n in images_among(found) if "/" in n and _class_of(n) in labels), key=_order)
    if empty := sorted(set(labels) - {_class_of(name) for name in names}):
        raise DatasetError("path", f"has {len(empty)} class folders without an image: {some(empty)}")
    label = (labels[_class_of(name)] for name in names)
    return Index.of(prefix(path), tuple(classes) or tuple(labels), ((n, found[n]) for n in names), label)


def _image_folder(source: Source, spec: Spec) -> Index:
    """A folder for each class, sorted, as torchvision's ImageFolder has them."""

    def all_of(folders: Iterable[str]) -> Mapping[str, int]:
        return {name: label for label, name in enumerate(sorted(folders))}

    return _folders(source, spec.path, all_of)


def _imagenet(source: Source, spec: Spec) -> Index:
    def all_of(folders: Iterable[str]) -> Mapping[str, int]:
        imagenet.check_whole(set(folders))
        return {wnid: label for label, wnid in enumerate(imagenet.wnids())}

    return _folders(source, spec.path, all_of)


def _restricted_imagenet(source: Source, spec: Spec) -> Index:
    def some_of(folders: Iterable[str]) -> Mapping[str, int]:
        imagenet.check_whole(set(folders))
        return imagenet.restricted()

    return _folders(source, spec.path, some_of, imagenet.RANGES)


def _images(source: Source, spec: Spec) -> Index:
    """Every image below the path, by name, without labels."""
    found = listing(source, spec.path)
    names = sorted(images_among(found))
    return Index.of(prefix(spec.path), (), ((n, found[n]) for n in names), (UNLABELLED for _ in names))


def _webdataset(source: Source, spec: Spec) -> Index:
    found = listing(source, spec.path)
    names = shards.chosen(sorted(found), spec.shards)
    return shards.scan(source, prefix(spec.path), {name: found[name] for name in names}, spec.classes)


def _npz(source: Source, spec: Spec) -> Arrays:
    try:
        return arrays.npz(source, spec.path, spec.classes)
    except ObjectNotFound as e:
        raise DatasetError("path", f"is not a file: {spec.path or '/'}") from e


def _cifar10(source: Source, spec: Spec) -> Arrays:
    return arrays.cifar10(source, prefix(spec.path), spec.split)


_FORMATS: Mapping[str, Callable[[Source, Spec], Index | Arrays]] = {
    "cifar10": _cifar10, "npz": _npz, "image_folder": _image_folder, "imagenet": _imagenet,
    "restricted_imagenet": _restricted_imagenet, "webdataset": _webdataset, "images": _images,
}  # fmt: skip
