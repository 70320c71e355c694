"""The regularised baseline: against closed forms, numpy's bilinear sampling and numpy's Adam."""

import itertools
import math
import pickle
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.engine.networks import pixels, small
from workers.engine.objectives import Objective
from workers.engine.regularised import Ascent, Regularization, ascend, colour_matrix, decode, encode, transform, warp
from workers.engine.seeding import generator

Array = npt.NDArray[np.float64]

STILL = Regularization(jitter=0, scale=0, rotate=0, final_jitter=0)
GENTLE = Regularization(jitter=8 * 12 / 224, final_jitter=4 * 12 / 224)
"""Lucid's defaults, for the tests' images of 12 pixels."""
COMBINATIONS = [
    replace(settings, decorrelate=decorrelate)
    for settings in (replace(GENTLE, parametrization="pixel"), replace(GENTLE, parametrization="fourier"))
    for decorrelate in (False, True)
]
each_combination = pytest.mark.parametrize(
    "settings", COMBINATIONS, ids=lambda s: f"{s.parametrization}{', decorrelated' * s.decorrelate}"
)


def generators(*seeds: int) -> list[torch.Generator]:
    return [generator(seed) for seed in seeds]


def activation(units: Sequence[int]) -> Objective:
    """Maximise one coordinate of R for each example."""
    index = torch.tensor(units)[:, None]

    def objective(r_NK: Tensor) -> tuple[Tensor, Tensor]:
        return -r_NK.gather(1, index)[:, 0], torch.zeros_like(r_NK).scatter(1, index, -1)

    return objective


@each_combination
@pytest.mark.parametrize("size", [(12, 12), (11, 11), (12, 7), (7, 12)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_decoding_undoes_encoding(
    settings: Regularization, size: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    x = 0.01 + 0.98 * pixels(0, 3, 12, dtype)[:, :, : size[0], : size[1]]
    torch.testing.assert_close(decode(encode(x, settings), settings, size), x, rtol=0, atol=tolerance)


@each_combination
def test_a_start_of_black_and_white_is_encoded_a_hundredth_inside_the_box(settings: Regularization) -> None:
    x = pixels(0, 2, dtype=torch.float64).round()
    torch.testing.assert_close(decode(encode(x, settings), settings, (12, 12)), x.clamp(0.01, 0.99))


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("size", [(12, 12), (9, 11), (8, 14)])
@pytest.mark.parametrize("wave", [(0, 0), (0, 1), (3, 2), (-2, 3)])
def test_one_fourier_parameter_is_a_wave_of_lucids_amplitude(
    size: tuple[int, int], wave: tuple[int, int], decay: float
) -> None:
    (height, width), (ky, kx) = size, wave
    settings = replace(STILL, decay=decay, decorrelate=False)
    params = torch.zeros(1, 3, height, width // 2 + 1, 2, dtype=torch.float64)
    params[0, 1, ky % height, kx, 0] = 1
    logits = torch.logit(decode(params, settings, size))[0].numpy()

    frequency = max(math.hypot(ky / height, kx / width), 1 / max(size))
    halves = 1 if kx == 0 else 2  # half of the spectrum stands for all of it
    y, x = np.mgrid[:height, :width]
    cosine = np.cos(2 * np.pi * (ky * y / height + kx * x / width))
    expected = halves * frequency**-decay * math.sqrt(height * width) / (height * width) / 4 * cosine
    np.testing.assert_allclose(logits, [0 * expected, expected, 0 * expected], rtol=0, atol=1e-12)


def test_decorrelated_colours_are_mixed_by_lucids_matrix() -> None:
    root = np.array([[0.26, 0.09, 0.02], [0.27, 0, -0.05], [0.27, -0.09, 0.03]])
    matrix = root / math.sqrt(0.26**2 + 2 * 0.27**2)
    np.testing.assert_allclose(colour_matrix().numpy(), matrix, rtol=1e-12)
    c = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    settings = replace(STILL, parametrization="pixel", decorrelate=True)
    x = decode(torch.from_numpy(c), settings, (4, 5)).numpy()
    np.testing.assert_allclose(x[1, :, 2, 3], 1 / (1 + np.exp(-matrix @ c[1, :, 2, 3])), rtol=1e-12)


def test_a_transformation_without_range_is_the_identity() -> None:
    x = pixels(0, 2, dtype=torch.float32)
    torch.testing.assert_close(transform(x, STILL, generators(0, 1)), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, 0), (0, -2), (-4, 5), (40, 0)])
def test_a_whole_shift_moves_the_pixels_and_uncovers_gray(right: int, down: int) -> None:
    x = pixels(0, 1, dtype=torch.float64)[:, :, :, :9]
    theta = torch.tensor([[[1, 0, -right], [0, 1, -down]]], dtype=torch.float64)
    expected = np.full((3, 12, 9), 0.5)
    for row, column in itertools.product(range(12), range(9)):
        if 0 <= row - down < 12 and 0 <= column - right < 9:
            expected[:, row, column] = x[0, :, row - down, column - right]
    np.testing.assert_allclose(warp(x, theta)[0].numpy(), expected, rtol=0, atol=1e-12)


def test_a_quarter_turn_about_the_centre_is_numpys_rot90() -> None:
    x = pixels(0, 1, dtype=torch.float64)
    theta = torch.tensor([[[0, -1, 0], [1, 0, 0]]], dtype=torch.float64)
    np.testing.assert_allclose(warp(x, theta)[0].numpy(), np.rot90(x[0].numpy(), axes=(1, 2)), rtol=0, atol=1e-12)


def read(y_CHW: Array) -> tuple[Array, Array]:
    """The affine map that took pixels of the result to pixels of the image, off the two ramps that `chart` draws."""
    q = np.stack([a.ravel() for a in np.meshgrid(*[np.arange(-8.0, 9)] * 2)] + [np.ones(17**2)])
    source = 100 * (y_CHW[:2, 16:33, 16:33] - 0.5).reshape(2, -1)
    solution = np.linalg.lstsq(q.T, source.T, rcond=None)[0].T
    np.testing.assert_allclose(solution @ q, source, rtol=0, atol=1e-9)
    return solution[:, :2], solution[:, 2]


def chart(n: int) -> Tensor:
    """49 pixels a side: the column and the row, counted from the centre, and noise."""
    along = 0.5 + torch.arange(-24, 25, dtype=torch.float64) / 100
    column, row = torch.meshgrid(along, along, indexing="xy")
    noise = torch.from_numpy(np.random.default_rng(0).random((49, 49)))
    return torch.stack([column, row, noise]).expand(n, -1, -1, -1)


def sampled(image: Array, a: Array, b: Array) -> Array:
    """Bilinear samples of a square image at a @ q + b for each pixel q of it, in a wide frame of gray."""
    n, frame = len(image), 30
    q = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2] * 2))
    column, row = np.einsum("rc,cyx->ryx", a, q) + b[:, None, None] + (n - 1) / 2 + frame
    wide, x, y = np.pad(image, frame, constant_values=0.5), column.astype(int), row.astype(int)
    fx, fy = column - x, row - y
    upper = wide[y, x] * (1 - fx) + wide[y, x + 1] * fx
    lower = wide[y + 1, x] * (1 - fx) + wide[y + 1, x + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy)


def test_a_transformation_is_one_bilinear_sampling_with_gray_outside() -> None:
    for y in transform(chart(5), Regularization(), generators(*range(5))).numpy():
        np.testing.assert_allclose(y[2], sampled(chart(1)[0, 2].numpy(), *read(y)), rtol=0, atol=1e-9)


def test_sizes_and_angles_fill_their_ranges() -> None:
    settings = Regularization(jitter=0, final_jitter=0)
    maps = [read(y)[0] for y in transform(chart(300), settings, generators(*range(300))).numpy()]
    factor = np.array([np.linalg.det(a) ** -0.5 for a in maps])
    angle = np.degrees([math.atan2(a[1, 0], a[0, 0]) for a in maps])
    for a in maps:
        np.testing.assert_allclose(a.T @ a, np.eye(2) * np.linalg.det(a), rtol=0, atol=1e-9)
    np.testing.assert_allclose([factor.min(), factor.max()], [0.9, 1.1], rtol=0, atol=0.003)
    np.testing.assert_allclose([angle.min(), angle.max()], [-10, 10], rtol=0, atol=0.3)
    np.testing.assert_allclose([factor.mean(), angle.mean()], [1, 0], rtol=0, atol=1)


@pytest.mark.parametrize(("first", "last", "widest"), [(8, 0, 4), (0, 4, 2), (8, 4, 6)])
def test_shifts_reach_half_their_range_either_way(first: float, last: float, widest: float) -> None:
    settings = replace(STILL, jitter=first, final_jitter=last)
    shift = np.array([read(y)[1] for y in transform(chart(300), settings, generators(*range(300))).numpy()])
    assert np.abs(shift).max() <= widest + 1e-9
    assert (shift.max(axis=0) > 0.85 * widest).all()
    assert (shift.min(axis=0) < -0.85 * widest).all()


def test_an_examples_transformation_does_not_depend_on_its_batch() -> None:
    x = pixels(0, 4, dtype=torch.float64)
    together = transform(x, GENTLE, generators(7, 8, 9, 7))
    for i, seed in enumerate((7, 8, 9, 7)):
        alone = transform(x[i : i + 1], GENTLE, generators(seed))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


def test_a_generator_draws_anew_at_every_call() -> None:
    x, drawing = pixels(0, 1), generators(0)
    assert not torch.allclose(transform(x, GENTLE, drawing), transform(x, GENTLE, drawing), atol=1e-3)


def test_a_batch_without_a_generator_for_each_example_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        transform(pixels(0, 2), GENTLE, generators(0))


def test_the_gradient_flows_through_the_transformation() -> None:
    def seeded(x: Tensor) -> Tensor:
        return transform(x, GENTLE, generators(0, 1))

    x = pixels(0, 2, 5, torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(seeded, (x,))


def test_ascent_on_pixels_is_numpys_adam_through_the_sigmoid() -> None:
    w = np.random.default_rng(0).standard_normal((2, 27))
    settings = replace(STILL, parametrization="pixel", decorrelate=False, learning_rate=0.2)
    start, seen = pixels(1, 2, 3, torch.float64), list[tuple[float, float]]()

    def observe(_i: int, _x: Tensor, loss: Tensor, grad_norm: Tensor) -> None:
        seen.append((loss[1].item(), grad_norm[1].item()))

    weight = torch.from_numpy(w)
    result = ascend(
        lambda x: x.flatten(1) @ weight.T, activation([0, 1]), start, generators(0, 1), 6, settings, observe
    )
    x = start[1].numpy().ravel().clip(0.01, 0.99)
    p, m, s = np.log(x / (1 - x)), np.zeros(27), np.zeros(27)
    for i in range(6):
        g = -w[1] * x * (1 - x)
        np.testing.assert_allclose(seen[i], [-w[1] @ x, np.linalg.norm(g)], rtol=1e-6)
        m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
        p -= 0.2 * (m / (1 - 0.9 ** (i + 1))) / (np.sqrt(s / (1 - 0.999 ** (i + 1))) + 1e-8)
        x = 1 / (1 + np.exp(-p))
    np.testing.assert_allclose(result[1].numpy().ravel(), x, rtol=0, atol=1e-6)


@each_combination
def test_ascent_raises_the_activation_of_each_example(settings: Regularization) -> None:
    represent, x, objective = small().represent, 0.4 + 0.2 * pixels(1, 3), activation([0, 3, 5])
    result = ascend(represent, objective, x, generators(0, 1, 2), 60, settings)
    assert (objective(represent(result))[0] < objective(represent(x))[0] - 0.2).all()
    assert result.shape == x.shape
    assert result.dtype == torch.float32
    assert 0 <= result.min() < result.max() <= 1


@each_combination
def test_a_batch_is_as_many_single_ascents(settings: Regularization) -> None:
    represent, x, units = small(dtype=torch.float64).represent, pixels(1, 4, dtype=torch.float64), [0, 3, 5, 3]
    together = ascend(represent, activation(units), x, generators(0, 1, 2, 3), 15, settings)
    for i, unit in enumerate(units):
        alone = ascend(represent, activation([unit]), x[i : i + 1], generators(i), 15, settings)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-8)


def test_the_generators_alone_decide_an_ascent() -> None:
    represent, x = small().represent, pixels(1, 2)
    first, again, other = (
        ascend(represent, activation([0, 3]), x, generators(*seeds), 5, GENTLE) for seeds in ((0, 1), (0, 1), (2, 1))
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first[0], other[0], atol=1e-3)
    torch.testing.assert_close(first[1], other[1], rtol=0, atol=1e-5)


def test_an_observer_that_returns_true_stops_the_ascent_at_the_image_it_saw() -> None:
    seen = list[Tensor]()

    def observe(i: int, x: Tensor, _loss: Tensor, _grad_norm: Tensor) -> bool:
        seen.append(x)
        return i == 2

    x = pixels(1, 2)
    result = ascend(small().represent, activation([0, 3]), x, generators(0, 1), 50, GENTLE, observe)
    assert len(seen) == 3
    assert torch.equal(result, seen[2])
    torch.testing.assert_close(seen[0], x.clamp(0.01, 0.99), rtol=0, atol=1e-5)


def test_an_ascent_leaves_its_start_and_the_weights_alone_and_works_inside_no_grad() -> None:
    model, x = small().requires_grad_(True), pixels(1, 1)
    kept = x.clone()
    outside = ascend(model, activation([2]), x, generators(0), 3, GENTLE)
    with torch.no_grad():
        assert torch.equal(ascend(model, activation([2]), x, generators(0), 3, GENTLE), outside)
    assert torch.equal(x, kept)
    assert not outside.requires_grad
    assert all(p.grad is None for p in model.parameters())


@each_combination
def test_an_ascent_that_goes_on_elsewhere_is_bitwise_the_unbroken_one(settings: Regularization) -> None:
    represent, x, objective = small().represent, pixels(1, 3), activation([0, 3, 5])
    unbroken = ascend(represent, objective, x, generators(0, 1, 2), 12, settings)
    first = Ascent(x, generators(0, 1, 2), settings)
    first.run(represent, objective, 12, lambda *_: False, lambda: first.steps == 5)
    state = pickle.loads(pickle.dumps(first.state()))
    second = Ascent(x, generators(7, 8, 9), settings)
    second.load(state)
    second.run(represent, objective, 12, lambda *_: False, lambda: False)
    assert (first.steps, second.steps) == (5, 12)
    assert torch.equal(second.image(), unbroken)
