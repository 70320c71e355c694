"""Distances and SSIM, against numpy and scikit-image in float64."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage.metrics import structural_similarity

from workers.engine.constraints import project
from workers.engine.metrics import pixel_l2, relative_distance, ssim


def reference(a_CHW: npt.NDArray[np.float64], b_CHW: npt.NDArray[np.float64]) -> float:
    """scikit-image's value, under the settings that its documentation gives for Wang et al. 2004."""
    similarity = structural_similarity(
        a_CHW, b_CHW, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=0, data_range=1
    )
    return float(similarity)


def images(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 1, 11, 11), (2, 3, 17, 40), (1, 4, 64, 23)])
def test_ssim_is_scikit_images_value_under_the_papers_convention(shape: tuple[int, ...]) -> None:
    a = images(0, *shape)
    b = (a + 0.2 * (images(1, *shape) - 0.5)).clamp(0, 1)
    expected = [reference(x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(ssim(a, b).numpy(), expected, rtol=0, atol=1e-9)


def test_ssim_of_smooth_images_is_scikit_images_value_in_float32_too() -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    other = (ramp + 0.01 * torch.from_numpy(np.random.default_rng(2).random((1, 3, 32, 32), np.float32))).clamp(0, 1)
    expected = reference(ramp[0].double().numpy(), other[0].double().numpy())
    value = ssim(ramp, other)
    assert value.dtype == torch.float32
    assert abs(value.item() - expected) < 1e-6


def test_ssim_is_one_for_equal_images_and_the_same_either_way_round() -> None:
    a, b = images(3, 2, 3, 20, 20), images(4, 2, 3, 20, 20)
    torch.testing.assert_close(ssim(a, a), torch.ones(2).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(ssim(a, b), ssim(b, a), rtol=0, atol=1e-12)


def test_ssim_of_two_flat_images_is_their_luminance_term() -> None:
    a, b = (torch.full((1, 3, 16, 16), value, dtype=torch.float64) for value in (0.2, 0.6))
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert abs(ssim(a, b).item() - expected) < 1e-12


def test_ssim_of_a_batch_is_that_of_each_image_alone() -> None:
    a, b = images(5, 4, 3, 16, 16), images(6, 4, 3, 16, 16)
    alone = torch.cat([ssim(x[None], y[None]) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(ssim(a, b), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 3, 10, 32), (1, 3, 32, 10), (3, 32, 32)])
def test_ssim_refuses_what_its_window_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 11"):
        ssim(torch.zeros(shape), torch.zeros(shape))


def test_ssim_refuses_to_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        ssim(torch.zeros(4, 3, 16, 16), torch.zeros(1, 3, 16, 16))


def test_pixel_l2_is_the_length_of_each_difference() -> None:
    a, b = images(7, 3, 3, 5, 5), images(8, 3, 3, 5, 5)
    expected = [np.sqrt(((x - y) ** 2).sum()) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(pixel_l2(a, b).numpy(), expected, rtol=1e-12)


def test_pixel_l2_is_the_distance_that_projection_bounds() -> None:
    x0 = torch.full((1, 3, 8, 8), 0.5).double()
    far = x0 + images(9, 1, 3, 8, 8)
    torch.testing.assert_close(pixel_l2(project(far, x0, 0.75), x0), torch.tensor([0.75]).double())


def test_relative_distance_is_the_error_as_a_share_of_the_targets_length() -> None:
    target = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    r = torch.tensor([[3.0, 4.5], [2.0, 2.0]])
    torch.testing.assert_close(relative_distance(r, target), torch.tensor([0.1, 1.0]))


def test_relative_distance_to_a_zero_target_is_no_nan() -> None:
    zero = torch.zeros(1, 4)
    assert relative_distance(zero, zero).item() == 0
    assert relative_distance(torch.ones(1, 4), zero).item() > 1e6
