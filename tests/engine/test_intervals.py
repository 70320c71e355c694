"""Wilson's interval against published values, its defining equation, and its coverage."""

import math

import numpy as np
import pytest

from workers.engine.statistics import wilson


def test_it_has_the_published_ends() -> None:
    """Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20 and 1 of 29."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (hits, n), ends in published.items():
        value, low, high = wilson(hits, n)
        assert value == hits / n
        assert (round(low, 4), round(high, 4)) == ends


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_its_ends_are_the_proportions_that_a_score_test_just_accepts(level: float) -> None:
    """|hits / n - p| = z sqrt(p (1 - p) / n) at both ends, and z is the normal quantile."""
    zs = [abs(0.3 - p) / math.sqrt(p * (1 - p) / 40) for p in wilson(12, 40, level)[1:]]
    assert zs[0] == pytest.approx(zs[1])
    assert math.erf(zs[0] / math.sqrt(2)) == pytest.approx(level)


def test_it_covers_the_true_proportion_as_often_as_it_says() -> None:
    drawn = np.random.RandomState(0).binomial(200, 0.4, 2000)
    covered = [low <= 0.4 <= high for _, low, high in (wilson(int(hits), 200) for hits in drawn)]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_it_mirrors_and_stays_within_zero_and_one() -> None:
    for hits in range(11):
        value, low, high = wilson(hits, 10)
        assert 0 <= low <= value <= high <= 1
        assert low < high
        assert wilson(10 - hits, 10)[1:] == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("hits", "n", "level"), [(-1, 5, 0.95), (6, 5, 0.95), (0, 0, 0.95), (1, 5, 0.0), (1, 5, 1.0)])
def test_what_is_no_proportion_is_refused(hits: int, n: int, level: float) -> None:
    with pytest.raises(ValueError, match="expected hits of n > 0"):
        wilson(hits, n, level)
