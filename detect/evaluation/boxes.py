"""How good results are: COCO's twelve numbers by pycocotools for boxes; F1, average precision and counts for landmarks.

Both take a dataset and results in pixels of its images, as :func:`detect.data.read_results` reads them from a file. What a
results file holds that cannot be scored is listed in ``refused``, never dropped in silence.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.data import CocoDataset, CocoResults, Finding
from detect.evaluation.coco_points import PointResults, oks_of, point_results
from detect.evaluation.oks import OksScores
from detect.evaluation.point_matching import matches_by_score
from detect.evaluation.points import PointScores, ScoreCuts, choose_threshold, score_points
from detect.keypoints.keypoints import CocoKeypoints

if TYPE_CHECKING:
    from pycocotools.cocoeval import COCOeval

RADII_PX = (1.0, 2.0, 3.0, 5.0)
ALL_AREAS, MOST_DETECTIONS = 0, -1  # in the axes of pycocotools' arrays: areas, detections of an image
IOUS = {"IoU .50": slice(0, 1), "IoU .75": slice(5, 6), "IoU .50 to .95": slice(None)}  # of .50, .55, ... .95


@dataclass(frozen=True)
class BoxScores:
    """COCO's twelve numbers: average precision and recall over IoU .5 to .95, but ``ap50`` and ``ap75``.

    Of at most 100 detections of an image and category, ``ar1`` and ``ar10`` of at most 1 and 10. Small, medium and large are
    the file's areas below 32**2, up to 96**2 and above, in square pixels of the image. None where there is nothing to find.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision at rising recall; ``category`` is empty for all together, ``at`` says what counts as found.

    ``scores`` are the least that results have there: NaN where none gets so far, and in means of several curves.
    """

    category: str
    at: str
    recall: Float64[ndarray, " k"]
    precision: Float64[ndarray, " k"]
    scores: Float64[ndarray, " k"]


@dataclass(frozen=True, eq=False)
class BoxEvaluation:
    """What :func:`evaluate_boxes` finds; ``by_category`` goes by category id, in rising order."""

    dataset: CocoDataset
    overall: BoxScores
    by_category: Mapping[int, BoxScores]
    curves: tuple[PrecisionRecall, ...]
    num_results: int
    invalid: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and None by name, as JSON takes them; without the curves."""
        return {
            "task": "boxes",
            "images": len(self.dataset.images),
            "instances": len(self.dataset.instances),
            "crowd_regions": len(self.dataset.crowd),
            "results": self.num_results,
            "overall": asdict(self.overall),
            "by_category": [
                {"id": category, "name": self.dataset.category_name(category), **asdict(scores)}
                for category, scores in self.by_category.items()
            ],
            "invalid_results": _as_dicts(self.invalid),
        }


@dataclass(frozen=True, eq=False)
class LandmarkEvaluation:
    """What :func:`evaluate_landmarks` finds, at each radius; ``by_type`` goes by the name of the landmark type."""

    landmarks: CocoKeypoints
    overall: tuple[PointScores, ...]
    by_type: Mapping[str, tuple[PointScores, ...]]
    curves: tuple[PrecisionRecall, ...]
    num_results: int
    num_ignored: int
    invalid: tuple[Finding, ...]
    oks: OksScores | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and None by name, as JSON takes them; without the curves."""
        return {
            "task": "landmarks",
            "images": len(self.landmarks.dataset.images),
            "results": self.num_results,
            "in_ignored_regions": self.num_ignored,
            "overall": [each.to_dict() for each in self.overall],
            "by_type": {name: [each.to_dict() for each in scores] for name, scores in self.by_type.items()},
            **({} if self.oks is None else {"oks": self.oks.to_dict()}),
            "invalid_results": _as_dicts(self.invalid),
        }


def evaluate_boxes(dataset: CocoDataset, results: CocoResults) -> BoxEvaluation:
    """COCO's numbers, of all categories and of each, by pycocotools' own evaluation, quietly.

    They are those of pycocotools on the annotations as they were read: a box that reaches outside its image is clipped to
    it, and what was refused is not there. An annotation that has the id 0, which pycocotools takes for none, counts like
    any other. No results at all are scored too: everything is missed.

    >>> from detect.data import read_coco
    >>> dataset = read_coco({
    ...     "images": [{"id": 7, "width": 100, "height": 100, "file_name": "a.png"}],
    ...     "categories": [{"id": 3, "name": "cell"}],
    ...     "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20]}],
    ... })
    >>> columns = np.zeros(1, np.int64), np.array([3]), np.array([0.9]), np.array([[10.0, 10.0, 20.0, 15.0]])
    >>> found = evaluate_boxes(dataset, CocoResults(np.zeros(1, np.int64), *columns, (np.zeros((0, 3)),), ()))
    >>> round(found.overall.ap, 3), round(found.overall.ap75, 3), found.overall.ap_large  # IoU .75: six of ten thresholds
    (0.6, 1.0, None)
    """
    from pycocotools.cocoeval import COCOeval  # noqa: PLC0415 - only who evaluates pays for it

    usable = np.isfinite(results.boxes_xywh).all(axis=1)
    invalid = [_without_box(dataset, results, row) for row in np.flatnonzero(~usable).tolist()]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        truth = _pycocotools_dataset(dataset, _truth_entries(dataset))
        found = _pycocotools_dataset(dataset, _result_entries(dataset, results, np.flatnonzero(usable).tolist()))
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        table = evaluation.eval
        categories: list[int] = [int(category) for category in evaluation.params.catIds]
        overall = _summary(evaluation, table, slice(None))
        own = {category: _summary(evaluation, table, slice(k, k + 1)) for k, category in enumerate(categories)}
    names = [dataset.category_name(category) for category in categories]
    return BoxEvaluation(
        dataset, overall, own, _box_curves(table, names), int(usable.sum()), (*results.invalid, *invalid)
    )


def evaluate_landmarks(
    landmarks: CocoKeypoints,
    results: CocoResults,
    *,
    radii: Sequence[float] = RADII_PX,
    threshold: float | None = None,
    choose: str | None = None,
    choose_radius: float = 3.0,
    source: str = "keypoints",
    oks_sigmas: Sequence[float] | None = None,
) -> LandmarkEvaluation:
    """Precision, recall, F1, error and counts at each radius, of all types of landmark and of each.

    >>> from detect.data import read_coco
    >>> from detect.keypoints.keypoints import coco_keypoints
    >>> from detect.samples import sample_annotations
    >>> nuclei = coco_keypoints(read_coco(sample_annotations("nuclei"), keypoints=True))
    >>> found = evaluate_landmarks(nuclei, CocoResults(*np.zeros((3, 0), np.int64), np.zeros(0), np.zeros((0, 4)), (), ()))
    >>> found.overall[0].micro.f1, round(found.overall[0].count.mae, 3)  # 318 points in 80 images, all missed
    (0.0, 3.975)

    Args:
        landmarks: keypoints of a dataset, see :func:`detect.keypoints.keypoints.coco_keypoints`.
        results: with as many keypoints each as the dataset's instances of the category have.
        radii: within which a point is found, in image pixels; average precision is of each radius too.
        threshold: only results of this score or more count, but for average precision and the curves.
        choose: choose the threshold on this data instead, by the goal ``"f1"`` or ``"count"``.
        choose_radius: radius of the goal ``"f1"``, in image pixels.
        source: ``"keypoints"``, or ``"boxes"`` if the points are centres of boxes.
        oks_sigmas: one for each keypoint of an instance, to add COCO's scores by object keypoint similarity.

    Raises:
        ValueError: no radius.
    """
    if not radii:
        raise ValueError("need one radius or more, got none")
    if choose is not None:
        chosen_on = point_results(landmarks, results, source=source, radius=choose_radius)
        columns = chosen_on.predicted, chosen_on.scores, chosen_on.truth
        threshold = choose_threshold(*columns, goal=choose, radius=choose_radius).threshold
    tables = [point_results(landmarks, results, source=source, radius=radius) for radius in radii]
    num_images = len(landmarks.dataset.images)
    overall, curves = [], []
    own: dict[str, list[PointScores]] = {name: [] for name in landmarks.type_names}
    for radius, table in zip(radii, tables, strict=True):
        scores = _point_scores(table, radius, threshold)
        overall.append(replace(scores, num_images=num_images))  # not times the types
        curves.append(_point_curve(table, radius))
        for joint, name in enumerate(landmarks.type_names):
            own[name].append(_point_scores(table.of_joint(joint), radius, threshold))
            if len(landmarks.type_names) > 1:
                curves.append(replace(_point_curve(table.of_joint(joint), radius), category=name))
    return LandmarkEvaluation(
        landmarks,
        tuple(overall),
        {name: tuple(scores) for name, scores in own.items()},
        tuple(curves),
        len(results.scores),
        tables[0].num_ignored,
        tables[0].invalid,
        None if oks_sigmas is None else oks_of(landmarks, results, oks_sigmas),
    )


def _truth_entries(dataset: CocoDataset) -> list[dict[str, Any]]:
    every = dataset.annotations
    columns = (every.image_rows, every.category_ids, every.boxes_xywh, every.area, every.iscrowd)
    return [
        {"image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for image, category, box, area, crowd in zip(
            dataset.images.ids[columns[0]].tolist(), *(column.tolist() for column in columns[1:]), strict=True
        )
    ]


def _result_entries(dataset: CocoDataset, results: CocoResults, rows: Sequence[int]) -> list[dict[str, Any]]:
    """As ``COCO.loadRes`` makes them, which fails where there are none."""
    entries = []
    for row in rows:
        x, y, width, height = results.boxes_xywh[row].tolist()
        entries.append(
            {
                "image_id": int(dataset.images.ids[results.image_rows[row]]),
                "category_id": int(results.category_ids[row]),
                "bbox": [x, y, width, height],
                "area": width * height,
                "score": float(results.scores[row]),
                "iscrowd": 0,
            }
        )
    return entries


def _pycocotools_dataset(dataset: CocoDataset, entries: Sequence[Mapping[str, Any]]) -> Any:
    from pycocotools.coco import COCO  # noqa: PLC0415

    made = COCO()
    made.dataset = {
        "images": [{"id": image_id} for image_id in dataset.images.ids.tolist()],
        "categories": [{"id": category} for category in dataset.category_ids],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(entries, 1)],
    }
    made.createIndex()
    return made


def _summary(evaluation: COCOeval, table: Mapping[str, Any], categories: slice) -> BoxScores:
    """Of these categories, by pycocotools' own summary of its arrays (threshold, recall, category, area, detections)."""
    own = {"precision": table["precision"][:, :, categories], "recall": table["recall"][:, categories]}
    evaluation.eval = {**table, **own}
    evaluation.summarize()
    return BoxScores(*(float(number) if number >= 0 else None for number in evaluation.stats))


def _box_curves(table: Mapping[str, Any], names: Sequence[str]) -> tuple[PrecisionRecall, ...]:
    """At each of ``IOUS`` of all categories that have instances, then of each at IoU .5."""
    precision, scores = (table[name][..., ALL_AREAS, MOST_DETECTIONS] for name in ("precision", "scores"))
    there = [number for number in range(len(names)) if precision[0, 0, number] >= 0]
    recall = np.asarray(table["params"].recThrs, np.float64)

    def curve(category: str, at: str, numbers: Sequence[int]) -> PrecisionRecall:
        own, reached = (table[IOUS[at]][:, :, numbers] for table in (precision, scores))
        mean = own.mean(axis=(0, 2))
        alone = own.shape[0] == own.shape[2] == 1  # pycocotools fills with 0 where no result gets so far
        least = np.where(mean > 0, reached[0, :, 0], np.nan) if alone else np.full(len(recall), np.nan)
        return PrecisionRecall(category, at, recall, mean, least)

    if not there:
        return ()
    alone = [curve(names[number], "IoU .50", [number]) for number in there] if len(names) > 1 else []
    return (*(curve("", at, there) for at in IOUS), *alone)


def _point_scores(table: PointResults, radius: float, threshold: float | None) -> PointScores:
    return score_points(table.predicted, table.truth, scores=table.scores, radius=radius, threshold=threshold)


def _point_curve(table: PointResults, radius: float) -> PrecisionRecall:
    """Precision and recall of the best matching at every score; the area under it, made to fall, is average precision."""
    cuts = ScoreCuts.of(np.concatenate(table.scores))
    tables = zip(table.predicted, table.scores, table.truth, strict=True)
    pairs = cuts.totals(np.concatenate([matches_by_score(*each, radius=radius) for each in tables]))[1:]
    num_truth = sum(map(len, table.truth))
    return PrecisionRecall(
        "",
        f"within {radius:g} px",
        pairs / max(num_truth, 1),
        pairs / cuts.num_kept[1:],
        cuts.scores[cuts.num_kept[1:] - 1],
    )


def _without_box(dataset: CocoDataset, results: CocoResults, row: int) -> Finding:
    image_id = int(dataset.images.ids[results.image_rows[row]])
    return Finding("", None, image_id, f"entry {results.places[row]} of the results: no bbox of four finite numbers")


def _as_dicts(invalid: Sequence[Finding]) -> list[dict[str, Any]]:
    return [{"image_id": each.image_id, "reason": each.reason} for each in invalid]
