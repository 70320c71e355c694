"""Arrays of images: .npz files, and CIFAR-10's pickled batches, which may not run anything."""

import hashlib
import io
import os
import pickle
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10

from service.data.arrays import CIFAR_CLASSES, CIFAR_FILES, CIFAR_FOLDER, cifar10, parse_npz
from service.data.formats import Spec, scan
from service.data.index import Arrays, DatasetError
from service.storage import LocalFolder
from tests.service.datafiles import fill, noise


def saved(**content: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **content)
    return out.getvalue()


def batches(folder: Path, *contents: Any) -> dict[str, dict[str, str]]:
    """Pickles in torchvision's folder, and their MD5s in place of the published ones."""
    md5s = {}
    for n, content in enumerate(contents):
        data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=3)
        fill(folder, [f"{CIFAR_FOLDER}batch_{n}"], data)
        md5s[f"batch_{n}"] = hashlib.md5(data).hexdigest()
    return {"test": md5s}


def batch(seed: int, count: int = 4) -> dict[str, Any]:
    return {"data": noise(seed, count, 3072), "labels": [(seed + i) % 10 for i in range(count)], "batch_label": "one"}


def test_an_npz_is_its_images_and_labels(tmp_path: Path) -> None:
    images, labels = noise(0, 5, 4, 6, 3), np.array([2, 0, 1, 1, 0], np.uint8)
    fill(tmp_path, ["sub/mine.npz"], saved(images=images, labels=labels, lossless=np.ones(5, bool)))
    found = scan(LocalFolder(tmp_path), Spec("npz", "sub/mine.npz"))
    assert isinstance(found, Arrays)
    assert np.array_equal(found.images, images)
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == [2, 0, 1, 1, 0]
    assert found.classes == ("0", "1", "2")
    assert np.array_equal(found.image(3), images[3])
    assert found.label(0) == 2


def test_arrays_survive_being_saved_with_their_classes() -> None:
    found = Arrays(noise(0, 3, 4, 4, 3), np.array([0, 1, 0]), ("füchs", "hound"))
    assert parse_npz(found.save()).digest == found.digest
    assert parse_npz(found.save(), ("a", "b")).classes == ("a", "b")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"images": noise(0, 2, 3, 4, 4), "labels": np.zeros(2, int)}, r"found images uint8 \[2, 3, 4, 4\]"),
        ({"images": noise(0, 2, 4, 4, 3) / 255, "labels": np.zeros(2, int)}, "found images float64"),
        ({"images": noise(0, 2, 4, 4, 3), "labels": np.zeros(3, int)}, r"labels int64 \[3\]"),
        ({"images": noise(0, 2, 4, 4, 3), "labels": np.zeros(2)}, "labels float64"),
        ({"images": noise(0, 2, 4, 4, 3)}, "expected an .npz file"),
        ({"images": noise(0, 2, 4, 4, 3), "labels": np.array([0, -2])}, "labels from -2 to 0"),
        ({"images": np.array([{"a": 1}], object), "labels": np.zeros(1, int)}, "found images object"),
    ],
    ids=["channels first", "floats", "other labels", "fractions", "no labels", "negative", "objects"],
)
def test_other_arrays_are_refused(content: dict[str, NDArray[Any]], says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        parse_npz(saved(**content))


def test_a_label_beyond_the_named_classes_is_refused() -> None:
    with pytest.raises(DatasetError, match="labels from 0 to 2; allowed: 0 to 1"):
        parse_npz(saved(images=noise(0, 2, 4, 4, 3), labels=np.array([0, 2])), ("a", "b"))


def test_damaged_files_are_refused() -> None:
    data = saved(images=noise(0, 9, 8, 8, 3), labels=np.zeros(9, int))
    for damaged in (b"", b"no zip", data[:-100], data.replace(b"fortran_order", b"fortran_odour")):
        with pytest.raises(DatasetError, match="cannot be read"):
            parse_npz(damaged)


def test_an_array_that_claims_to_be_huge_is_refused_unread() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, shape, dtype in (("images", (99_999, 999, 99, 3), "|u1"), ("labels", (99_999,), "<i8")):
            with archive.open(f"{name}.npy", "w") as f:
                np.lib.format.write_array_header_1_0(f, {"shape": shape, "fortran_order": False, "descr": dtype})
    with pytest.raises(DatasetError, match="images: too large; allowed: 4,000,000,000 bytes"):
        parse_npz(out.getvalue())


def test_cifar_10_comes_from_an_npz_for_each_split(tmp_path: Path) -> None:
    for split, n in (("train", 6), ("test", 4)):
        data = saved(images=noise(n, n, 32, 32, 3), labels=np.arange(n))
        fill(tmp_path, [f"c/cifar10_{split}.npz"], data)
    train, test = (
        scan(LocalFolder(tmp_path), Spec("cifar10", "c", "train")),
        scan(LocalFolder(tmp_path), Spec("cifar10", "c")),
    )
    assert (len(train), len(test)) == (6, 4)
    assert train.classes == CIFAR_CLASSES


def test_cifar_10_of_another_size_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, ["cifar10_test.npz"], saved(images=noise(0, 2, 28, 28, 3), labels=np.zeros(2, int)))
    with pytest.raises(DatasetError, match="28 x 28, not 32 x 32"):
        scan(LocalFolder(tmp_path), Spec("cifar10"))


def test_batches_are_planes_of_pixels_one_after_the_other(tmp_path: Path) -> None:
    first, second = batch(0), batch(1)
    files = batches(tmp_path, first, second)
    found = cifar10(LocalFolder(tmp_path), "", "test", files)
    assert found.images.shape == (8, 32, 32, 3)
    assert found.labels.tolist() == [*first["labels"], *second["labels"]]
    for n, y, x, c in ((0, 0, 0, 0), (3, 31, 2, 1), (2, 5, 31, 2)):
        assert found.images[n, y, x, c] == first["data"][n, c * 1024 + y * 32 + x]


def test_what_python_2_pickled_is_read(tmp_path: Path) -> None:
    pixels = noise(0, 1, 3072)
    old = (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03K\x07aU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\n"
        b"ndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\x09"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + pixels.tobytes() + b"tbu."
    )
    found = cifar10(LocalFolder(tmp_path), "", "test", batches(tmp_path, old))
    assert found.labels.tolist() == [7]
    assert np.array_equal(found.images[0].transpose(2, 0, 1).ravel(), pixels[0])


class Harmful:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("function", [os.system, subprocess.check_output, eval, np.load])
def test_a_batch_that_would_run_something_runs_nothing(tmp_path: Path, function: Any) -> None:
    mark = tmp_path / "ran"
    argument = f"open({str(mark)!r}, 'w')" if function is eval else f"touch {mark}"
    files = batches(tmp_path, batch(0) | {"extra": Harmful(function, argument)})
    with pytest.raises(DatasetError, match=r"batch_0 asks for .*, which no batch of CIFAR-10 needs"):
        cifar10(LocalFolder(tmp_path), "", "test", files)
    assert not mark.exists()


def test_a_batch_with_another_checksum_is_not_even_opened(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    batches(tmp_path, Harmful(os.system, f"touch {mark}"))
    (tmp_path / CIFAR_FOLDER / "batch_0").rename(tmp_path / CIFAR_FOLDER / "test_batch")
    with pytest.raises(DatasetError, match="test_batch is not the published file"):
        scan(LocalFolder(tmp_path), Spec("cifar10"))
    with pytest.raises(DatasetError, match="data_batch_1 is missing, data_batch_2 is missing"):
        scan(LocalFolder(tmp_path), Spec("cifar10", split="train"))
    assert not mark.exists()


def test_the_checksums_are_torchvisions() -> None:
    theirs = {"train": dict(CIFAR10.train_list), "test": dict(CIFAR10.test_list)}
    assert theirs == CIFAR_FILES
    assert CIFAR10.base_folder + "/" == CIFAR_FOLDER
