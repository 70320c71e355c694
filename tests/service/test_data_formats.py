"""Folders and buckets of images: which are taken, in what order, under which label."""

from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from service.data import imagenet
from service.data.formats import Spec, scan
from service.data.index import DatasetError, Index
from service.storage import LocalFolder, Storage
from tests.service.datafiles import fill, keep, picture

PAPER = {
    "dog": (151, 268), "cat": (281, 285), "frog": (30, 32), "turtle": (33, 37), "bird": (80, 100),
    "primate": (365, 382), "fish": (389, 397), "crab": (118, 121), "insect": (300, 319),
}  # fmt: skip


def indexed(folder: Path, spec: Spec) -> Index:
    found = scan(LocalFolder(folder), spec)
    assert isinstance(found, Index)
    return found


def names(index: Index) -> list[str]:
    return [index.name(int(file)) for file in index.files]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """All of ImageNet's folders, with one to three files each."""
    fill(tmp_path, (f"val/{w}/{w}_{i}.JPEG" for n, w in enumerate(imagenet.wnids()) for i in range(1 + n % 3)))
    return tmp_path


def test_an_image_folder_has_torchvisions_classes_and_order(tmp_path: Path) -> None:
    files = ["cat/b.png", "cat/a.JPG", "cat/sub/0.png", "cat/sub-2/1.jpeg", "cat-2/x.webp", "Dog/z.png", "Dog/10.png"]
    fill(tmp_path, [*files, "Dog/9.png", "Dog/notes.txt", "list.csv"], picture(0))
    theirs = ImageFolder(str(tmp_path))
    ours = indexed(tmp_path, Spec("image_folder"))
    assert list(ours.classes) == theirs.classes
    assert [
        (f"{tmp_path}/{name}", label) for name, label in zip(names(ours), ours.labels, strict=True)
    ] == theirs.samples


def test_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    fill(tmp_path, ["cat/a.png", "cat/._a.png", ".cache/b.png", "cat/.thumbs/c.png"])
    found = indexed(tmp_path, Spec("image_folder"))
    assert (found.classes, names(found)) == (("cat",), ["cat/a.png"])


def test_every_storage_gives_the_same_index(storage: Storage, tmp_path: Path) -> None:
    objects = {f"data/train/{c}/{i}.png": picture(i) for c in ("a", "b") for i in range(3)}
    keep(storage, objects | {"data/train-2/c/0.png": b"x"})
    fill(tmp_path / "mine", [])
    for key, data in objects.items():
        fill(tmp_path / "mine", [key.removeprefix("data/train/")], data)
    found, local = scan(storage, Spec("image_folder", "data/train")), indexed(tmp_path / "mine", Spec("image_folder"))
    assert isinstance(found, Index)
    assert found.digest == local.digest
    assert len(found) == 6


def test_images_without_folders_have_no_labels(tmp_path: Path) -> None:
    fill(tmp_path, ["all/2.png", "all/10.png", "all/deeper/3.webp", "all/readme.md"])
    found = indexed(tmp_path, Spec("images", "/all/"))
    assert names(found) == ["10.png", "2.png", "deeper/3.webp"]
    assert found.labels.tolist() == [-1, -1, -1]
    assert found.classes == ()


def test_imagenet_is_its_thousand_folders_labelled_in_order(whole: Path) -> None:
    found = indexed(whole, Spec("imagenet", "val"))
    assert found.classes == imagenet.wnids()
    assert np.bincount(found.labels).tolist() == [1 + n % 3 for n in range(1000)]
    assert all(found.classes[label] == name[:9] for name, label in zip(names(found), found.labels, strict=True))


def test_the_wnids_are_a_thousand_in_order_with_known_places() -> None:
    wnids = imagenet.wnids()
    assert len(set(wnids)) == 1000
    assert list(wnids) == sorted(wnids)
    known = {"n01440764": 0, "n02085620": 151, "n02123045": 281, "n01641577": 30, "n02481823": 367, "n15075141": 999}
    assert {wnid: wnids.index(wnid) for wnid in known} == known


def test_restricted_imagenet_is_table_1(whole: Path) -> None:
    found = indexed(whole, Spec("restricted_imagenet", "val"))
    assert found.classes == tuple(PAPER)
    label_of = {imagenet.wnids()[i]: n for n, (a, b) in enumerate(PAPER.values()) for i in range(a, b + 1)}
    assert len(label_of) == 203
    taken = names(found)
    assert found.labels.tolist() == [label_of[name[:9]] for name in taken]
    assert len(taken) == sum(1 + n % 3 for n, wnid in enumerate(imagenet.wnids()) if wnid in label_of)


def test_the_balanced_variant_has_as_many_images_of_each_class(whole: Path) -> None:
    everything = indexed(whole, Spec("restricted_imagenet", "val"))
    found = indexed(whole, Spec("restricted_imagenet", "val", balanced=True))
    assert np.bincount(found.labels).tolist() == [np.bincount(everything.labels).min()] * 9
    assert set(zip(names(found), found.labels, strict=True)) < set(
        zip(names(everything), everything.labels, strict=True)
    )
    assert found.digest == indexed(whole, Spec("restricted_imagenet", "val", balanced=True)).digest
    assert found.digest != indexed(whole, Spec("restricted_imagenet", "val", balanced=True, seed=1)).digest


@pytest.mark.parametrize("kind", ["imagenet", "restricted_imagenet"])
def test_missing_and_foreign_folders_are_named(whole: Path, kind: str) -> None:
    for wnid in imagenet.wnids()[100:107]:
        for path in (whole / "val" / wnid).iterdir():
            path.unlink()
    fill(whole, ["val/n99999999/a.JPEG"])
    with pytest.raises(DatasetError) as caught:
        indexed(whole, Spec(kind, "val"))  # type: ignore[arg-type]
    assert caught.value.field == "path"
    first = ", ".join(imagenet.wnids()[100:105])
    assert f"7 are missing: {first} and 2 more; 1 are not among them: n99999999" in caught.value.message


@pytest.mark.parametrize(
    ("spec", "files", "field", "says"),
    [
        (Spec("image_folder", "none"), ["a/b.png"], "path", "holds no files: none"),
        (Spec("image_folder"), ["b.png"], "path", "holds no image"),
        (Spec("images"), ["b.txt"], "path", "holds no image"),
        (Spec("images"), ["b.png", "c.TIF", "d.bmp"], "path", "2 images in formats that are not read.*c.TIF, d.bmp"),
        (Spec("image_folder"), ["a/b.png", "c/d.txt", "e/d.txt"], "path", "2 class folders without an image: c, e"),
        (Spec("images", balanced=True), ["b.png"], "balanced", "no image has a label"),
        (Spec("npz", "x.npz"), ["b.png"], "path", "is not a file: x.npz"),
        (Spec("webdataset"), ["b.png"], "shards", r"name no file under the path: \*.tar"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_such_data_set_is_refused(
    tmp_path: Path, spec: Spec, files: list[str], field: str, says: str
) -> None:
    fill(tmp_path, files)
    with pytest.raises(DatasetError, match=says) as caught:
        scan(LocalFolder(tmp_path), spec)
    assert caught.value.field == field
    assert caught.value.errors[0].field == field
