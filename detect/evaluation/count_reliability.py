"""How well calibrated counts hold: the images are divided into folds, and each is predicted from the others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray
from sklearn.metrics import brier_score_loss, roc_auc_score

from detect.evaluation.count_intervals import CountCalibration, CountPrediction, KnownCounts, folds

NUM_BINS = 4


@dataclass(frozen=True)
class CountBin:
    """Images of similar counts: means of counted and of true points, the share covered, and the mean of high - low."""

    name: str
    num_images: int
    counted: float
    truth: float
    coverage: float
    width: float


@dataclass(frozen=True)
class PresenceScores:
    """Scores of the probability that an image has a point: mean squared error (Brier 1950) and area under the ROC curve.

    ``bins`` are images by rising probability: its mean, the share of them that have a point, and their number.
    """

    brier: float
    auc: float
    bins: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True, eq=False)
class CountReliability:
    """Predicted beside true counts of images that were not among those of the calibration."""

    prediction: CountPrediction
    truth: Int64[ndarray, " b"]
    confidence: float

    @property
    def covered(self) -> Bool[ndarray, " b"]:
        """Whether the interval of each image holds its true count."""
        return (self.prediction.low <= self.truth) & (self.truth <= self.prediction.high)

    @property
    def slope(self) -> float | None:
        """The slope of the least-squares line of true over predicted counts; None if all predicted counts are equal."""
        shift = self.prediction.count - self.prediction.count.mean()
        return float(shift @ self.truth / (shift @ shift)) if shift.any() else None

    def bins(self) -> list[CountBin]:
        """All images, those without true points, and up to ``NUM_BINS`` groups by predicted count."""
        count = self.prediction.count
        rows = [("all", np.ones(len(count), bool)), ("no true point", self.truth == 0)]
        edges = np.unique(np.quantile(count, np.linspace(0, 1, NUM_BINS + 1)).round().astype(np.int64))
        for low, high in zip([-1, *edges[:-1].tolist()], edges.tolist(), strict=True):
            own = (low < count) & (count <= high)
            name = f"{max(low + 1, 0)}" if low + 1 >= high else f"{low + 1} to {high}"
            rows.append((f"counted {name}", own))
        return [self._bin(name, own) for name, own in rows if own.any()]

    def _bin(self, name: str, own: Bool[ndarray, " b"]) -> CountBin:
        predicted = self.prediction
        columns = (predicted.count, self.truth, self.covered, predicted.high - predicted.low)
        return CountBin(name, int(own.sum()), *(float(column[own].mean()) for column in columns))

    def presence(self) -> PresenceScores | None:
        """Scores of the probability that an image has a point; None if it could not be calibrated."""
        given, present = self.prediction.presence, self.truth > 0
        if given is None:
            return None
        parts = np.array_split(np.argsort(given, kind="stable"), NUM_BINS)
        bins = tuple((float(given[rows].mean()), float(present[rows].mean()), len(rows)) for rows in parts)
        return PresenceScores(float(brier_score_loss(present, given)), float(roc_auc_score(present, given)), bins)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        presence, bins = self.presence(), [asdict(each) for each in self.bins()]
        numbers = {"confidence": self.confidence, "slope": self.slope, "bins": bins}
        return {**numbers, "presence": presence and asdict(presence)}


def cross_validate_counts(known: KnownCounts, *, confidence: float = 0.9, empty: str = "apart") -> CountReliability:
    """Predict the count of each tenth of the images with a calibration on the others; see :meth:`CountCalibration.fit`.

    Raises:
        FitError: the others are too few for the confidence.
    """
    parts, order = [], []
    for rows, held_out in folds(len(known.truth)):
        calibration = CountCalibration.fit(known.take(rows), empty=empty)
        parts.append(calibration.predict(known.take(held_out).scores, confidence=confidence))
        order.append(held_out)
    places = np.argsort(np.concatenate(order))
    count, low, high = (
        np.concatenate([getattr(part, name) for part in parts])[places] for name in ("count", "low", "high")
    )
    present = [part.presence for part in parts if part.presence is not None]
    presence = np.concatenate(present)[places] if len(present) == len(parts) else None
    return CountReliability(CountPrediction(count, low, high, presence), known.truth, confidence)
