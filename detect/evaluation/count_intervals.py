"""Counts of points with intervals, and the probability that an image has any, calibrated on images whose points are known.

The count of an image is the number of points found above a threshold that keeps as many as there are. Its interval is split
conformal (Lei et al. 2018, sections 2.2 and 5.2): the errors of the calibration images, each divided by the spread that its
scores suggest, give the quantile. The error of an image comes from a threshold and a spread fitted without it.

An interval holds with the given probability for an image drawn as those of the calibration were: of the same kind, in the
same mix. An image without points, in which none is found, is always covered, so by default such images are left out of the
quantile: however many there are, the others keep their coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from scipy.optimize import nnls
from scipy.special import expit, logit, stdtrit
from sklearn.linear_model import LogisticRegression

from detect.errors import FitError

FOLDS = 10
MIN_OF_EACH = 10  # images with points, and without, from which the probability of a point is calibrated
TINY = 1e-6  # keeps log odds finite and spreads positive

EMPTY = ("apart", "included")
"""Images without points, in which none is counted: left out of the quantile of errors, or a part of it."""

Scores = Sequence[Float64[ndarray, " _"]]


@dataclass(frozen=True, eq=False)
class KnownCounts:
    """The scores of the points found in each image, its number of true points, and the source it was taken from.

    Images of one source, such as crops of one slide, share part of their errors.
    """

    scores: Scores
    truth: Int64[ndarray, " b"]
    sources: Int64[ndarray, " b"]

    @classmethod
    def of(
        cls, scores: Scores, truth: Int64[ndarray, " b"], sources: Int64[ndarray, " b"] | None = None
    ) -> KnownCounts:
        """By default each image is its own source.

        Raises:
            ValueError: there is no image, columns differ in length, or a score is not between 0 and 1.
        """
        sources = np.arange(len(truth)) if sources is None else np.unique(sources, return_inverse=True)[1]
        if not len(scores) == len(truth) == len(sources) or not len(truth):
            raise ValueError(f"need scores and counts of the same images, got {len(scores)} and {len(truth)}")
        joined = np.concatenate(list(scores))
        if not ((joined >= 0) & (joined <= 1)).all():
            raise ValueError("scores of points to count are between 0 and 1")
        return cls(scores, truth, sources)

    def take(self, rows: Int64[ndarray, " k"]) -> KnownCounts:
        """Some of the images."""
        return KnownCounts([self.scores[row] for row in rows.tolist()], self.truth[rows], self.sources[rows])


@dataclass(frozen=True, eq=False)
class CountPrediction:
    """For each image its count, the interval from ``low`` to ``high``, and the probability that it has any point."""

    count: Int64[ndarray, " b"]
    low: Int64[ndarray, " b"]
    high: Int64[ndarray, " b"]
    presence: Float64[ndarray, " b"] | None


@dataclass(frozen=True)
class CountTotal:
    """The number of points in several images together, and its interval."""

    count: int
    low: int
    high: int


@dataclass(frozen=True)
class CountRule:
    """Which points count, and the spread of the errors: ``floor + factor * sqrt(sum s (1 - s))`` over the scores s."""

    threshold: float
    floor: float
    factor: float

    @classmethod
    def fit(cls, known: KnownCounts) -> CountRule:
        """Keep as many points as there are, or all; fit the spread to the sizes of the errors by least squares."""
        falling = np.sort(np.concatenate(list(known.scores)))[::-1]
        num_kept = min(max(int(known.truth.sum()), 1), len(falling))
        threshold = float(falling[num_kept - 1]) if num_kept else 0.0
        errors = np.abs(known.truth - _counts(known.scores, threshold))
        doubt = _doubt(known.scores)
        floor, factor = nnls(np.stack([np.ones_like(doubt), doubt], axis=1), errors.astype(np.float64))[0].tolist()
        return cls(threshold, max(floor, TINY), factor)

    def predict(self, scores: Scores) -> tuple[Int64[ndarray, " b"], Float64[ndarray, " b"]]:
        """The count of each image and the spread of its error."""
        return _counts(scores, self.threshold), self.floor + self.factor * _doubt(scores)


@dataclass(frozen=True)
class CountCalibration:
    """Learned by :meth:`fit` from images with known counts, applied by :meth:`predict` and :meth:`total` to others.

    >>> truth = np.full(60, 4)
    >>> scores = [np.full(count, 0.8) for count in truth - (np.arange(60) % 5 == 0)]  # every fifth image lacks a point
    >>> calibration = CountCalibration.fit(KnownCounts.of(scores, truth))
    >>> found = calibration.predict([np.array([0.8, 0.8]), np.zeros(0)], confidence=0.9)
    >>> found.count, found.low, found.high
    (array([2, 0]), array([1, 0]), array([3, 1]))
    """

    rule: CountRule
    errors: tuple[float, ...]
    """Sizes of errors over spreads, rising; by default without images that have no points and no counted ones."""
    ratio: float
    """True points over counted ones."""
    variance: float
    """Variance of the true count of an image around ``ratio`` times its counted points. The errors of images of one source
    are added before they are squared."""
    num_images: int
    num_sources: int
    presence: tuple[float, float] | None
    """Slope and intercept of the log odds that an image has a point, over those of its highest score; None if fewer than
    ``MIN_OF_EACH`` images have points or have none."""
    lowest: float
    """Stands for the highest score of an image in which nothing is found."""

    @classmethod
    def fit(cls, known: KnownCounts, *, empty: str = "apart") -> CountCalibration:
        """Learn from images that the detector was not trained on.

        ``empty="apart"`` keeps the coverage of images with points, whatever the share of empty ones; with ``"included"`` the
        confidence is that of all images together.

        Raises:
            FitError: there is only one image.
        """
        if empty not in EMPTY:
            raise ValueError(f"empty is one of {', '.join(EMPTY)}, got {empty!r}")
        if len(known.truth) < 2:
            raise FitError("calibrated counts need 2 images or more")
        count, errors = np.zeros_like(known.truth), np.zeros(len(known.truth))
        for rows, held_out in folds(len(known.truth)):
            count[held_out], spread = CountRule.fit(known.take(rows)).predict(known.take(held_out).scores)
            errors[held_out] = np.abs(known.truth[held_out] - count[held_out]) / spread
        rule, joined, present = CountRule.fit(known), np.concatenate(list(known.scores)), known.truth > 0
        lowest = float(joined.min()) if len(joined) else TINY
        can_tell = min(present.sum(), (~present).sum()) >= MIN_OF_EACH
        kept = rule.predict(known.scores)[0]
        ratio = float(known.truth.sum() / max(kept.sum(), 1))
        by_source = np.bincount(known.sources, known.truth - ratio * kept)
        num_sources = len(np.unique(known.sources))
        variance = np.square(by_source).sum() / len(kept) * num_sources / max(num_sources - 1, 1)
        return cls(
            rule,
            tuple(np.sort(errors if empty == "included" else errors[present | (count > 0)]).tolist()),
            ratio,
            float(variance),
            len(kept),
            num_sources,
            _fit_log_odds(_highest(known.scores, lowest), present) if can_tell else None,
            lowest,
        )

    def predict(self, scores: Scores, *, confidence: float = 0.9) -> CountPrediction:
        """Counts of images, each with an interval that holds the true count with at least this probability.

        Raises:
            FitError: the calibration has too few images for the confidence.
        """
        count, spread = self.rule.predict(scores)
        reach = np.floor(self.quantile(confidence) * spread + TINY).astype(np.int64)  # counts between are whole
        presence = None
        if self.presence:
            slope, intercept = self.presence
            presence = expit(slope * _log_odds(_highest(scores, self.lowest)) + intercept)
        return CountPrediction(count, np.maximum(count - reach, 0), count + reach, presence)

    def quantile(self, confidence: float) -> float:
        """The size of error over spread that a further image exceeds with a probability of at most 1 - ``confidence``."""
        if not 0 < confidence < 1:
            raise ValueError(f"need a confidence between 0 and 1, got {confidence}")
        rank = math.ceil(round((len(self.errors) + 1) * confidence, 9))
        if rank > len(self.errors):
            needed = math.ceil(round(confidence / (1 - confidence), 9))
            own = f"images in which a point is or is found, got {len(self.errors):,}"
            raise FitError(f"counts at a confidence of {confidence:g} need {needed:,} {own}")
        return self.errors[rank - 1]

    def total(self, scores: Scores, *, confidence: float = 0.9) -> CountTotal:
        """The count of all images together, corrected for the points that the detector misses or invents on average.

        It holds for images that come as those of the calibration did, with about as many of each source. A large folder from
        a single new source is less certain. The interval is Student's for a sum: its variance is that of an image times
        m + m^2 / n, for m images and n of the calibration.
        """
        num_images, expected = len(scores), self.ratio * float(self.rule.predict(scores)[0].sum())
        deviation = math.sqrt(self.variance * (num_images + num_images**2 / self.num_images))
        reach = float(stdtrit(max(self.num_sources - 1, 1), (1 + confidence) / 2)) * deviation
        low, high = math.ceil(expected - reach - TINY), math.floor(expected + reach + TINY)
        count = round(expected)
        return CountTotal(count, max(min(low, count), 0), max(high, count))


def folds(num_images: int) -> list[tuple[Int64[ndarray, " k"], Int64[ndarray, " h"]]]:
    """Rows to learn from and rows held out, in ``FOLDS`` ways; every row is held out once.

    >>> [(len(rows), held_out.tolist()) for rows, held_out in folds(12)][:2]
    [(10, [0, 10]), (10, [1, 11])]
    """
    rows = np.arange(num_images)
    parts = [rows % FOLDS == fold for fold in range(min(FOLDS, num_images))]
    return [(rows[~held_out], rows[held_out]) for held_out in parts]


def _counts(scores: Scores, threshold: float) -> Int64[ndarray, " b"]:
    return np.array([np.count_nonzero(own >= threshold) for own in scores], np.int64)


def _doubt(scores: Scores) -> Float64[ndarray, " b"]:
    return np.sqrt(np.array([(own * (1 - own)).sum() for own in scores], np.float64))


def _highest(scores: Scores, lowest: float) -> Float64[ndarray, " b"]:
    return np.array([own.max(initial=lowest) for own in scores], np.float64)


def _log_odds(scores: Float64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    return logit(np.clip(scores, TINY, 1 - TINY))


def _fit_log_odds(scores: Float64[ndarray, " n"], present: Bool[ndarray, " n"]) -> tuple[float, float]:
    """Slope and intercept of the log odds of presence over those of the score (Platt 1999)."""
    fitted = LogisticRegression().fit(_log_odds(scores)[:, None], present)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
