"""Points found in images or volumes scored against labelled ones, both read from tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.data import Finding
from detect.data.formats.point_tables import PointTable
from detect.errors import CocoError
from detect.evaluation.boxes import best_as_dict
from detect.evaluation.point_matching import Spacing
from detect.evaluation.point_results import PointResults, check_choice, score_radii
from detect.evaluation.points import RADII_PX, RADIUS_PX, PointScores
from detect.evaluation.precision_recall import PrecisionRecall, ThresholdChoice
from detect.keypoints.keypoints import by_group
from detect.wording import listed

EVERY_TYPE = "point"


@dataclass(frozen=True, eq=False)
class TableEvaluation:
    """The result of :func:`evaluate_tables`: scores at each radius, with distances in ``unit``.

    ``by_score`` are precision and recall within the largest radius at every score, over all types and for each if there are
    several. ``without_results`` are images with labels, but no found points in any table: all of their points are missed.
    """

    overall: tuple[PointScores, ...]
    by_type: Mapping[str, tuple[PointScores, ...]]
    by_score: tuple[PrecisionRecall, ...]
    threshold: float | None
    unit: str
    axes: str
    num_results: int
    invalid: tuple[Finding, ...]
    invalid_labels: tuple[Finding, ...]
    without_results: tuple[str, ...]

    @property
    def best_f1(self) -> ThresholdChoice | None:
        """The score threshold of the highest F1 over all types; None if no point is found."""
        return self.by_score[0].best_f1()

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain values for JSON, without the curves."""
        return {
            "task": "points",
            "axes": self.axes,
            "unit": self.unit,
            "images": self.overall[0].num_images,
            "results": self.num_results,
            "threshold": self.threshold,
            "overall": [each.to_dict() for each in self.overall],
            "by_type": {name: [each.to_dict() for each in scores] for name, scores in self.by_type.items()},
            **best_as_dict(self.best_f1),
            "invalid_results": [str(each) for each in self.invalid],
            "invalid_labels": [str(each) for each in self.invalid_labels],
            "images_without_results": list(self.without_results),
        }


def evaluate_tables(
    predicted: PointTable,
    truth: PointTable,
    *,
    radii: Sequence[float] = RADII_PX,
    threshold: float | None = None,
    choose: str | None = None,
    choose_radius: float = RADIUS_PX,
    spacing: Spacing = 1.0,
    unit: str = "px",
    merge: bool = False,
) -> TableEvaluation:
    """Compute precision, recall, F1, distance error and count error at each radius, over all types and for each.

    Images and types are those of the truth, told by their names; a single image, or type, on both sides needs no name. Found
    points of another image or type are listed in ``invalid``.

    ``spacing`` is the size of a pixel, along each axis (x, y[, z]) or all, ``unit`` its unit in words, in which the radii
    are. ``merge`` treats all points as one type. The other options are those of
    :func:`~detect.evaluation.coco_points.evaluate_landmarks`.

    Raises:
        ValueError: there is no radius, or both a threshold and a goal are given.
        CocoError: one side has points in two axes, the other in three, or no image of the truth has found points.
    """
    if not truth.images:
        raise CocoError(f"{truth.files[0]}: no labelled points, and no column of images would say where there are none")
    merge = merge or not truth.type_names  # then all that is found is wrong
    check_choice(radii, threshold, choose)
    points, without_results = _point_results(predicted, truth, spacing, unit, merge=merge)
    if choose is not None:
        threshold = points.chosen_threshold(choose, choose_radius)
    names = (EVERY_TYPE,) if merge else truth.type_names
    tables = [(radius, points) for radius in radii]
    overall, by_type = score_radii(tables, names, threshold=threshold, num_images=len(truth.images))
    return TableEvaluation(
        overall,
        by_type,
        by_score=points.curves(max(radii), names),
        threshold=threshold,
        unit=unit,
        axes=truth.axes,
        num_results=len(predicted.scores) + len(predicted.invalid),
        invalid=points.invalid,
        invalid_labels=truth.invalid,
        without_results=without_results,
    )


def _point_results(
    predicted: PointTable, truth: PointTable, spacing: Spacing, unit: str, *, merge: bool
) -> tuple[PointResults, tuple[str, ...]]:
    """The points by image and type of the truth, and the images without a table of found points."""
    if predicted.axes != truth.axes:
        raise CocoError(
            f"{predicted.files[0]}: points ({predicted.axes}), those of {truth.files[0]} are ({truth.axes}): both are of "
            "images, or both of volumes"
        )
    image, without_results = _images(predicted, truth)
    kind, num_types = np.zeros(len(predicted.types), np.int64), 1 if merge else len(truth.type_names)
    if not merge:
        kind = _rows_of_names(predicted.type_names, truth.type_names)[predicted.types]
    known, invalid = (image >= 0) & (kind >= 0), list(predicted.invalid)
    for row in np.flatnonzero(~known).tolist():
        name, names = predicted.type_names[predicted.types[row]], listed(truth.type_names)
        reason = f"no label has its type {name!r}, only {names}: --merge takes all types as one"
        if image[row] < 0:
            reason = f"no labels of its image {predicted.images[predicted.image_rows[row]]!r}"
        invalid.append(predicted.finding(row, reason))
    group, num_groups = image[known] * num_types + kind[known], len(truth.images) * num_types
    true_group = truth.image_rows * num_types + (0 if merge else truth.types)
    points, scores = (by_group(each[known], group, num_groups) for each in (predicted.points, predicted.scores))
    true_points = by_group(truth.points, true_group, num_groups)
    results = PointResults(points, true_points, scores, num_types, 0, tuple(invalid), spacing=spacing, unit=unit)
    return results, without_results


def _images(predicted: PointTable, truth: PointTable) -> tuple[Int64[ndarray, " n"], tuple[str, ...]]:
    """The row among the images of the truth of each found point, -1 for none, and the images that have no table."""
    own = _rows_of_names(predicted.images, truth.images)
    if len(predicted.images) and not (own >= 0).any():
        found, labelled = listed(predicted.images), listed(truth.images)
        raise CocoError(f"{predicted.files[0]}: found points of {found}, but labels of {labelled}: no image has both")
    missing = sorted(set(range(len(truth.images))) - set(own.tolist()))
    return own[predicted.image_rows], tuple(truth.images[row] for row in missing)


def _rows_of_names(names: Sequence[str], wanted: Sequence[str]) -> Int64[ndarray, " n"]:
    """The row of each name among those wanted, -1 for none; one name on both sides needs not be the same."""
    if len(names) == len(wanted) == 1:
        return np.zeros(1, np.int64)
    rows = {name: row for row, name in enumerate(wanted)}
    return np.array([rows.get(name, -1) for name in names], np.int64)
