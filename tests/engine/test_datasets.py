"""Reading data sets."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from workers.engine.datasets import CIFAR_CLASSES, load_cifar10, load_npz, to_float


def noise(seed: int, *shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_an_npz_becomes_channels_first_pixels_and_integer_labels(tmp_path: Path) -> None:
    images = noise(0, 5, 4, 6, 3)
    np.savez(tmp_path / "data.npz", images=images, labels=np.array([3, 1, 4, 1, 5], np.uint8))
    data = load_npz(tmp_path / "data.npz")
    assert len(data) == 5
    assert data.pixels.dtype == torch.uint8
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [3, 1, 4, 1, 5]
    for n, c, y, x in np.ndindex(5, 3, 4, 6):
        assert data.pixels[n, c, y, x] == images[n, y, x, c]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (noise(0, 2, 4, 4, 3).astype(np.float32), np.zeros(2, np.int64)),
        (noise(0, 2, 3, 4, 4), np.zeros(2, np.int64)),
        (noise(0, 2, 4, 4), np.zeros(2, np.int64)),
        (noise(0, 2, 4, 4, 3), np.zeros(3, np.int64)),
        (noise(0, 2, 4, 4, 3), np.zeros((2, 1), np.int64)),
    ],
    ids=["float pixels", "channels first", "no channels", "labels of others", "labels in a column"],
)
def test_an_npz_of_another_kind_is_refused_by_name(
    tmp_path: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]
) -> None:
    np.savez(tmp_path / "odd.npz", images=images, labels=labels)
    with pytest.raises(ValueError, match=r"odd\.npz: expected images uint8"):
        load_npz(tmp_path / "odd.npz")


def test_an_npz_of_fractional_labels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", images=noise(0, 2, 4, 4, 3), labels=np.array([0.7, 1.2]))
    with pytest.raises(ValueError, match="labels"):
        load_npz(tmp_path / "odd.npz")


def test_an_npz_without_labels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", images=noise(0, 2, 4, 4, 3))
    with pytest.raises(ValueError, match=r"odd\.npz"):
        load_npz(tmp_path / "odd.npz")


def test_an_npz_that_needs_unpickling_is_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", images=np.array([{"a": 1}], dtype=object), labels=np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_npz(tmp_path / "odd.npz")


def test_cifar_10_is_read_from_one_npz_for_each_split(tmp_path: Path) -> None:
    for split, n in (("train", 6), ("test", 4)):
        np.savez(tmp_path / f"cifar10_{split}.npz", images=noise(n, n, 32, 32, 3), labels=np.arange(n))
    assert len(load_cifar10(tmp_path, train=True)) == 6
    test = load_cifar10(tmp_path, train=False)
    assert np.array_equal(test.pixels.permute(0, 2, 3, 1).numpy(), noise(4, 4, 32, 32, 3))
    assert test.labels.tolist() == [0, 1, 2, 3]
    assert len(CIFAR_CLASSES) == 10


def test_a_folder_without_cifar_10_is_an_error_and_no_download(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not found or corrupted"):
        load_cifar10(tmp_path, train=True)
    assert not list(tmp_path.iterdir())


def test_pixels_become_floats_in_the_unit_box_and_the_bytes_stay() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    kept = pixels.clone()
    x = to_float(pixels)
    np.testing.assert_array_equal(x.numpy(), pixels.numpy().astype(np.float32) / np.float32(255))
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, kept)
