"""The ball, the box and the normalised step, against the formulas written out per example in numpy, float64."""

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.constraints import norm, per_example, project, random_start, unit

Array = npt.NDArray[np.float64]

SHAPE = (3, 2, 2, 3)
patient = settings(deadline=None)  # a busy machine is no failure
RADII = st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 0.5, 1.0, 3.0, 1000.0])


def boxed(low: float, high: float) -> st.SearchStrategy[Array]:
    return hnp.arrays(np.float64, SHAPE, elements=st.floats(low, high))


def project_oracle(x: Array, x0: Array, eps: Array) -> Array:
    out = np.empty_like(x0)
    for i in range(len(x)):
        delta = x[i] - x0[i]
        length = math.sqrt(sum(d * d for d in delta.ravel()))
        if length > eps[i]:
            delta = delta * (eps[i] / length)
        out[i] = np.minimum(np.maximum(x0[i] + delta, 0.0), 1.0)
    return out


def step_oracle(x: Array, x0: Array, g: Array, step: Array, eps: Array) -> Array:
    moved = np.stack([x[i] - step[i] * g[i] / (np.linalg.norm(g[i].ravel()) + 1e-10) for i in range(len(x))])
    return project_oracle(moved, x0, eps)


def lengths(v: torch.Tensor) -> Array:
    flat: Array = v.double().numpy().reshape(len(v), -1)
    return np.array([math.sqrt(sum(row**2)) for row in flat])


@patient
@given(boxed(-1e6, 1e6), boxed(0, 1), RADII)
def test_a_projected_point_is_in_the_ball_and_in_the_box_at_once(x: Array, x0: Array, eps: float) -> None:
    p = project(torch.from_numpy(x), torch.from_numpy(x0), eps)
    assert p.min() >= 0
    assert p.max() <= 1
    assert (lengths(p - torch.from_numpy(x0)) <= eps * (1 + 1e-6)).all()


@patient
@given(boxed(-2, 3), boxed(0, 1), RADII)
def test_projection_is_the_ball_first_and_then_the_box(x: Array, x0: Array, eps: float) -> None:
    p = project(torch.from_numpy(x), torch.from_numpy(x0), eps)
    np.testing.assert_allclose(p.numpy(), project_oracle(x, x0, np.full(len(x), eps)), rtol=0, atol=1e-12)


@patient
@given(boxed(-5, 5), boxed(0, 1), RADII)
def test_projecting_twice_is_projecting_once(x: Array, x0: Array, eps: float) -> None:
    centre = torch.from_numpy(x0)
    once = project(torch.from_numpy(x), centre, eps)
    torch.testing.assert_close(project(once, centre, eps), once, rtol=0, atol=1e-12)


@patient
@given(boxed(0, 1), boxed(0, 1))
def test_a_radius_wider_than_the_box_constrains_nothing(x: Array, x0: Array) -> None:
    p = project(torch.from_numpy(x), torch.from_numpy(x0), 1000)
    np.testing.assert_allclose(p.numpy(), x, rtol=0, atol=1e-15)


@patient
@given(boxed(-5, 5), boxed(0, 1))
def test_a_zero_radius_leaves_only_the_centre(x: Array, x0: Array) -> None:
    assert torch.equal(project(torch.from_numpy(x), torch.from_numpy(x0), 0), torch.from_numpy(x0))


@pytest.mark.parametrize("eps", [1e-3, 0.5, 1.0, 1000.0])
def test_float32_images_leave_the_ball_by_no_more_than_the_rounding_of_their_pixels(eps: float) -> None:
    g = torch.Generator().manual_seed(0)
    x0 = torch.rand(8, 3, 32, 32, generator=g)
    p = project(x0 + 100 * torch.randn(x0.shape, generator=g), x0, eps)
    rounding = math.sqrt(x0[0].numel()) * 2**-25  # half a unit in the last place of each pixel
    assert p.min() >= 0
    assert p.max() <= 1
    assert (lengths(p.double() - x0.double()) <= eps * (1 + 1e-6) + rounding).all()


def test_each_example_keeps_its_own_radius() -> None:
    x0 = torch.full((3, 3, 8, 8), 0.5, dtype=torch.float64)
    x = x0 + torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    eps = torch.tensor([0.0, 0.25, 2.0], dtype=torch.float64)
    p = project(x, x0, eps)
    np.testing.assert_allclose(lengths(p - x0), eps.numpy(), atol=1e-12)
    for i, radius in enumerate(eps):
        assert torch.equal(project(x[i : i + 1], x0[i : i + 1], radius), p[i : i + 1])


@patient
@given(boxed(0, 1), boxed(0, 1), boxed(-1, 1), RADII, st.sampled_from([0.1, 1.0, 3.0]))
def test_a_step_is_the_normalised_gradient_and_then_the_projection(
    x: Array, x0: Array, g: Array, eps: float, size: float
) -> None:
    step, radius = size * np.arange(1.0, len(x) + 1), np.full(len(x), eps)
    start, gradient = torch.from_numpy(x), torch.from_numpy(g)
    moved = start - per_example(torch.from_numpy(step), start) * unit(gradient)
    ours = project(moved, torch.from_numpy(x0), torch.from_numpy(radius))
    np.testing.assert_allclose(ours.numpy(), step_oracle(x, x0, g, step, radius), rtol=0, atol=1e-9)


def test_a_zero_gradient_gives_a_zero_step_beside_others_that_move() -> None:
    g = torch.ones(3, 3, 4, 4)
    g[1] = 0
    np.testing.assert_allclose(lengths(unit(g)), [1, 0, 1], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6, 1e15])
def test_the_unit_of_a_gradient_does_not_depend_on_its_scale(scale: float, dtype: torch.dtype) -> None:
    g = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=dtype)
    torch.testing.assert_close(unit(scale * g), unit(g), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(lengths(unit(scale * g)), 1, rtol=1e-5)


@pytest.mark.parametrize("length", [1e-10, 1e-12, 1e-30])
def test_a_gradient_at_the_floor_takes_a_shorter_step_and_is_never_nan(length: float) -> None:
    g = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    g[0, 0, 0, 0] = length
    np.testing.assert_allclose(lengths(unit(g)), length / (length + 1e-10), rtol=1e-12)


def test_a_gradient_whose_norm_overflows_gives_no_nan() -> None:
    assert torch.isfinite(unit(torch.full((1, 3, 4, 4), 1e30))).all()


@patient
@given(boxed(0, 1), RADII, st.integers(0, 1000))
def test_a_random_start_is_the_noise_scaled_to_the_radius_and_clamped(x0: Array, eps: float, seed: int) -> None:
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    start = random_start(torch.from_numpy(x0), eps, torch.from_numpy(noise)).numpy()
    for i in range(len(x0)):
        moved = x0[i] + eps * noise[i] / np.linalg.norm(noise[i].ravel())
        np.testing.assert_allclose(start[i], moved.clip(0, 1), rtol=0, atol=1e-6 if eps > 100 else 1e-9)


def test_a_random_start_lies_on_the_sphere_where_the_box_does_not_cut_it() -> None:
    x0, g = torch.full((4, 3, 16, 16), 0.5), torch.Generator().manual_seed(3)
    eps = torch.tensor([0.0, 0.1, 0.5, 1.0])
    start = random_start(x0, eps, torch.randn(x0.shape, generator=g))
    np.testing.assert_allclose(lengths(start - x0), eps.numpy(), rtol=1e-5, atol=1e-7)


def test_the_functions_leave_their_arguments_alone() -> None:
    g = torch.Generator().manual_seed(4)
    x, x0 = torch.rand(2, 3, 4, 4, generator=g) + 1, torch.rand(2, 3, 4, 4, generator=g)
    kept, kept0 = x.clone(), x0.clone()
    project(x, x0, 0.1), unit(x), norm(x), random_start(x0, 0.1, x)
    assert torch.equal(x, kept)
    assert torch.equal(x0, kept0)
