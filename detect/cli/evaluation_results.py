"""Scores of results and of oracles: computed, printed as tables, as JSON objects, as files and pages."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

import numpy as np

from detect.cli.detectors import ResultMarks, spread_evenly
from detect.cli.options import DatasetFiles
from detect.cli.output import note, print_findings, print_first, reading_bar, show, show_table
from detect.data import CocoDataset, CocoResults
from detect.data.images import ImageFiles
from detect.errors import CocoError, ConfigError
from detect.evaluation.boxes import BoxEvaluation, evaluate_boxes
from detect.evaluation.coco_points import LandmarkEvaluation, evaluate_landmarks
from detect.evaluation.confusion import ConfusionMatrix
from detect.evaluation.oracle import GOOD_F1, OracleScores, coarsest_good, oracle_round_trip
from detect.evaluation.points import RADII_PX, RADIUS_PX, PointScores
from detect.evaluation.precision_recall import PrecisionRecall
from detect.keypoints.coco_keypoints import CocoKeypoints
from detect.keypoints.orientations import NO_ORIENTATION
from detect.report.evaluation_page import ScoreTable, evaluation_page, score_cell
from detect.report.oracle_page import oracle_cells
from detect.report.pictures import contact_sheet, detection_picture
from detect.report.plots import Panel
from detect.text_formats import csv_text
from detect.wording import by_nouns, listed, plural

Evaluation = BoxEvaluation | LandmarkEvaluation

BOX_COLUMNS = (
    *("AP", "AP50", "AP75", "AP small", "AP medium", "AP large"),
    *("AR1", "AR10", "AR100", "AR small", "AR medium", "AR large"),
)
COUNT_COLUMNS = ("counts", "mean error", "root mean square", "bias", "presence AUC")
POINT_COLUMNS = ("F1", "precision", "recall", "AP")
ANGLE_COLUMNS = ("angle error, deg", "median")
BOX_CAPTION = (
    "COCO's twelve numbers, by pycocotools: average precision (AP) and recall (AR) over IoU .50 to .95, AP50 and AP75 "
    "at that IoU, by the objects' area in the image, and AR with at most 1, 10 and 100 results per image."
)
POINT_CAPTION = (
    "Points are paired one to one within the radius. AP is over the scores of all results, the error the mean distance of "
    "the pairs."
)
COUNT_CAPTION = "Predicted minus true number of points of an image and keypoint type."
ANGLE_CAPTION = " The angle errors are the mean and the median over the pairs."

BEST_COLUMNS = ("score threshold", "F1", "precision", "recall")
BEST_CAPTION = "The score threshold with the highest F1 on these images, {at}."
MAX_PRINTED = 10  # names of a confusion matrix; a wider one is on the page
OKS_CAPTION = (
    "COCO's average precision and recall by object keypoint similarity, by pycocotools: of an image, 20 results count."
)
SHEET_CAPTION = (
    "Truth thin, white with dark edges; results with a score of at least {:.3g} in the colour of their class."
)


def evaluate_results(
    predicted: CocoResults,
    dataset: CocoDataset,
    landmarks: CocoKeypoints | None,
    *,
    radii: Sequence[float] | None = None,
    threshold: float | None = None,
    min_score: float | None = None,
    **options: Any,
) -> Evaluation:
    """Scores of boxes, or of points if there are ``landmarks``; ``options`` go to :func:`evaluate_landmarks`."""
    if landmarks is None:
        if threshold is not None:
            raise ConfigError("--threshold: only for landmarks; average precision takes all boxes")
        return evaluate_boxes(predicted, dataset, min_score=min_score)
    check_threshold(threshold)
    options |= {"radii": tuple(radii or RADII_PX), "threshold": threshold, "min_score": min_score}
    return evaluate_landmarks(predicted, landmarks, **options)


def check_threshold(threshold: float | None) -> None:
    """Raise ConfigError if a threshold is given that is no number."""
    if threshold is not None and not math.isfinite(threshold):
        raise ConfigError(f"--threshold: expected a number, got {threshold}")


def choose_radius(radii: Sequence[float] | None) -> float:
    """The radius at which a threshold is chosen: the one that is given, else the default one."""
    return radii[0] if radii and len(radii) == 1 else RADIUS_PX


def check_invalid(evaluation: Evaluation, predicted: CocoResults, source: str, options: DatasetFiles) -> Evaluation:
    """The evaluation with the file of each invalid result. The options may ask for a list of these.

    With strict options, or if all results are invalid, one is an error.
    """
    invalid = tuple(replace(finding, file=source) for finding in evaluation.invalid)
    num_valid = len(predicted.scores) - len(invalid) + len(predicted.invalid)
    for finding in invalid:
        if options.strict or not num_valid:
            raise CocoError(str(finding) if options.strict else f"{finding}; no other result is valid either")
        if options.findings:
            note(f"invalid: {finding}")
    return replace(evaluation, invalid=invalid)


def tables_of(evaluation: Evaluation) -> list[ScoreTable]:
    """Tables over all categories or keypoint types, and for each of them if there are several."""
    if isinstance(evaluation, BoxEvaluation):
        names = evaluation.dataset.category_name
        own = tuple((names(category), *astuple(scores)) for category, scores in evaluation.by_category.items())
        tables = [ScoreTable("Boxes", BOX_CAPTION, ("", *BOX_COLUMNS), (("all", *astuple(evaluation.overall)),))]
        if len(own) > 1:
            tables.append(ScoreTable("By category", "The same for each category.", ("category", *BOX_COLUMNS), own))
        return [*tables, _best_scores(evaluation)]
    oriented = evaluation.landmarks.orientation != NO_ORIENTATION
    tables = point_tables(evaluation.overall, evaluation.by_type, _best_scores(evaluation), oriented=oriented)
    if evaluation.oks:
        scores = asdict(evaluation.oks)
        tables.append(
            ScoreTable("OKS", OKS_CAPTION, ("OKS, 20 results an image", *scores), (("all", *scores.values()),))
        )
    return tables


def point_tables(
    overall: Sequence[PointScores],
    by_type: Mapping[str, Sequence[PointScores]],
    best: ScoreTable,
    *,
    unit: str = "px",
    oriented: bool = False,
) -> list[ScoreTable]:
    """Tables of scores at each radius, of counts, of the best thresholds, and of single types if there are several."""
    first, caption = overall[0], POINT_CAPTION + (ANGLE_CAPTION if oriented else "")
    columns = (*POINT_COLUMNS, f"error, {unit}", *(ANGLE_COLUMNS if oriented else ()))
    options: dict[str, Any] = {"unit": unit, "oriented": oriented}
    rows = tuple(_point_row(scores, **options) for scores in overall)
    kept = "all results" if first.threshold is None else f"results of score {first.threshold:.4g} or more"
    count_row = (kept, *astuple(first.count), first.presence_auc)
    tables = [
        ScoreTable("Points", caption, ("within", *columns), rows),
        ScoreTable("Counts", COUNT_CAPTION, COUNT_COLUMNS, (count_row,)),
        best,
    ]
    if len(by_type) > 1:
        own = tuple(_point_row(scores, f"{name}, ", **options) for name, each in by_type.items() for scores in each)
        tables.append(ScoreTable("By landmark", "The same for each keypoint type.", ("landmark", *columns), own))
    return tables


def _best_scores(evaluation: Evaluation) -> ScoreTable:
    return best_scores(evaluation.by_score, evaluation.confusion.threshold)


def best_scores(by_score: Sequence[PrecisionRecall], shown: float | None = None) -> ScoreTable:
    """The threshold of the highest F1, over all categories and for each, and what that of the confusions, if any, gives."""
    rows = [(curve.category or "all, best", curve, curve.best_f1()) for curve in by_score]
    thresholds = [(name, curve, best.threshold if best else None) for name, curve, best in rows]
    if shown is not None and thresholds[0][2] != shown:
        thresholds.insert(1, ("all, confusion matrix", by_score[0], shown))
    at = by_score[0].at
    cells = tuple((name, threshold, *_rates_at(curve, threshold)) for name, curve, threshold in thresholds)
    return ScoreTable("Score thresholds", BEST_CAPTION.format(at=at), (at, *BEST_COLUMNS), cells)


def _rates_at(curve: PrecisionRecall, threshold: float | None) -> tuple[float | None, ...]:
    """F1, precision and recall of the results of a score or more; None without results."""
    kept = 0 if threshold is None else int((curve.scores >= threshold).sum())
    columns = (curve.f1, curve.precision, curve.recall)
    return tuple(float(column[kept - 1]) if kept else None for column in columns)


def _confusion_rows(confusion: ConfusionMatrix) -> ScoreTable:
    rows = zip(confusion.names, confusion.counts.tolist(), strict=True)
    return ScoreTable(
        "", "", ("true, predicted as:", *confusion.names), tuple((name, *counts) for name, counts in rows)
    )


def _point_row(scores: PointScores, name: str = "", *, unit: str, oriented: bool) -> tuple[str | float | None, ...]:
    rates, error = scores.micro, None if scores.error is None else scores.error.mean
    averages = (rates.f1, rates.precision, rates.recall, scores.mean_average_precision)
    angles = (None, None) if scores.angle is None else (scores.angle.mean, scores.angle.median)
    return (f"{name}{scores.radius:g} {unit}", *averages, error, *(angles if oriented else ()))


def print_evaluation(evaluation: Evaluation, tables: Sequence[ScoreTable] = (), lines: Sequence[str] = ()) -> None:
    """Print the findings, the counts, the tables, by default those of the evaluation, and lines below them."""
    print_findings(_dataset(evaluation))
    print_first("invalid among the results", evaluation.invalid)
    show(", ".join(f"{count:,} {name}" for name, count in _counts(evaluation).items()))
    few = len(evaluation.confusion.names) <= MAX_PRINTED
    print_tables([*(tables or tables_of(evaluation)), *([_confusion_rows(evaluation.confusion)] if few else [])])
    for line in lines:
        show(line, style="dim")


def print_tables(tables: Sequence[ScoreTable]) -> None:
    for scores in tables:
        show_table(scores.columns, ([score_cell(value) for value in row] for row in scores.rows))


def files_of(
    evaluation: Evaluation,
    marks: ResultMarks,
    *,
    name: str,
    images: Path | None,
    num_pictures: int,
    tables: Sequence[ScoreTable] = (),
    metrics: Mapping[str, Any] | None = None,
    counts_by_image: Sequence[Panel] = (),
) -> dict[str, str | bytes]:
    """``metrics.json``, ``curves.csv`` and ``report.html``, with pictures if there are images."""
    invalid, files = evaluation.invalid, _dataset(evaluation).files
    metrics = {"source": name, "files": list(files), **(metrics or evaluation.to_dict())}
    pictures = None
    if images is not None and num_pictures and len(marks.dataset.images):
        pictures = SHEET_CAPTION.format(marks.min_score), _sheet(marks, images, num_pictures)
    notes = [f"{plural(len(invalid), 'invalid result')}, the first: {invalid[0]}"] if invalid else []
    content: dict[str, Any] = {
        "counts": _counts(evaluation),
        "tables": tables or tables_of(evaluation),
        "pictures": pictures,
    }
    content |= {"curves": evaluation.curves, "by_score": evaluation.by_score, "confusion": evaluation.confusion}
    content["counts_by_image"] = counts_by_image
    page = evaluation_page("Evaluation", name, read_from=files, notes=notes, **content)
    return {
        "metrics.json": json.dumps(metrics, indent=2, allow_nan=False) + "\n",
        "curves.csv": _curves_csv(evaluation.curves, "recall", "precision", "scores"),
        "scores.csv": _curves_csv(evaluation.by_score, "scores", "precision", "recall", "f1"),
        "report.html": page,
    }


def _curves_csv(curves: Sequence[PrecisionRecall], *columns: str) -> str:
    rows = (
        [curve.category, curve.at, *("" if np.isnan(value) else value for value in values)]
        for curve in curves
        for values in np.stack([getattr(curve, name) for name in columns], axis=1).tolist()
    )
    return csv_text(["category", "at", *(name.replace("scores", "score") for name in columns)], rows)


def _sheet(marks: ResultMarks, folder: Path, count: int) -> bytes:
    """Images with annotations, evenly spread over the dataset, as PNG."""
    rows, names = np.unique(marks.dataset.annotations.image_rows), marks.dataset.images.file_names
    shown = spread_evenly(rows if len(rows) else np.arange(len(names)), count)
    images = ImageFiles(marks.dataset, folder)
    drawn = (detection_picture(images.open(row), marks.predicted(row), marks.truth(row)) for row in shown)
    stream = io.BytesIO()
    contact_sheet(list(drawn), columns=3).save(stream, "PNG")
    return stream.getvalue()


def _counts(evaluation: Evaluation) -> dict[str, int]:
    dataset = _dataset(evaluation)
    counts = {"image": len(dataset.images), "category": len(dataset.categories), "instance": len(dataset.instances)}
    counts |= {"crowd region": len(dataset.crowd), "result": evaluation.num_results}
    counts["invalid result"] = len(evaluation.invalid)
    named = by_nouns(counts)
    return named if isinstance(evaluation, BoxEvaluation) else named | {"in ignored regions": evaluation.num_ignored}


def _dataset(evaluation: Evaluation) -> CocoDataset:
    return evaluation.dataset if isinstance(evaluation, BoxEvaluation) else evaluation.landmarks.dataset


def round_trips(
    landmarks: CocoKeypoints, strides: Sequence[float], sigmas: Sequence[float], **options: Any
) -> list[OracleScores]:
    """Scores for each stride and sigma; ``options`` go to :func:`oracle_round_trip`."""
    settings = [(stride, sigma) for stride in strides for sigma in sigmas]
    num_images = len(landmarks.dataset.images)
    scores: list[OracleScores] = []
    with reading_bar() as on_progress:

        def advance(num_done: int) -> None:
            on_progress("drawing and finding", len(scores) * num_images + num_done, len(settings) * num_images)

        for stride, sigma in settings:
            scores.append(oracle_round_trip(landmarks, stride=stride, sigma=sigma, on_progress=advance, **options))
    return scores


def print_oracle(scores: Sequence[OracleScores], landmarks: CocoKeypoints) -> None:
    """Print one row for each stride and sigma, with the recommended one marked."""
    print_findings(landmarks.dataset)
    best, first = coarsest_good(scores), scores[0].scores
    counts = ("merged", "farther", "same cell", "outside")
    headers = ("stride", "sigma", "F1", "precision", "recall", "error px", *counts, "")
    show_table(headers, ([*oracle_cells(each), "<- coarsest good one" if each is best else ""] for each in scores))
    by_type = listed((f"{count:,} of {name}" for name, count in landmarks.count_by_type().items()), most=6)
    points = plural(first.num_truth, "point") + (f" ({by_type})" if len(landmarks.type_names) > 1 else "")
    show(
        f"{points}, found within {first.radius:g} px by a perfect network; merged: points without a peak of their own; "
        "farther: points whose own peak is farther than that",
        style="dim",
    )
    if best is None:
        note(
            f"warning: no setting reaches an F1 of {GOOD_F1:g}, even with perfectly learned targets; "
            "try a finer stride or another sigma"
        )


def oracle_object(scores: Sequence[OracleScores], landmarks: CocoKeypoints) -> dict[str, Any]:
    """The scores as a JSON object."""
    best = coarsest_good(scores)
    own = ("stride", "sigma", "merged", "farther", "same_cell", "outside")
    rows = [{name: getattr(each, name) for name in own} | each.scores.to_dict() for each in scores]
    points = landmarks.count_by_type()
    return {"points": points, "settings": rows, "coarsest_good": best and {"stride": best.stride, "sigma": best.sigma}}
