"""Results in COCO's format scored as keypoints: by distance, for each keypoint type and all together, and by OKS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from detect.data import CocoResults, Finding
from detect.evaluation.boxes import as_dicts, best_as_dict, shown_score
from detect.evaluation.confusion import ConfusionMatrix
from detect.evaluation.oks import OksScores, evaluate_oks
from detect.evaluation.point_results import PointResults, check_choice, score_radii
from detect.evaluation.points import RADII_PX, RADIUS_PX, PointScores
from detect.evaluation.precision_recall import PrecisionRecall, ThresholdChoice
from detect.evaluation.predicted_points import PredictedPoints, are_counted
from detect.keypoints.coco_keypoints import CocoKeypoints
from detect.keypoints.keypoints import by_group
from detect.keypoints.orientations import PER_TURN

UNLABELLED_IN_SCORES = {"ignore": "ignore", "wrong": "background"}  # and what they are of ignored regions
F1_RADIUS_PX = 5.0  # of the F1 that chooses checkpoints and thresholds


@dataclass(frozen=True, eq=False)
class LandmarkEvaluation:
    """The result of :func:`evaluate_landmarks`: scores at each radius; the keys of ``by_type`` are names of types.

    ``by_score`` are precision and recall within 5 px at every score, over all types and for each if there are several.
    """

    landmarks: CocoKeypoints
    overall: tuple[PointScores, ...]
    by_type: Mapping[str, tuple[PointScores, ...]]
    curves: tuple[PrecisionRecall, ...]
    by_score: tuple[PrecisionRecall, ...]
    confusion: ConfusionMatrix
    threshold: float | None
    oks: OksScores | None
    num_results: int
    num_ignored: int
    invalid: tuple[Finding, ...]

    @property
    def best_f1(self) -> ThresholdChoice | None:
        """The score threshold of the highest F1 within 5 px over all types; None if no point is found."""
        return self.by_score[0].best_f1()

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain values for JSON, without the curves."""
        oks = {} if self.oks is None else {"oks": asdict(self.oks)}
        return {
            "task": "landmarks",
            "images": len(self.landmarks.dataset.images),
            "results": self.num_results,
            "in_ignored_regions": self.num_ignored,
            "threshold": self.threshold,
            "overall": [each.to_dict() for each in self.overall],
            "by_type": {name: [each.to_dict() for each in scores] for name, scores in self.by_type.items()},
            **oks,
            **best_as_dict(self.best_f1),
            "confusion": self.confusion.to_dict(),
            "invalid_results": as_dicts(self.invalid),
        }


def evaluate_landmarks(
    predicted: CocoResults,
    truth: CocoKeypoints,
    *,
    radii: Sequence[float] = RADII_PX,
    threshold: float | None = None,
    choose: str | None = None,
    choose_radius: float = RADIUS_PX,
    source: str = "keypoints",
    oks_sigmas: Sequence[float] | None = None,
    min_score: float | None = None,
    unlabelled: str = "ignore",
) -> LandmarkEvaluation:
    """Compute precision, recall, F1, distance error and count error at each radius, over all keypoint types and for each.

    Each result has as many keypoints as the dataset's instances of its category (:class:`PredictedPoints`). If the truth has
    orientations, the angles of results are scored too, at each radius over the pairs within it.

    >>> from detect.data import read_coco
    >>> from detect.keypoints.coco_keypoints import coco_keypoints
    >>> from detect.samples import sample_annotations
    >>> nuclei = coco_keypoints(read_coco(sample_annotations("nuclei"), keypoints=True))
    >>> nothing = CocoResults(*np.zeros((3, 0), np.int64), np.zeros(0), np.zeros((0, 4)), (), ())
    >>> found = evaluate_landmarks(nothing, nuclei)
    >>> found.overall[0].micro.f1, round(found.overall[0].count.mae, 3)  # 318 points in 80 images, all missed
    (0.0, 3.975)

    Args:
        radii: largest distances of a pair, in image pixels; average precision is given at each radius too.
        threshold: lowest score of the results that count; average precision and the curves use all results.
        choose: choose the threshold on this data instead, by the goal ``"f1"`` within ``choose_radius``, or ``"count"``.
        source: ``"keypoints"``, or ``"boxes"`` if the points are centres of boxes; the same as for ``truth``.
        oks_sigmas: one for each keypoint of an instance, to add COCO's scores by object keypoint similarity.
        min_score: lowest score of the results in the confusion matrix; by default the threshold of the highest F1.
        unlabelled: whether a predicted keypoint is ``"wrong"`` in the box of an object whose own is not labelled though
            others are, or neither right nor wrong (``"ignore"``).

    Raises:
        ValueError: there is no radius, both a threshold and a goal are given, or ``unlabelled`` is another word.
        CocoError: the number of sigmas is not that of an instance's keypoints.
    """
    check_choice(radii, threshold, choose)
    tabulate = partial(point_results, predicted, truth, source=source, unlabelled=unlabelled)
    if choose is not None:
        threshold = tabulate(radius=choose_radius).chosen_threshold(choose, choose_radius)
    tables = [tabulate(radius=radius) for radius in radii]
    names, pairs = truth.type_names, list(zip(radii, tables, strict=True))
    overall, by_type = score_radii(pairs, names, threshold=threshold, num_images=len(truth.dataset.images))
    usual = tabulate(radius=F1_RADIUS_PX)
    by_score = usual.curves(F1_RADIUS_PX, names)
    return LandmarkEvaluation(
        truth,
        overall,
        by_type,
        curves=tuple(curve for radius, table in pairs for curve in table.curves(radius, names)),
        by_score=by_score,
        confusion=usual.confusions(F1_RADIUS_PX, names, shown_score(min_score, by_score[0])),
        threshold=threshold,
        oks=None if oks_sigmas is None else evaluate_oks(predicted, truth, sigmas=oks_sigmas),
        num_results=len(predicted.scores),
        num_ignored=tables[0].num_ignored,
        invalid=tables[0].invalid,
    )


def point_results(
    predicted: CocoResults,
    truth: CocoKeypoints,
    *,
    source: str = "keypoints",
    radius: float = RADIUS_PX,
    unlabelled: str = "ignore",
) -> PointResults:
    """Group results and true points by image and keypoint type.

    A prediction in a region of :meth:`~detect.keypoints.coco_keypoints.CocoKeypoints.ignored_regions` counts only if a true
    point is within the ``radius``, in image pixels. For ``source`` and ``unlabelled`` see :func:`evaluate_landmarks`.
    """
    if unlabelled not in UNLABELLED_IN_SCORES:
        raise ValueError(f"unlabelled is one of {', '.join(UNLABELLED_IN_SCORES)}, got {unlabelled!r}")
    found = PredictedPoints.of(predicted, truth, source)
    num_types = truth.landmarks.num_types
    num_groups = truth.landmarks.num_images * num_types
    true_points = truth.landmarks.per_image()
    group = predicted.image_rows[found.rows] * num_types + found.types
    regions = truth.ignored_regions(UNLABELLED_IN_SCORES[unlabelled])
    kept = are_counted(found.points, group, true_points, regions, radius)
    points, scores = (by_group(each[kept], group[kept], num_groups) for each in (found.points, found.scores))
    invalid = (*predicted.invalid, *found.invalid)
    results = PointResults(points, true_points, scores, num_types, int((~kept).sum()), invalid)
    true_angles = truth.landmarks.angles_per_image()
    if true_angles is None or predicted.angles_deg is None:
        return results
    angles = by_group(predicted.angles_deg[found.rows[kept]], group[kept], num_groups)
    period = 360.0 / PER_TURN[truth.orientation]
    return replace(results, angles=(angles, [np.rad2deg(each) for each in true_angles]), period=period)
