"""Sources and augmentation: what an image undergoes follows from seed, epoch and index, and is what it should be."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine.training import images
from workers.engine import augment
from workers.engine.augment import AUGMENTATIONS, PADDING, crop_and_flip, draw_moves
from workers.engine.seeding import generator
from workers.engine.sources import Decoded, Memory, ahead


def picture(index: int) -> Image.Image:
    """Noise, of another size for each index."""
    shape = (40 + 7 * (index % 4), 60 - 5 * (index % 3), 3)
    return Image.fromarray(np.random.RandomState(index).randint(0, 256, shape).astype(np.uint8))


def decoded(augmentation: str, workers: int) -> Decoded:
    return Decoded(picture, torch.arange(20), augmentation, 24, workers)


def test_crops_are_windows_of_the_padded_image_and_all_of_them_occur() -> None:
    x = images(600).pixels
    moves = draw_moves(600, generator(0))
    cut = crop_and_flip(x, moves).numpy()
    padded = np.pad(x.numpy(), [(0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING)])
    for i in range(600):
        top, left = int(moves.top[i]), int(moves.left[i])
        window = padded[i, :, top : top + 32, left : left + 32]
        assert (cut[i] == (window[..., ::-1] if moves.flip[i] else window)).all()
    assert set(moves.top.tolist()) == set(moves.left.tolist()) == set(range(2 * PADDING + 1))
    assert 0.4 < moves.flip.double().mean() < 0.6


def test_every_offset_and_mirror_is_equally_likely() -> None:
    n, cells = 40_000, 2 * (2 * PADDING + 1) ** 2
    moves = torch.stack([each.long() for each in draw_moves(n, generator(1))], dim=1)
    _, counts = np.unique(moves.numpy(), axis=0, return_counts=True)
    assert len(counts) == cells
    spread = (n / cells * (1 - 1 / cells)) ** 0.5
    assert np.abs(counts - n / cells).max() < 5 * spread


def test_images_in_memory_undergo_the_same_in_any_company_and_other_things_in_other_epochs() -> None:
    source = Memory(images(50), "cifar")
    whole = source.batch(torch.arange(50), 0, 0)
    assert torch.equal(source.batch(torch.tensor([7, 3]), 0, 0), whole[[7, 3]])
    for seed, epoch in ((0, 1), (1, 0)):
        assert not torch.equal(source.batch(torch.arange(50), seed, epoch), whole)
    assert torch.equal(Memory(images(50), "none").batch(torch.tensor([7, 3]), 0, 0), images(50).pixels[[7, 3]])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_decoded_images_do_not_depend_on_workers_or_company(augmentation: str) -> None:
    alone, many = decoded(augmentation, 1), decoded(augmentation, 4)
    whole = many.batch(torch.arange(20), 3, 1)
    assert whole.shape == (20, 3, 24, 24)
    assert whole.dtype == torch.uint8
    assert torch.equal(alone.batch(torch.arange(20), 3, 1), whole)
    assert torch.equal(alone.batch(torch.tensor([11, 4]), 3, 1), whole[[11, 4]])
    assert torch.equal(alone.batch(torch.arange(20), 3, 2), whole) == (augmentation == "none")


def test_arrays_and_pictures_are_the_same_to_a_source() -> None:
    arrays = Decoded(lambda i: np.asarray(picture(i)), torch.arange(20), "imagenet", 24, 2)
    assert torch.equal(arrays.batch(torch.arange(5), 0, 0), decoded("imagenet", 2).batch(torch.arange(5), 0, 0))


def test_gray_and_transparent_pictures_become_rgb() -> None:
    for mode in ("L", "RGBA", "P"):
        source = Decoded(lambda _, mode=mode: picture(0).convert(mode), torch.arange(1), "imagenet", 24, 1)  # type: ignore[misc]
        assert source.batch(torch.tensor([0]), 0, 0).shape == (1, 3, 24, 24)


def test_imagenet_s_parts_have_the_stated_areas_and_shapes_and_lie_inside() -> None:
    random = np.random.default_rng(0)
    boxes = np.array([augment._part(90, 60, random) for _ in range(3000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas, shapes = width * height / (90 * 60), width / height
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 90 + 1e-9
    assert boxes[:, 3].max() <= 60 + 1e-9
    assert 0.08 <= areas.min() < 0.1
    assert 0.8 < areas.max() <= 1
    assert shapes.min() == pytest.approx(3 / 4, rel=0.02)
    assert shapes.max() == pytest.approx(4 / 3, rel=0.02)


def test_a_picture_that_no_part_fits_is_cut_in_its_middle() -> None:
    for _ in range(5):
        assert augment._part(1000, 10, np.random.default_rng(0)) == pytest.approx((500 - 20 / 3, 0, 500 + 20 / 3, 10))


def test_jitter_moves_brightness_contrast_and_saturation_by_a_tenth_at_most() -> None:
    gray = np.full((8, 8, 3), 100, np.float32)  # contrast and saturation leave it as it is
    seen = [augment._jitter(gray, np.random.default_rng(i), 0.1) for i in range(300)]
    assert all(np.ptp(x) < 1e-3 for x in seen)
    levels = np.array([x.mean() for x in seen])
    assert 90 - 1e-3 <= levels.min() < 91
    assert 109 < levels.max() <= 110 + 1e-3
    colour = np.tile(np.array([200, 100, 50], np.float32), (8, 8, 1))
    colour[:4] /= 2  # brightness alone keeps the quotients of channels and of halves, the other two do not
    spread = [augment._jitter(colour, np.random.default_rng(i), 0.1) for i in range(300)]
    quotients = np.array([(x[4:].sum() / x[:4].sum(), x[7, 0, 0] / x[7, 0, 2]) for x in spread])
    assert (quotients.min(axis=0) < (1.95, 3.7)).all()
    assert (quotients.max(axis=0) > (2.05, 4.3)).all()


def test_the_centre_is_seven_eighths_of_the_shorter_side_and_images_of_the_size_stay() -> None:
    ramp = np.tile(np.arange(160, dtype=np.uint8)[None, :, None], (64, 1, 3))
    cut = augment.centre(ramp, 56)
    assert (cut[0, :, 0] == np.arange(52, 108)).all()
    assert (augment.centre(cut, 56) == cut).all()


def test_an_unknown_augmentation_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="augmentation is 'imagenet'; allowed for images in memory: none or cifar"):
        Memory(images(4), "imagenet")
    with pytest.raises(ValueError, match="augmentation is 'blur'; allowed: none, cifar, imagenet"):
        decoded("blur", 1)


def test_work_is_done_ahead_in_order_and_only_so_far() -> None:
    made: list[int] = []

    def make(i: int) -> int:
        time.sleep(0.002 * (i % 3))
        made.append(i)
        return i

    results = ahead(make, iter(range(50)), depth=3)
    assert next(results) == 0
    time.sleep(0.05)
    assert sorted(made) == [0, 1, 2, 3]
    assert list(results) == list(range(1, 50))


def test_what_fails_ahead_fails_in_its_turn_and_leaves_no_thread() -> None:
    def make(i: int) -> int:
        if i == 2:
            raise OSError("image 2 is broken")
        return i

    results = ahead(make, range(10))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="image 2 is broken"):
        next(results)
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]
