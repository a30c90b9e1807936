"""Means over seeds, and how far they would move with other source images and other seeds (bootstrap).

Each resample draws source images with replacement, and seeds with replacement; every variant of a dataset is scored on the
same draws, so that a difference of two is of pairs (Efron and Tibshirani 1993, sections 8.3 and 13.3).
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
"""Of each seed the score on each resample of the sources."""


@dataclass(frozen=True)
class Interval:
    """A value, and where it lies on most resamples."""

    value: float
    low: float
    high: float

    @property
    def side(self) -> int:
        """1 where all of it lies above zero, -1 below, else 0."""
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True)
class Draws:
    """What the resamples of a dataset are."""

    weights: Float64[ndarray, "r b"]
    """How often each image is drawn: as often as its source."""
    seeds: Float64[ndarray, "r s"]
    """From 0 to 1: which of the seeds."""

    @classmethod
    def of(cls, sources: Int64[ndarray, " b"], *, resamples: int = RESAMPLES, seed: int = 0) -> Draws:
        """Draw sources and seeds."""
        random, count = np.random.default_rng(seed), int(sources.max(initial=-1)) + 1
        drawn = [np.bincount(random.integers(0, count, count), minlength=count) for _ in range(resamples)]
        return cls(np.stack(drawn)[:, sources].astype(float), random.random((resamples, MOST_SEEDS)))

    def mean_over_seeds(self, scores: Scores) -> Float64[ndarray, " r"]:
        """Of each resample, with as many seeds drawn as there are, from these in rising order."""
        table = np.stack([scores[seed] for seed in sorted(scores)])
        picks = (self.seeds[:, : len(table)] * len(table)).astype(int)
        return table[picks, np.arange(table.shape[1])[:, None]].mean(axis=1)

    def interval(self, value: float, scores: Scores) -> Interval | None:
        """Around a mean over seeds; None without scores."""
        return _interval(value, self.mean_over_seeds(scores)) if scores else None

    def difference(self, value: float, scores: Scores, others: Scores) -> Interval | None:
        """Around a difference of means over the seeds that both have; None where they share none."""
        common = sorted(set(scores) & set(others))
        if not common:
            return None
        first, second = ({seed: each[seed] for seed in common} for each in (scores, others))
        return _interval(value, self.mean_over_seeds(first) - self.mean_over_seeds(second))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Over seeds; the deviation of one value is None.

    >>> mean_and_deviation([1.0, 2.0, 3.0])
    (2.0, 1.0)
    """
    return mean(values), stdev(values) if len(values) > 1 else None


def rank_correlation(pairs: Iterable[tuple[float, float]]) -> float | None:
    """Spearman's; None of fewer than three pairs, or where one side is constant.

    >>> rank_correlation([(1, 10), (2, 30), (3, 20)])
    0.5
    """
    table = np.array(list(pairs), float).reshape(-1, 2)
    if len(table) < 3 or len(np.unique(table[:, 0])) < 2 or len(np.unique(table[:, 1])) < 2:
        return None
    return round(float(spearmanr(table[:, 0], table[:, 1]).statistic), 10)


def value_at(curve: Float64[ndarray, "e 3"], seconds: float) -> float | None:
    """The score of a curve (epoch, seconds, score) at a time, between its points; None outside of them.

    >>> value_at(np.array([[4.0, 10.0, 0.2], [8.0, 20.0, 0.4]]), 15.0)
    0.30000000000000004
    """
    if not len(curve) or not curve[0, 1] <= seconds <= curve[-1, 1] * (1 + 1e-6):
        return None
    return float(np.interp(seconds, curve[:, 1], curve[:, 2]))


def _interval(value: float, moved: Float64[ndarray, " r"]) -> Interval | None:
    told = moved[~np.isnan(moved)]
    if not len(told):
        return None
    low, high = np.quantile(told, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Interval(value, low, high)
