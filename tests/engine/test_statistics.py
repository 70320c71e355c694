"""Intervals against scipy's and against the exact distribution of a resample; the rest against closed forms."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from workers.engine.statistics import DRAWN_AT_ONCE, bootstrap, derangement, mean_gap, paired_difference, straightness

Array = npt.NDArray[np.float64]

patient = settings(deadline=None)  # a busy machine is no failure


def sample(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def scipys(data: tuple[Array, ...], statistic: Any, level: float) -> tuple[float, float]:
    result = stats.bootstrap(
        data, statistic, paired=True, confidence_level=level, n_resamples=20000, method="percentile", rng=1
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def exact_median_interval(values: Array, level: float) -> tuple[float, float]:
    """A resample of odd n has a median of at most the k-th value if most of its draws are among the k smallest."""
    n, ordered = len(values), np.sort(values)

    def at_most(k: int) -> float:
        return sum(math.comb(n, j) * (k / n) ** j * (1 - k / n) ** (n - j) for j in range((n + 1) // 2, n + 1))

    low, high = (next(k for k in range(1, n + 1) if at_most(k) >= q) for q in ((1 - level) / 2, (1 + level) / 2))
    return float(ordered[low - 1]), float(ordered[high - 1])


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("statistic", [np.mean, np.std])
def test_the_interval_is_scipys_percentile_interval(statistic: Any, level: float) -> None:
    values = np.exp(sample(0, 60))
    ours = bootstrap(values, statistic, level, resamples=20000)
    np.testing.assert_allclose(ours[1:], scipys((values,), statistic, level), rtol=0, atol=0.02 * values.std())
    assert ours.value == statistic(values)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("n", [5, 25, 41])
def test_the_interval_of_a_median_ends_at_the_values_that_counting_gives(n: int, level: float) -> None:
    values = sample(1, n)
    ours = bootstrap(values, level=level, resamples=20000)
    assert ours == (np.median(values), *exact_median_interval(values, level))


def test_nineteen_in_twenty_intervals_cover_the_mean_they_estimate() -> None:
    """3.5 standard errors of 400 tries; the percentile interval of 50 draws is a little too short."""
    intervals = [bootstrap(5 + row, np.mean, resamples=500, seed=i) for i, row in enumerate(sample(2, 400, 50))]
    assert abs(np.mean([low <= 5 <= high for _, low, high in intervals]) - 0.94) < 0.035


def test_a_higher_level_makes_a_wider_interval() -> None:
    narrow, wide = (bootstrap(sample(3, 50), np.mean, level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    assert wide.value == narrow.value


def test_an_interval_depends_on_the_seed_and_on_nothing_else() -> None:
    values = sample(4, 50)
    assert bootstrap(values, np.mean, seed=3) == bootstrap(values, np.mean, seed=3)
    assert bootstrap(values, np.mean, seed=3) != bootstrap(values, np.mean, seed=4)


def test_resamples_too_many_for_one_array_are_drawn_in_several() -> None:
    """The mean of 1000 is near enough normal to know its interval."""
    values, sizes = sample(5, 1000), list[int]()

    def mean(drawn: Array, axis: int) -> Array:
        sizes.append(drawn.size)
        return np.asarray(drawn.mean(axis=axis))

    value, low, high = bootstrap(values, mean, resamples=20000)
    assert max(sizes) <= DRAWN_AT_ONCE < sum(sizes) == 1000 * 20001
    error = values.std() / math.sqrt(1000)
    np.testing.assert_allclose([low, high], [value - 1.96 * error, value + 1.96 * error], rtol=0, atol=0.06 * error)


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_one_example_gives_an_interval_of_no_width(statistic: Any) -> None:
    assert bootstrap([0.1], statistic) == (0.1, 0.1, 0.1)
    assert paired_difference([0.3], [0.1], statistic) == (0.3 - 0.1,) * 3


def test_a_share_of_successes_has_an_interval_within_zero_and_one() -> None:
    value, low, high = bootstrap([True, False, True, True], np.mean)
    assert value == 0.75
    assert 0 <= low < value < high <= 1


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf], [[1.0, 2.0]], 1.0])
def test_an_interval_needs_finite_numbers_one_for_each_example(values: Any) -> None:
    with pytest.raises(ValueError, match="finite number"):
        bootstrap(values)
    with pytest.raises(ValueError, match="finite number"):
        paired_difference(values, values)


@pytest.mark.parametrize(("level", "resamples"), [(0.0, 10), (1.0, 10), (95.0, 10), (np.nan, 10), (0.95, 0)])
def test_an_interval_needs_a_level_and_a_resample(level: float, resamples: int) -> None:
    with pytest.raises(ValueError, match="level"):
        bootstrap([1.0, 2.0], level=level, resamples=resamples)


def test_a_difference_of_means_is_the_mean_of_the_differences() -> None:
    a, b = sample(6, 40), sample(7, 40)
    np.testing.assert_allclose(paired_difference(a, b, np.mean), bootstrap(a - b, np.mean), rtol=0, atol=1e-12)


def test_a_difference_of_medians_has_scipys_interval_for_pairs() -> None:
    a = sample(8, 41)
    b = a + 0.3 * sample(9, 41)

    def difference(a: Array, b: Array, axis: int) -> Array:
        return np.asarray(np.median(a, axis=axis) - np.median(b, axis=axis))

    ours = paired_difference(a, b, resamples=20000)
    np.testing.assert_allclose(ours[1:], scipys((a, b), difference, 0.95), rtol=0, atol=0.02)
    assert ours.value == np.median(a) - np.median(b)


def test_a_shift_common_to_all_examples_is_known_without_doubt() -> None:
    a = sample(10, 30)
    np.testing.assert_allclose(paired_difference(a + 2, a), (2, 2, 2), rtol=0, atol=1e-12)


def test_a_paired_difference_refuses_other_examples() -> None:
    with pytest.raises(ValueError, match="4 and 3"):
        paired_difference([1, 2, 3, 4], [1, 2, 3])


@patient
@given(st.integers(2, 300), st.integers(0, 2**32))
def test_a_derangement_leaves_nobody_in_place_and_nobody_out(n: int, seed: int) -> None:
    partner = derangement(n, seed)
    assert sorted(partner.tolist()) == list(range(n))
    assert (partner != np.arange(n)).all()
    assert (partner == derangement(n, seed)).all()


@patient
@given(st.integers(2, 60), st.integers(0, 2**32))
def test_a_derangement_is_one_cycle(n: int, seed: int) -> None:
    partner, place, visited = derangement(n, seed), 0, set[int]()
    while place not in visited:
        visited.add(place)
        place = int(partner[place])
    assert len(visited) == n


def test_all_cycles_are_equally_likely() -> None:
    """Of 4 there are 6, each seen 1000 times in 6000 up to 4 standard deviations."""
    seen, counts = np.unique([derangement(4, seed) for seed in range(6000)], axis=0, return_counts=True)
    assert len(seen) == 6
    assert (abs(counts - 1000) < 4 * math.sqrt(6000 * 1 / 6 * 5 / 6)).all()


@pytest.mark.parametrize("n", [-1, 0, 1])
def test_a_derangement_needs_two(n: int) -> None:
    with pytest.raises(ValueError, match="change places"):
        derangement(n, 0)


X = [0.25, 0.5, 1.0, 3.0, 10.0]


def test_curves_a_constant_apart_have_that_mean_gap() -> None:
    lower = sample(11, 4, 5)
    gap = np.array([0.0, 0.5, -1.0, 7.0])
    np.testing.assert_allclose(mean_gap(X, lower + gap[:, None], lower), gap, rtol=0, atol=1e-12)


def test_a_gap_that_grows_evenly_in_log_x_has_the_mean_of_its_ends() -> None:
    upper = np.log(X)[None]
    expected = (math.log(0.25) + math.log(10)) / 2
    np.testing.assert_allclose(mean_gap(X, upper, np.zeros((1, 5))), [expected], rtol=1e-12)


def test_the_mean_gap_of_a_fine_curve_is_the_integral() -> None:
    """Of x over log x from 1 to e: e - 1."""
    x = np.exp(np.linspace(0, 1, 2001))
    np.testing.assert_allclose(mean_gap(x, x[None], np.zeros((1, 2001))), [math.e - 1], rtol=1e-6)


def test_the_mean_gap_weighs_each_piece_by_its_ratio_of_x() -> None:
    upper, lower = sample(12, 3, 5), sample(13, 3, 5)
    expected = [
        sum((g[r] + g[r + 1]) / 2 * math.log(X[r + 1] / X[r]) for r in range(4)) / math.log(10 / 0.25)
        for g in upper - lower
    ]
    np.testing.assert_allclose(mean_gap(X, upper, lower), expected, rtol=1e-12)


def test_the_mean_gap_knows_no_unit_of_x_and_changes_sign_with_its_curves() -> None:
    upper, lower = sample(14, 3, 5), sample(15, 3, 5)
    gap = mean_gap(X, upper, lower)
    np.testing.assert_allclose(mean_gap(255 * np.array(X), upper, lower), gap, rtol=0, atol=1e-12)
    np.testing.assert_allclose(mean_gap(X, lower, upper), -gap, rtol=0, atol=1e-12)


@pytest.mark.parametrize("x", [[0, 1], [-1, 1], [1, 1], [2, 1], [1, np.nan], [1, np.inf], [1], [], [[1, 2]]])
def test_the_mean_gap_refuses_x_that_does_not_rise_from_above_zero(x: Any) -> None:
    curve = np.zeros((2, len(x)))
    with pytest.raises(ValueError, match="strictly increasing"):
        mean_gap(x, curve, curve)


@pytest.mark.parametrize(("upper", "lower"), [((2, 5), (1, 5)), ((2, 4), (2, 4)), ((5,), (5,)), ((5, 2), (5, 2))])
def test_the_mean_gap_refuses_curves_of_other_shapes(upper: tuple[int, ...], lower: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one shape"):
        mean_gap(X, np.zeros(upper), np.zeros(lower))


@patient
@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=20), st.integers(0, 1000))
def test_a_path_along_a_line_is_straight_at_any_pace(steps: list[float], seed: int) -> None:
    direction = sample(seed, 6)
    path = sample(seed + 1, 6) + np.cumsum([0, *steps])[:, None] * direction
    value = straightness(path)
    assert 1 - 1e-9 < value <= 1


def test_a_right_angle_has_the_ratio_of_diagonal_and_two_sides() -> None:
    assert float(straightness([[0, 0], [1, 0], [1, 1]])) == pytest.approx(math.sqrt(2) / 2, rel=1e-12)


def test_a_half_circle_has_two_over_pi() -> None:
    angle = np.linspace(0, math.pi, 2001)
    path = np.stack([np.cos(angle), np.sin(angle), np.ones(2001)], axis=1)
    assert float(straightness(path)) == pytest.approx(2 / math.pi, rel=1e-6)


def test_a_path_that_returns_to_its_start_has_zero() -> None:
    assert float(straightness([[0, 0], [3, 4], [0, 0]])) == 0


@pytest.mark.parametrize("path", [np.ones((4, 3)), np.zeros((1, 3)), np.zeros((2, 0))])
def test_a_path_that_never_moves_does_not_bend(path: Array) -> None:
    assert float(straightness(path)) == 1


@patient
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_straightness_knows_no_size_place_rotation_or_direction_of_time(seed: int, scale: float) -> None:
    path = sample(seed, 7, 4)
    rotation = np.linalg.qr(sample(seed + 1, 4, 4))[0]
    for same in (path[::-1], scale * path + 3, path @ rotation):
        assert float(straightness(same)) == pytest.approx(float(straightness(path)), rel=1e-9)


def test_the_straightness_of_a_batch_is_that_of_each_path() -> None:
    paths = sample(16, 2, 3, 5, 4)
    paths[1, 2] = 0
    expected = [[float(straightness(path)) for path in row] for row in paths]
    assert straightness(paths).tolist() == expected


def test_the_straightness_of_a_path_that_is_not_a_number_is_none() -> None:
    assert np.isnan(straightness([[0.0], [np.nan], [1.0]]))


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 0, 4)])
def test_straightness_needs_a_point(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a point or more"):
        straightness(np.zeros(shape))
