"""Reading data sets, and the augmentation against a slow crop of each image."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from workers.engine.datasets import CIFAR_CLASSES, crop_and_flip, load_cifar10, load_npz, to_float


def noise(seed: int, *shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def every_crop(image_CHW: npt.NDArray[np.uint8], padding: int) -> dict[bytes, tuple[int, int, bool]]:
    """Each (top, left, mirrored) that the augmentation may choose, by the pixels it gives."""
    c, h, w = image_CHW.shape
    canvas = np.zeros((c, h + 2 * padding, w + 2 * padding), np.uint8)
    canvas[:, padding : padding + h, padding : padding + w] = image_CHW
    crops = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = canvas[:, top : top + h, left : left + w]
            crops[crop.tobytes()] = (top, left, False)
            crops[crop[:, :, ::-1].tobytes()] = (top, left, True)
    return crops


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


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_each_augmented_image_is_a_crop_of_its_own_image_padded_with_zeros(padding: int) -> None:
    pixels = noise(1, 40, 3, 7, 9)
    augmented = crop_and_flip(torch.from_numpy(pixels), torch.Generator().manual_seed(0), padding)
    assert augmented.dtype == torch.uint8
    for image, crop in zip(pixels, augmented.numpy(), strict=True):
        assert crop.tobytes() in every_crop(image, padding)


def test_every_offset_and_mirror_is_equally_likely() -> None:
    image, n, cells = noise(2, 3, 8, 8), 20_000, 2 * 5 * 5
    pixels = torch.from_numpy(image).expand(n, -1, -1, -1)
    augmented = crop_and_flip(pixels, torch.Generator().manual_seed(1), padding=2)
    chosen = every_crop(image, 2)
    counts = Counter(chosen[crop.tobytes()] for crop in augmented.numpy())
    assert len(counts) == cells
    spread = (n / cells * (1 - 1 / cells)) ** 0.5
    assert max(abs(count - n / cells) for count in counts.values()) < 5 * spread


def test_the_augmentation_depends_on_its_generator_alone() -> None:
    pixels = torch.from_numpy(noise(3, 16, 3, 8, 8))
    first, again, other = (crop_and_flip(pixels, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
