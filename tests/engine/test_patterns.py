"""The random pictures: their bounds, what decides them, and that there is something on them."""

import pytest
import torch
from torch.nn import functional as F

from workers.engine.patterns import KINDS, pattern
from workers.engine.seeding import generator

each_kind = pytest.mark.parametrize("kind", KINDS)


def pictures(kind: str, seeds: range, size: int = 32) -> torch.Tensor:
    return torch.stack([pattern(kind, size, generator(seed)) for seed in seeds])


@each_kind
@pytest.mark.parametrize("size", [32, 224])
def test_a_picture_is_three_float32_channels_within_the_box(kind: str, size: int) -> None:
    drawn = pictures(kind, range(4), size)
    assert drawn.shape == (4, 3, size, size)
    assert drawn.dtype == torch.float32
    assert 0 <= drawn.min() < drawn.max() <= 1


@each_kind
def test_one_key_draws_one_picture_and_another_key_another(kind: str) -> None:
    first = pattern(kind, 32, generator(3, 1))
    assert torch.equal(pattern(kind, 32, generator(3, 1)), first)
    assert (pattern(kind, 32, generator(3, 2)) - first).abs().mean() > 0.05


@each_kind
def test_a_key_draws_the_same_picture_at_every_size(kind: str) -> None:
    small, large = pictures(kind, range(5)), pictures(kind, range(5), 224)
    assert (F.avg_pool2d(large, 7) - small).abs().mean() < 0.03


@each_kind
def test_every_picture_has_contrast_across_its_pixels(kind: str) -> None:
    assert (pictures(kind, range(50)).std(dim=(2, 3)).amax(dim=1) > 0.1).all()


@each_kind
def test_a_picture_is_far_smoother_than_its_own_pixels_shuffled(kind: str) -> None:
    """At a size where an edge is rare; the text of 32 pixels is edges for the most part."""
    drawn = pictures(kind, range(10), 96)
    shuffled = drawn.flatten(2)[:, :, torch.randperm(96 * 96, generator=generator(0))].view_as(drawn)
    assert (drawn.diff(dim=3).abs().mean() < 0.3 * shuffled.diff(dim=3).abs().mean()).item()


@each_kind
def test_a_picture_draws_from_its_generator_alone(kind: str) -> None:
    before = torch.get_rng_state()
    pattern(kind, 32, generator(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_kinds_draw_different_pictures_from_one_key() -> None:
    drawn = torch.stack([pattern(kind, 32, generator(5)) for kind in KINDS]).flatten(1)
    distance = torch.cdist(drawn, drawn, p=1) / drawn.shape[1] + torch.eye(len(KINDS))
    assert distance.min() > 0.05


def test_an_unknown_kind_is_refused_with_the_kinds_there_are() -> None:
    with pytest.raises(ValueError, match=r"'plaid'; the kinds are stripes, .*, text$"):
        pattern("plaid", 32, generator(0))
