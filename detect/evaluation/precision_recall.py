"""What each score threshold keeps: precision and recall of predicted points, and the choice of the best threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64, Shaped
from numpy import ndarray

from detect.evaluation.point_matching import Spacing, check_images, matches_by_score
from detect.ops.array_kinds import check_shape, in_arrays

GOALS = ("f1", "count")
USUAL_SCORE = 0.3  # of results that are shown if no threshold has been chosen


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision at rising recall. ``category`` is empty for all categories together; ``at`` names the matching criterion.

    ``scores`` are the lowest scores needed for each recall: NaN where no threshold reaches it, and for means of curves.
    """

    category: str
    at: str
    recall: Float64[ndarray, " k"]
    precision: Float64[ndarray, " k"]
    scores: Float64[ndarray, " k"]

    @property
    def f1(self) -> Float64[ndarray, " k"]:
        """The harmonic mean of precision and recall; 0 where both are."""
        return 2 * self.precision * self.recall / np.maximum(self.precision + self.recall, np.finfo(float).tiny)

    def best_f1(self) -> ThresholdChoice | None:
        """The score threshold of the highest F1, of a curve with a point at every distinct score; None if all are 0.

        F1 is constant between two scores. The threshold is the middle of the interval on which F1 is highest, of several the
        one of the highest scores, and the lowest score if keeping all results is best.

        >>> columns = np.array([0.5, 0.5, 1.0, 1.0]), np.array([1.0, 0.5, 2 / 3, 0.5]), np.array([0.9, 0.6, 0.5, 0.25])
        >>> PrecisionRecall("", "IoU .50", *columns).best_f1()  # two of three results of score .5 or more are right
        ThresholdChoice(threshold=0.375, value=0.8, goal='f1')
        """
        values = self.f1.round(12)  # equal values may differ by rounding
        if not values.any():
            return None
        best = int(values.argmax())
        threshold = _midway(self.scores[best : best + 2]) if best + 1 < len(values) else self.scores[best]
        return ThresholdChoice(float(threshold), float(values[best]), "f1")


@dataclass(frozen=True, eq=False)
class ScoreCuts:
    """The distinct sets of predictions that score thresholds keep: cut 0 keeps none, the last cut keeps all.

    Each cut adds the predictions of the next lower score. Predictions of equal score stay together, so that their order does
    not matter.

    >>> cuts = ScoreCuts.of([np.array([0.5, 0.9]), np.array([0.5])])
    >>> cuts.num_kept, cuts.totals(np.array([1.0, 1.0, 0.0])), cuts.threshold(1)
    (array([0, 1, 3]), array([0., 1., 2.]), 0.7)
    """

    scores: Float[ndarray, " n"]  # falling
    order: Int64[ndarray, " n"]
    num_kept: Int64[ndarray, " k"]

    @classmethod
    def of(cls, scores: Sequence[Float[ndarray, " _"]]) -> ScoreCuts:
        joined = np.concatenate(list(scores))
        if not np.isfinite(joined).all():
            raise ValueError("scores that are not finite")
        order = np.argsort(-joined, kind="stable").astype(np.int64)
        counts = np.unique(-joined, return_counts=True)[1]
        return cls(joined[order], order, np.concatenate([[0], counts.cumsum()]).astype(np.int64))

    def totals(self, values: Shaped[ndarray, " n"]) -> Float[ndarray, " k"]:
        """Sum the values of the predictions that each cut keeps."""
        check_shape("one value for each prediction,", values, self.order.shape)
        return np.concatenate([[0.0], np.cumsum(values[self.order], dtype=np.float64)])[self.num_kept]

    def num_pairs(
        self,
        predicted: Sequence[Float[ndarray, "_ d"]],
        truth: Sequence[Float[ndarray, "_ d"]],
        *,
        scores: Sequence[Float[ndarray, " _"]],
        radius: float,
        spacing: Spacing = 1.0,
    ) -> Float[ndarray, " k"]:
        """Count the pairs of the best matching of each cut, over all images."""
        tables = zip(predicted, truth, scores, strict=True)
        gained = [matches_by_score(p, t, scores=s, radius=radius, spacing=spacing) for p, t, s in tables]
        return self.totals(np.concatenate(gained))

    def curve(self, pairs: Float[ndarray, " k"], num_truth: int, *, at: str, category: str = "") -> PrecisionRecall:
        """Precision and recall at every distinct score, from the number of true predictions of each cut."""
        check_shape("one count for each cut,", pairs, self.num_kept.shape)
        num_kept = self.num_kept[1:]
        recall, precision = pairs[1:] / max(num_truth, 1), pairs[1:] / num_kept
        return PrecisionRecall(category, at, recall, precision, self.scores[num_kept - 1].astype(np.float64))

    def threshold(self, cut: int) -> float:
        """Return a threshold that keeps exactly the predictions of a cut.

        It lies midway between the lowest score kept and the highest one dropped, or at the former if no number lies between
        them. For the first and the last cut it is one step of single precision beyond the scores, and 0 without predictions.
        """
        if not len(self.scores):
            return 0.0
        count = int(self.num_kept[cut])
        if count in {0, len(self.scores)}:
            beyond = np.inf if count == 0 else -np.inf
            return float(np.nextafter(np.float32(self.scores[max(count - 1, 0)]), np.float32(beyond)))
        return _midway(self.scores[count - 1 : count + 1])


def _midway(scores: Float[ndarray, " 2"]) -> float:
    """The middle of two falling scores, or the higher one if no number lies between them."""
    above, below = scores
    middle = below + (above - below) / 2
    return float(middle if middle > below else above)


@dataclass(frozen=True)
class ThresholdChoice:
    """A chosen threshold, which keeps points of this score or more, and the value of the goal at it on the given data."""

    threshold: float
    value: float
    goal: str


@in_arrays
def choose_threshold(
    predicted: Sequence[Float[ndarray, "_ d"]],
    truth: Sequence[Float[ndarray, "_ d"]],
    *,
    scores: Sequence[Float[ndarray, " _"]],
    goal: str = "f1",
    radius: float | None = None,
    spacing: Spacing = 1.0,
) -> ThresholdChoice:
    """Choose the best score threshold over the points of all images; every distinct score is tried.

    The goal ``"f1"`` maximises F1 over the points of all images, with the best matching within ``radius`` (in pixels or the
    unit of ``spacing``, the size of a pixel along each axis) at each threshold. ``"count"`` minimises the mean absolute
    error of an image's count and needs no radius. The threshold lies midway between the lowest score kept and the highest
    one dropped, which leaves most room for other data. Of equally good thresholds the highest is taken. It is just above the
    highest score if keeping no point is best, just below the lowest if keeping all is, and 0 without predictions.

    >>> points = [np.array([[0.0, 0.0], [9.0, 9.0]]), np.array([[5.0, 5.0]])]
    >>> truth = [np.array([[0.0, 1.0]]), np.array([[5.0, 5.0]])]
    >>> choose_threshold(points, truth, scores=[np.array([0.9, 0.3]), np.array([0.7])], radius=2.0)
    ThresholdChoice(threshold=0.5, value=1.0, goal='f1')

    Raises:
        ValueError: the goal is unknown or lacks its radius, there is no image, or lists differ in length.
    """
    if goal not in GOALS or (goal == "f1" and radius is None):
        raise ValueError(f"goal is 'count', or 'f1' with a radius, got {goal!r} with {radius=}")
    check_images(predicted, truth, scores=scores)
    cuts = ScoreCuts.of(scores)
    num_truth = sum(len(points) for points in truth)
    if goal == "f1" and radius is not None:
        pairs = cuts.num_pairs(predicted, truth, scores=scores, radius=radius, spacing=spacing)
        num_points = cuts.num_kept + num_truth
        values = np.divide(2 * pairs, num_points, out=np.ones(len(num_points)), where=num_points > 0)
        best = int(values.argmax())
        return ThresholdChoice(cuts.threshold(best), float(values[best]), goal)
    # each prediction of an image, added in falling order of score, changes the error of its count by -1 or 1
    ranks = [np.argsort(np.argsort(-own, kind="stable")) for own in scores]
    steps = [np.where(rank < len(points), -1, 1) for rank, points in zip(ranks, truth, strict=True)]
    values = (num_truth + cuts.totals(np.concatenate(steps))) / len(truth)
    best = int(values.argmin())
    return ThresholdChoice(cuts.threshold(best), float(values[best]), goal)
