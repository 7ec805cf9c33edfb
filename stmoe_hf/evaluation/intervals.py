"""How sure a mean over people is: intervals by drawing the people again and again, with replacement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
LEVEL = 0.95
FEW = 10  # people; of fewer, drawing them again says too little
AT_A_TIME = 1 << 22  # numbers drawn


@dataclass(frozen=True)
class Interval:
    """A mean over `people`, and the bounds between which it lies with the chance LEVEL."""

    mean: float
    low: float
    high: float
    people: int

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2

    @property
    def differs_from_zero(self) -> bool:
        """Whether it says anything of a difference: all of it on one side of zero, and of people enough."""
        return self.people >= FEW and (self.low > 0 or self.high < 0)


def bootstrap(values: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean of a value of each person, and its percentile interval (Efron 1979) over people drawn with replacement.

    Args:
        values: [people]; the differences of two systems on the same people give the interval of the paired difference.

    Raises:
        ValueError: there is nobody.
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"an interval needs one value of each person; these are of shape {values.shape}")
    random = np.random.default_rng(seed)
    step = max(1, AT_A_TIME // len(values))
    means = np.concatenate(
        [
            values[random.integers(0, len(values), (min(step, draws - first), len(values)))].mean(1)
            for first in range(0, draws, step)
        ]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))
