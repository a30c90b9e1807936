"""Predicted and true points of images and keypoint types, wherever they come from, and their scores at several radii."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.data import Finding
from detect.evaluation.angles import score_angles
from detect.evaluation.confusion import ConfusionMatrix, point_confusions
from detect.evaluation.point_matching import Spacing
from detect.evaluation.points import PointScores, score_points
from detect.evaluation.precision_recall import PrecisionRecall, ScoreCuts, choose_threshold


@dataclass(frozen=True, eq=False)
class PointResults:
    """Predicted and true points of each image and keypoint type, as :func:`score_points` takes them.

    Groups are ordered by image, then type. Predictions in ignored regions that are near no true point are left out.
    """

    predicted: list[Float64[ndarray, "_ D"]]
    truth: list[Float64[ndarray, "_ D"]]
    scores: list[Float64[ndarray, " _"]]
    num_types: int
    num_ignored: int
    invalid: tuple[Finding, ...]
    angles: tuple[list[Float64[ndarray, " _"]], list[Float64[ndarray, " _"]]] | None = None
    """Predicted and true angles in degrees, if both have orientations."""
    period: float = 360.0
    spacing: Spacing = 1.0
    """Size of a pixel along each axis, in the ``unit`` of distances."""
    unit: str = "px"

    def of_type(self, number: int) -> PointResults:
        own = slice(number, None, self.num_types)
        columns: dict[str, Any] = {name: getattr(self, name)[own] for name in ("predicted", "truth", "scores")}
        if self.angles is not None:
            columns["angles"] = tuple(each[own] for each in self.angles)
        return replace(self, **columns, num_types=1)

    def score(self, radius: float, threshold: float | None) -> PointScores:
        options: dict[str, Any] = {"radius": radius, "threshold": threshold, "spacing": self.spacing}
        scores = score_points(self.predicted, self.truth, scores=self.scores, **options)
        if self.angles is None:
            return scores
        kept = [own >= (-np.inf if threshold is None else threshold) for own in self.scores]
        points, angles = (
            [each[of_image] for each, of_image in zip(column, kept, strict=True)]
            for column in (self.predicted, self.angles[0])
        )
        own: dict[str, Any] = {"angles": angles, "true_angles": self.angles[1], "period": self.period}
        return replace(scores, angle=score_angles(points, self.truth, radius=radius, **own))

    def curve(self, radius: float, name: str = "") -> PrecisionRecall:
        """Precision and recall of the best matching within ``radius`` at every distinct score, over all images."""
        cuts = ScoreCuts.of(self.scores)
        options: dict[str, Any] = {"scores": self.scores, "radius": radius, "spacing": self.spacing}
        pairs = cuts.num_pairs(self.predicted, self.truth, **options)
        return cuts.curve(pairs, sum(map(len, self.truth)), at=f"within {radius:g} {self.unit}", category=name)

    def curves(self, radius: float, names: Sequence[str]) -> tuple[PrecisionRecall, ...]:
        """The curve over all types, and that of each if there are several."""
        alone = [self.of_type(number).curve(radius, name) for number, name in enumerate(names)]
        return (self.curve(radius), *alone) if len(names) > 1 else (self.curve(radius),)

    def chosen_threshold(self, goal: str, radius: float) -> float:
        """The best score threshold for a goal of :func:`choose_threshold`."""
        options: dict[str, Any] = {"goal": goal, "radius": radius, "spacing": self.spacing}
        return choose_threshold(self.predicted, self.truth, scores=self.scores, **options).threshold

    def confusions(self, radius: float, names: Sequence[str], threshold: float) -> ConfusionMatrix:
        options = {"radius": radius, "threshold": threshold}
        return point_confusions(self.predicted, self.truth, scores=self.scores, names=names, **options)


def check_choice(radii: Sequence[float], threshold: float | None, choose: str | None) -> None:
    """Raise ValueError without a radius, or if a threshold is both given and to be chosen."""
    if not radii or (threshold is not None and choose is not None):
        raise ValueError(f"need one radius or more, and a threshold or a goal, got {radii=}, {threshold=}, {choose=}")


def score_radii(
    tables: Sequence[tuple[float, PointResults]], names: Sequence[str], *, threshold: float | None, num_images: int
) -> tuple[tuple[PointScores, ...], Mapping[str, tuple[PointScores, ...]]]:
    """The scores at each radius, of all types together, and of each by its name.

    >>> points = [np.array([[0.0, 0.0]]), np.array([[4.0, 0.0], [9.0, 9.0]])]  # of an image and two types
    >>> found = PointResults([*points], [*points], [np.ones(1), np.ones(2)], 2, 0, ())
    >>> overall, by_type = score_radii([(1.0, found)], ["head", "tail"], threshold=None, num_images=1)
    >>> overall[0].num_matched, [(name, scores[0].num_matched) for name, scores in by_type.items()]
    (3, [('head', 1), ('tail', 2)])
    """
    overall = (table.score(radius, threshold) for radius, table in tables)
    by_type = {
        name: tuple(table.of_type(number).score(radius, threshold) for radius, table in tables)
        for number, name in enumerate(names)
    }
    return tuple(replace(scores, num_images=num_images) for scores in overall), by_type  # not times the types
