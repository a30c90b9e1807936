"""Means over seeds, and their bootstrap intervals over source images and seeds.

Each resample draws source images with replacement, and seeds with replacement; every variant of a dataset is scored on the
same draws, so that differences are paired (Efron and Tibshirani 1993, sections 8.3 and 13.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy.stats import spearmanr

RESAMPLES = 500
CONFIDENCE = 0.95
MOST_SEEDS = 64

Scores = Mapping[int, "Float64[ndarray, ' r']"]
"""By seed, the score on each resample of the sources."""


@dataclass(frozen=True)
class Interval:
    """A value and its percentile interval over the resamples."""

    value: float
    low: float
    high: float

    @property
    def side(self) -> int:
        """1 if the interval lies above zero, -1 if below, 0 if it holds zero."""
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True)
class Draws:
    """The resamples of a dataset: sources and seeds drawn with replacement."""

    weights: Float64[ndarray, "r b"]
    """How often each image is drawn, which is how often its source is."""
    seeds: Float64[ndarray, "r s"]
    """Uniform numbers from 0 to 1 that select the seeds."""

    @classmethod
    def of(cls, sources: Int64[ndarray, " b"], *, resamples: int = RESAMPLES, seed: int = 0) -> Draws:
        """Draw sources and seeds."""
        random, count = np.random.default_rng(seed), int(sources.max(initial=-1)) + 1
        drawn = [np.bincount(random.integers(0, count, count), minlength=count) for _ in range(resamples)]
        return cls(np.stack(drawn)[:, sources].astype(float), random.random((resamples, MOST_SEEDS)))

    def mean_over_seeds(self, scores: Scores) -> Float64[ndarray, " r"]:
        """The mean of each resample over as many drawn seeds as there are."""
        table = np.stack([scores[seed] for seed in sorted(scores)])
        picks = (self.seeds[:, : len(table)] * len(table)).astype(int)
        return table[picks, np.arange(table.shape[1])[:, None]].mean(axis=1)

    def interval(self, value: float, scores: Scores) -> Interval | None:
        """The interval of a mean over seeds; None without scores."""
        return _interval(value, self.mean_over_seeds(scores)) if scores else None

    def difference(self, value: float, scores: Scores, others: Scores) -> Interval | None:
        """The interval of a difference of means over common seeds; None without common seeds."""
        common = sorted(set(scores) & set(others))
        if not common:
            return None
        first, second = ({seed: each[seed] for seed in common} for each in (scores, others))
        return _interval(value, self.mean_over_seeds(first) - self.mean_over_seeds(second))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation; the deviation of a single value is None.

    >>> mean_and_deviation([1.0, 2.0, 3.0])
    (2.0, 1.0)
    """
    return mean(values), stdev(values) if len(values) > 1 else None


def rank_correlation(pairs: Iterable[tuple[float, float]]) -> float | None:
    """Spearman's rank correlation; None for fewer than three pairs, or if one side is constant.

    >>> rank_correlation([(1, 10), (2, 30), (3, 20)])
    0.5
    """
    table = np.array(list(pairs), float).reshape(-1, 2)
    if len(table) < 3 or len(np.unique(table[:, 0])) < 2 or len(np.unique(table[:, 1])) < 2:
        return None
    return round(float(spearmanr(table[:, 0], table[:, 1]).statistic), 10)


def value_at(curve: Float64[ndarray, "e 3"], epoch: float) -> float | None:
    """The score of a curve (epoch, seconds, score) after an epoch or a part of one, interpolated; None outside its range.

    >>> value_at(np.array([[4.0, 10.0, 0.2], [8.0, 20.0, 0.4]]), 6.0)
    0.30000000000000004
    """
    if not len(curve) or not curve[0, 0] <= epoch <= curve[-1, 0] * (1 + 1e-6):
        return None
    return float(np.interp(epoch, curve[:, 0], curve[:, 2]))


def _interval(value: float, moved: Float64[ndarray, " r"]) -> Interval | None:
    defined = moved[~np.isnan(moved)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Interval(value, low, high)
