"""Numbers that state the paper's claims: a quantity for each network, its null, and whether the networks differ."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from workers.engine.statistics import Interval, bootstrap, paired_difference

Values = NDArray[np.float64]
Better = Literal["higher", "lower"] | None
SEED, FEWEST = 0, 6


@dataclass(frozen=True)
class Claim:
    """`of` and `null` hold the quantity's statistic with its 95% bootstrap interval by network.

    `difference` is model minus baseline (or minus the pixel path), on the same units; `holds` says whether its
    interval, and that of model minus null, lie on the side that the paper claims. It is None where the paper claims
    nothing, and where the units, `n`, are too few to say.
    """

    quantity: str
    statistic: str
    better: Better
    of: dict[str, Interval]
    null: dict[str, Interval] = field(default_factory=dict)
    difference: Interval | None = None
    holds: bool | None = None
    n: int = 0

    def record(self) -> dict[str, Any]:
        """As JSON would have it."""
        as_dict = asdict(self)
        named = {name: {k: v._asdict() for k, v in getattr(self, name).items()} for name in ("of", "null")}
        return as_dict | named | {"difference": self.difference._asdict() if self.difference else None}

    def sentence(self) -> str:
        """One line for under a figure."""
        values = ", ".join(f"{name} {_shown(interval)}" for name, interval in self.of.items())
        nulls = ", ".join(f"{interval.value:.3g}" for interval in dict.fromkeys(self.null.values()))
        against = f"; random pairs {nulls}" if nulls else ""
        verdict = {True: "holds", False: "does not hold", None: ""}[self.holds]
        return f"{self.quantity} ({self.statistic}): {values}{against}{'; ' + verdict if verdict else ''}"


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def claim(
    quantity: str,
    of: Mapping[str, Values],
    better: Better = None,
    null: Mapping[str, Values] | None = None,
    mean: bool = False,
    against: str = "baseline",
) -> Claim:
    """A quantity of each unit, [N] by network: the median, or the mean for what is a fraction or already an average.

    `model` is compared with `against`, unit by unit, and with its own null. From fewer than `FEWEST` units there is no
    verdict: an interval of the bootstrap would be too narrow.
    """
    statistic: Callable[..., Any] = np.mean if mean else np.median
    intervals = {name: bootstrap(values, statistic, seed=SEED) for name, values in of.items()}
    nulls = {name: bootstrap(values, statistic, seed=SEED) for name, values in (null or {}).items()}
    difference, holds = None, None
    if "model" in of and against in of and len(of["model"]) == len(of[against]):
        difference = paired_difference(of["model"], of[against], statistic, seed=SEED)
        if better and len(of["model"]) >= FEWEST:
            holds = _better(difference, better)
            if null and "model" in null:
                holds = holds and _better(paired_difference(of["model"], null["model"], statistic, seed=SEED), better)
    name = "mean" if mean else "median"
    return Claim(quantity, name, better, intervals, nulls, difference, holds, max(map(len, of.values())))


def _better(difference: Interval, better: str) -> bool:
    return difference.low > 0 if better == "higher" else difference.high < 0
