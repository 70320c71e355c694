"""Distances and SSIM, against numpy and scikit-image in float64."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage.metrics import structural_similarity

from workers.engine.constraints import project
from workers.engine.metrics import ghosting, pixel_l2, relative_distance, ssim


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


def explained(x: npt.NDArray[np.float64], *endpoints: npt.NDArray[np.float64]) -> float:
    """R^2 of the least-squares fit with an intercept."""
    columns = np.stack([np.ones(x.size), *(e.ravel() for e in endpoints)], axis=1)
    residual = x.ravel() - columns @ np.linalg.lstsq(columns, x.ravel(), rcond=None)[0]
    return 1 - float(residual.var() / x.var())


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9, -0.9, -0.999])
def test_ghosting_is_what_both_endpoints_explain_beyond_the_better_one(shared: float) -> None:
    """By numpy's least squares, for endpoints from unlike to nearly each other's negative."""
    a = images(10, 6, 3, 8, 8)
    b = 0.5 + shared * (a - 0.5) + (1 - abs(shared)) * (images(11, 6, 3, 8, 8) - 0.5)
    share = torch.linspace(0, 1, 6).double()[:, None, None, None]
    x = share * a + (1 - share) * b + 0.3 * (images(12, 6, 3, 8, 8) - 0.5)
    expected = [
        explained(z, p, q) - max(explained(z, p), explained(z, q))
        for z, p, q in zip(x.numpy(), a.numpy(), b.numpy(), strict=True)
    ]
    np.testing.assert_allclose(ghosting(x, a, b).numpy(), expected, rtol=0, atol=1e-9)


def test_an_endpoint_in_any_contrast_and_brightness_is_no_double_exposure() -> None:
    a, b = images(13, 2, 3, 32, 32), images(14, 2, 3, 32, 32)
    for x in (a, b, 0.2 * a + 0.4, 1 - b):
        torch.testing.assert_close(ghosting(x, a, b), torch.zeros(2).double(), rtol=0, atol=1e-12)


def test_the_half_blend_of_unlike_images_is_half_a_double_exposure() -> None:
    a, b = images(15, 4, 3, 32, 32), images(16, 4, 3, 32, 32)
    torch.testing.assert_close(ghosting((a + b) / 2, a, b), torch.full((4,), 0.5).double(), rtol=0, atol=0.03)


def test_noise_and_a_third_image_are_no_double_exposure() -> None:
    a, b, noise = (images(seed, 4, 3, 32, 32) for seed in (17, 18, 19))
    assert (ghosting(noise, a, b) < 0.005).all()


def test_ghosting_fades_as_a_blend_nears_either_endpoint() -> None:
    a, b = images(20, 1, 3, 32, 32), images(21, 1, 3, 32, 32)
    values = [ghosting((1 - t) * a + t * b, a, b).item() for t in np.linspace(0, 1, 9)]
    assert np.argmax(values) == 4
    assert (np.diff(values[:5]) > 0).all()
    assert (np.diff(values[4:]) < 0).all()


def test_ghosting_does_not_depend_on_brightness_contrast_or_which_endpoint_is_first() -> None:
    a, b = images(22, 3, 3, 9, 9), images(23, 3, 3, 9, 9)
    x = 0.3 * a + 0.5 * b + 0.1 * images(24, 3, 3, 9, 9)
    for same in (ghosting(x, b, a), ghosting(0.1 * x + 0.7, a, b), ghosting(x, 0.1 * a, 1 - b)):
        torch.testing.assert_close(same, ghosting(x, a, b), rtol=0, atol=1e-12)


def test_ghosting_of_a_batch_is_that_of_each_image_alone() -> None:
    a, b, x = (images(seed, 4, 3, 9, 9) for seed in (25, 26, 27))
    alone = torch.cat([ghosting(p[None], q[None], r[None]) for p, q, r in zip(x, a, b, strict=True)])
    torch.testing.assert_close(ghosting(x, a, b), alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_constant_image_makes_no_double_exposure(place: int, value: float) -> None:
    three = [images(seed, 1, 3, 32, 32).float() for seed in (28, 29, 30)]
    three[place] = torch.full((1, 3, 32, 32), value)
    assert ghosting(*three).item() < 1e-6
    assert ghosting(*[torch.full((1, 3, 32, 32), value)] * 3).item() < 1e-6


@pytest.mark.parametrize("slope", [1.0, 0.3, -1.0])
def test_endpoints_that_differ_in_contrast_alone_make_no_double_exposure(slope: float) -> None:
    a = images(31, 2, 3, 32, 32).float()
    b = 0.5 + slope * (a - 0.5)
    for x in (a, b, (a + b) / 2, images(32, 2, 3, 32, 32).float()):
        assert torch.equal(ghosting(x, a, b), torch.zeros(2))


@pytest.mark.parametrize("size", [32, 224])
def test_endpoints_that_differ_in_one_pixel_are_two_endpoints_still(size: int) -> None:
    a = images(33, 1, 3, size, size).round()
    b = a.clone()
    b[0, 0, 5, 5] += 1 / 255
    spot = torch.zeros_like(a)
    spot[0, 0, 5, 5] = 1
    assert ghosting(spot, a, b).item() > 0.99


def test_ghosting_keeps_its_digits_in_float32() -> None:
    a, b, noise = (images(seed, 3, 3, 32, 32).float() for seed in (34, 35, 36))
    x = 0.4 * a + 0.5 * b + 0.1 * noise
    value = ghosting(x, a, b)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, ghosting(x.double(), a.double(), b.double()).float(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_ghosting_of_an_image_that_is_not_a_number_is_none(place: int) -> None:
    three = [images(seed, 1, 3, 8, 8) for seed in (37, 38, 39)]
    three[place][0, 0, 0, 0] = torch.nan
    assert torch.isnan(ghosting(*three)).all()


def test_ghosting_refuses_to_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        ghosting(torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, 8), torch.zeros(1, 3, 8, 8))
