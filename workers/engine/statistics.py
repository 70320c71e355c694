"""What a table says of many examples: intervals, a random pairing, and the shape of a curve and of a path.

Numpy in float64. N: examples, R: points of a curve, T: points of a path, K: coordinates. Everything random has a seed.
"""

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

Statistic = Callable[..., Any]
"""(values [..., N], axis=-1) -> [...]: np.median, np.mean and their like."""

DRAWN_AT_ONCE = 1 << 22
"""Examples drawn in one array, which holds the memory of a bootstrap to some 100 MB."""


class Interval(NamedTuple):
    """A statistic of the sample and the ends of its confidence interval, all in the unit of the values."""

    value: float
    low: float
    high: float


def bootstrap(
    values_N: npt.ArrayLike,
    statistic: Statistic = np.median,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The percentile interval of a statistic over examples (Efron and Tibshirani 1993, chapter 13).

    The same arguments give the same interval; one example gives an interval of no width.
    Raises ValueError if `values` is empty, not finite or not [N], `level` is not in (0, 1) or there are no resamples.
    """
    values = _finite(values_N)
    return _interval(lambda index: statistic(values[index], axis=-1), len(values), level, resamples, seed)


def wilson(hits: int, n: int, level: float = 0.95) -> Interval:
    """A proportion and its score interval (Wilson 1927), which stays in [0, 1] and has a width at 0 and 1 too.

    Raises ValueError unless 0 <= hits <= n, n > 0 and `level` is in (0, 1).
    """
    if not 0 <= hits <= n or n == 0 or not 0 < level < 1:
        raise ValueError(f"expected hits of n > 0 and a level in (0, 1), got {hits} of {n} and {level}")
    p, z = hits / n, NormalDist().inv_cdf((1 + level) / 2)
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Interval(p, min(max(middle - reach, 0), p), max(min(middle + reach, 1), p))  # no rounding past p


def paired_difference(
    a_N: npt.ArrayLike,
    b_N: npt.ArrayLike,
    statistic: Statistic = np.median,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """statistic(a) - statistic(b) with its percentile interval; a_i and b_i are one example, and drawn together.

    Raises ValueError if the shapes differ, and where `bootstrap` does.
    """
    a, b = _finite(a_N), _finite(b_N)
    if a.shape != b.shape:
        raise ValueError(f"expected the same examples twice, got {len(a)} and {len(b)} values")
    return _interval(
        lambda index: statistic(a[index], axis=-1) - statistic(b[index], axis=-1), len(a), level, resamples, seed
    )


def derangement(n: int, seed: int) -> Indices:
    """A random permutation [n] that leaves nothing in its place: the strangers with which to pair n examples.

    One cycle through all n, each such cycle as likely as another (the distribution of Sattolo 1986), so the stranger
    of an example is any other with equal chance. Raises ValueError if n < 2.
    """
    if n < 2:
        raise ValueError(f"{n} examples cannot all change places")
    around = np.random.default_rng(seed).permutation(n)
    successor = np.empty_like(around)
    successor[around] = np.roll(around, -1)
    return successor


def mean_gap(x_R: npt.ArrayLike, upper_NR: npt.ArrayLike, lower_NR: npt.ArrayLike) -> Array:
    """The mean over log x of upper - lower, [N], by the trapezoidal rule; in the unit of the curves, and signed.

    Raises ValueError unless x holds two points or more, positive and strictly increasing, and both curves are [N, R].
    """
    x, upper, lower = (np.asarray(values, np.float64) for values in (x_R, upper_NR, lower_NR))
    if x.ndim != 1 or len(x) < 2 or not (np.isfinite(x).all() and x[0] > 0 and (np.diff(x) > 0).all()):
        raise ValueError(f"expected two or more positive, strictly increasing x, got {x}")
    if upper.shape != lower.shape or upper.ndim != 2 or upper.shape[1] != len(x):
        raise ValueError(f"expected two [N, {len(x)}] of one shape, got {upper.shape} and {lower.shape}")
    log_x = np.log(x)
    gap_N: Array = np.trapezoid(upper - lower, log_x, axis=1) / (log_x[-1] - log_x[0])
    return gap_N


def straightness(path_TK: npt.ArrayLike) -> Array:
    """||last - first|| over the summed length of the steps: 1 for a straight path, 0 for one that ends where it began.

    [..., T, K] gives [...], so that of a single path is a float. A path that never moves does not bend: it has 1.
    Raises ValueError if a path has no point.
    """
    path = np.asarray(path_TK, np.float64)
    if path.ndim < 2 or path.shape[-2] == 0:
        raise ValueError(f"expected [..., T, K] with a point or more, got {path.shape}")
    chord = np.linalg.norm(path[..., -1, :] - path[..., 0, :], axis=-1)
    length = np.linalg.norm(np.diff(path, axis=-2), axis=-1).sum(axis=-1)
    moved = length != 0
    # Rounding may leave a straight path's steps a little short of its chord.
    ratio: Array = np.where(moved, np.minimum(chord / np.where(moved, length, 1), 1), 1)[()]
    return ratio


def _finite(values_N: npt.ArrayLike) -> Array:
    values = np.asarray(values_N, np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"expected one finite number for each example and an example or more, got {values}")
    return values


def _interval(estimate: Callable[[Indices], Any], n: int, level: float, resamples: int, seed: int) -> Interval:
    """`estimate` maps the indices of drawn examples, [..., n], to the statistic of each draw, [...]."""
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"expected a level in (0, 1) and a resample or more, got {level} and {resamples}")
    drawn = np.concatenate([estimate(index) for index in _draws(n, resamples, seed)])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate(np.arange(n))), float(low), float(high))


def _draws(n: int, resamples: int, seed: int) -> Iterator[Indices]:
    rng, rows = np.random.default_rng(seed), max(1, DRAWN_AT_ONCE // n)
    for start in range(0, resamples, rows):
        yield rng.integers(n, size=(min(rows, resamples - start), n))
