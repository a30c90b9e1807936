"""COCO's twelve metrics of boxes, computed by pycocotools.

Results are in pixels of the dataset's images, as :func:`detect.data.read_results` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.data import CocoDataset, CocoResults, Finding
from detect.data.coco_results import UNUSABLE_BOX
from detect.evaluation.confusion import ConfusionMatrix, box_confusions
from detect.evaluation.precision_recall import USUAL_SCORE, PrecisionRecall, ScoreCuts, ThresholdChoice

if TYPE_CHECKING:
    from pycocotools.cocoeval import COCOeval

ALL_AREAS, MOST_DETECTIONS = 0, -1  # indices into pycocotools' axes of area ranges and of detections per image
IOUS = {"IoU .50": slice(0, 1), "IoU .75": slice(5, 6), "IoU .50 to .95": slice(None)}  # of .50, .55, ... .95


@dataclass(frozen=True)
class BoxScores:
    """COCO's twelve metrics: average precision and recall, averaged over IoU .5 to .95 except for ``ap50`` and ``ap75``.

    At most 100 detections of each image and category count; for ``ar1`` and ``ar10`` at most 1 and 10. Small, medium and
    large objects have areas below 32**2, up to 96**2 and above, in square pixels, as given in the file. A metric is None if
    no object counts for it.
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
class BoxEvaluation:
    """The result of :func:`evaluate_boxes`; the keys of ``by_category`` are category ids, in rising order.

    ``by_score`` are precision and recall at IoU .5 at every score, over all categories and for each if there are several.
    """

    dataset: CocoDataset
    overall: BoxScores
    by_category: Mapping[int, BoxScores]
    curves: tuple[PrecisionRecall, ...]
    by_score: tuple[PrecisionRecall, ...]
    confusion: ConfusionMatrix
    num_results: int
    invalid: tuple[Finding, ...]

    @property
    def best_f1(self) -> ThresholdChoice | None:
        """The score threshold of the highest F1 at IoU .5 over all categories; None if no object is found."""
        return self.by_score[0].best_f1()

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as plain values for JSON, without the curves."""
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
            **best_as_dict(self.best_f1),
            "confusion": self.confusion.to_dict(),
            "invalid_results": as_dicts(self.invalid),
        }


def evaluate_boxes(predicted: CocoResults, truth: CocoDataset, *, min_score: float | None = None) -> BoxEvaluation:
    """Compute COCO's metrics over all categories and for each, by pycocotools.

    Annotations are evaluated as they were read: boxes clipped to their image, invalid ones left out. Annotations with the id
    0, which pycocotools mistakes for no match, count like others. An empty list of results is valid: every object is missed.
    Results without a box of finite numbers, or with a negative size, are listed in ``invalid``. The confusion matrix counts
    results of ``min_score`` or more, by default the threshold of the highest F1.

    >>> from detect.data import read_coco
    >>> dataset = read_coco({
    ...     "images": [{"id": 7, "width": 100, "height": 100, "file_name": "a.png"}],
    ...     "categories": [{"id": 3, "name": "cell"}],
    ...     "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20]}],
    ... })
    >>> columns = np.zeros(1, np.int64), np.array([3]), np.array([0.9]), np.array([[10.0, 10.0, 20.0, 15.0]])
    >>> found = evaluate_boxes(CocoResults(np.zeros(1, np.int64), *columns, (np.zeros((0, 3)),), ()), dataset)
    >>> round(found.overall.ap, 3), round(found.overall.ap75, 3), found.overall.ap_large  # IoU .75: six of ten thresholds
    (0.6, 1.0, None)
    """
    entries, invalid, has_box = [], list(predicted.invalid), predicted.has_box
    for row, entry in enumerate(results_as_coco(predicted, truth)):
        x, y, width, height = predicted.boxes_xywh[row].tolist()
        if has_box[row]:
            entries.append({**entry, "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0})
        else:
            invalid.append(result_finding(predicted, truth, row, UNUSABLE_BOX))
    evaluation = run_pycocotools(dataset_as_coco(truth), entries, "bbox")
    table = evaluation.eval
    categories: list[int] = [int(category) for category in evaluation.params.catIds]
    overall = BoxScores(*metrics_of(evaluation))
    by_category = {}
    for place, category in enumerate(categories):  # the axes are threshold, recall, category, area, detections
        own = slice(place, place + 1)
        evaluation.eval = {**table, "precision": table["precision"][:, :, own], "recall": table["recall"][:, own]}
        by_category[category] = BoxScores(*metrics_of(evaluation))
    names = [truth.category_name(category) for category in categories]
    curves, by_score = _box_curves(table, names), _by_score(evaluation, names)
    confusion = box_confusions(predicted, truth, threshold=shown_score(min_score, by_score[0]))
    return BoxEvaluation(
        truth, overall, by_category, curves, by_score, confusion, num_results=len(entries), invalid=tuple(invalid)
    )


def shown_score(min_score: float | None, curve: PrecisionRecall) -> float:
    """The score that is given, else that of the highest F1, else the usual one."""
    best = curve.best_f1()
    return min_score if min_score is not None else best.threshold if best else USUAL_SCORE


def best_as_dict(best: ThresholdChoice | None) -> dict[str, float | None]:
    """Return the threshold of the highest F1, and that F1, for JSON."""
    threshold, value = (best.threshold, best.value) if best else (None, None)
    return {"best_threshold": threshold, "best_f1": value}


def as_dicts(invalid: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the findings on results as plain values for JSON."""
    return [{"image_id": each.image_id, "reason": each.reason} for each in invalid]


def result_finding(predicted: CocoResults, dataset: CocoDataset, row: int, reason: str) -> Finding:
    image_id = int(dataset.images.ids[predicted.image_rows[row]])
    return Finding("", None, image_id, f"entry {predicted.places[row]} of the results: {reason}")


def dataset_as_coco(dataset: CocoDataset) -> dict[str, Any]:
    """Convert a dataset to pycocotools' form, with annotation ids from 1: pycocotools mistakes 0 for no match."""
    every = dataset.annotations
    columns = {
        "id": np.arange(1, len(every) + 1),
        "image_id": dataset.images.ids[every.image_rows],
        "category_id": every.category_ids,
        "bbox": every.boxes_xywh,
        "area": every.area,
        "iscrowd": every.iscrowd.astype(np.int64),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return {
        "images": [{"id": image_id} for image_id in dataset.images.ids.tolist()],
        "categories": [{"id": category} for category in dataset.category_ids],
        "annotations": [dict(zip(columns, row, strict=True)) for row in rows],
    }


def results_as_coco(predicted: CocoResults, dataset: CocoDataset) -> Iterator[dict[str, Any]]:
    """Yield the image, the category and the score of each result in COCO's form."""
    columns = (dataset.images.ids[predicted.image_rows], predicted.category_ids, predicted.scores)
    for image, category, score in zip(*(column.tolist() for column in columns), strict=True):
        yield {"image_id": image, "category_id": category, "score": score}


def run_pycocotools(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str, sigmas: ndarray | None = None
) -> COCOeval:
    """Evaluate results that have an area and a box, as ``COCO.loadRes`` makes them; ``loadRes`` fails on an empty list."""
    from pycocotools.coco import COCO  # noqa: PLC0415 - loaded only for an evaluation
    from pycocotools.cocoeval import COCOeval  # noqa: PLC0415

    objects, found = COCO(), COCO()
    objects.dataset = truth
    found.dataset = {**truth, "annotations": [{**entry, "id": number} for number, entry in enumerate(results, 1)]}
    for each in (objects, found):
        _silent(COCO.createIndex)(each)
    evaluation = COCOeval(objects, found, kind)
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = sigmas
    _silent(COCOeval.evaluate)(evaluation)
    _silent(COCOeval.accumulate)(evaluation)
    return evaluation


def metrics_of(evaluation: COCOeval) -> list[float | None]:
    """Summarise an evaluation by pycocotools, with None for metrics without objects."""
    _silent(type(evaluation).summarize)(evaluation)
    return [float(number) if number >= 0 else None for number in evaluation.stats]


def _silent(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of pycocotools that does not print; to redirect stdout would take what other threads print."""
    own_globals = {**function.__globals__, "print": lambda *_, **__: None}
    return FunctionType(function.__code__, own_globals, function.__name__, function.__defaults__)


def _box_curves(table: Mapping[str, Any], names: Sequence[str]) -> tuple[PrecisionRecall, ...]:
    """Curves of all categories that have instances, at each of ``IOUS``; then of each category at IoU .5."""
    precision, scores = (table[name][..., ALL_AREAS, MOST_DETECTIONS] for name in ("precision", "scores"))
    there = [number for number in range(len(names)) if precision[0, 0, number] >= 0]
    recall = np.asarray(table["params"].recThrs, np.float64)

    def curve(category: str, at: str, numbers: Sequence[int]) -> PrecisionRecall:
        own, reached = (table[IOUS[at]][:, :, numbers] for table in (precision, scores))
        mean = own.mean(axis=(0, 2))
        alone = own.shape[0] == own.shape[2] == 1  # pycocotools fills with 0 where no result reaches the recall
        least = np.where(mean > 0, reached[0, :, 0], np.nan) if alone else np.full(len(recall), np.nan)
        return PrecisionRecall(category, at, recall, mean, least)

    if not there:
        return ()
    alone = [curve(names[number], "IoU .50", [number]) for number in there] if len(names) > 1 else []
    return (*(curve("", at, there) for at in IOUS), *alone)


def _by_score(evaluation: COCOeval, names: Sequence[str]) -> tuple[PrecisionRecall, ...]:
    """Precision and recall at each score at IoU .5, over all categories, then for each that has instances or results.

    pycocotools matches in falling order of score, so that a threshold only leaves out the last matches.
    """
    num_images = len(evaluation.params.imgIds)
    per_category = num_images * len(evaluation.params.areaRng)  # the first area range is that of all objects
    tables = []
    for start in (number * per_category for number in range(len(names))):
        own = [each for each in evaluation.evalImgs[start : start + num_images] if each]  # None: nothing there
        num_truth = sum(int((~np.asarray(each["gtIgnore"], bool)).sum()) for each in own)
        columns = [[each["dtScores"], each["dtMatches"][0] > 0, each["dtIgnore"][0]] for each in own]
        tables.append((np.concatenate([np.zeros((3, 0)), *columns], axis=1), num_truth))

    def curve(category: str, table: Float64[ndarray, "3 n"], num_truth: int) -> PrecisionRecall:
        scores, found, _ = table[:, table[2] == 0]
        cuts = ScoreCuts.of([scores])
        return cuts.curve(cuts.totals(found), num_truth, category=category, at="IoU .50")

    every = np.concatenate([np.zeros((3, 0)), *(table for table, _ in tables)], axis=1)
    overall = curve("", every, sum(num_truth for _, num_truth in tables))
    alone = [curve(name, *own) for name, own in zip(names, tables, strict=True) if own[0].size or own[1]]
    return (overall, *alone) if len(names) > 1 else (overall,)
