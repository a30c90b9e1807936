"""Scores of results: evaluated, printed as tables, and written as ``metrics.json``, ``curves.csv`` and a page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from detect.cli import output
from detect.cli.detectors import ResultMarks, spread_evenly
from detect.cli.options import DatasetFiles
from detect.data import CocoDataset, CocoResults
from detect.data.images import open_image
from detect.errors import CocoError, ConfigError
from detect.evaluation.boxes import BoxEvaluation, evaluate_boxes
from detect.evaluation.coco_points import LandmarkEvaluation, evaluate_landmarks
from detect.evaluation.points import RADII_PX, RADIUS_PX, PointScores
from detect.evaluation.precision_recall import PrecisionRecall
from detect.keypoints.keypoints import CocoKeypoints
from detect.report.evaluation_page import Pictures, ScoreTable, evaluation_page, score_cell
from detect.report.pictures import contact_sheet, detection_picture

Evaluation = BoxEvaluation | LandmarkEvaluation

BOX_COLUMNS = (
    *("AP", "AP50", "AP75", "AP small", "AP medium", "AP large"),
    *("AR1", "AR10", "AR100", "AR small", "AR medium", "AR large"),
)
POINT_COLUMNS = ("F1", "precision", "recall", "AP", "error, px")
BOX_CAPTION = (
    "COCO's twelve numbers, by pycocotools: average precision (AP) and recall (AR) over IoU .50 to .95, AP50 and AP75 "
    "at that IoU, by the objects' area in the image, and AR with at most 1, 10 and 100 results per image."
)
POINT_CAPTION = (
    "Points are paired one to one within the radius. AP is over all scores, the error the mean distance of the pairs."
)
OKS_CAPTION = "COCO's average precision and recall by object keypoint similarity, by pycocotools."
SHEET_CAPTION = "Truth thin and white; results with a score of at least {:g} in the colour of their class."


def evaluate_results(
    predicted: CocoResults,
    dataset: CocoDataset,
    landmarks: CocoKeypoints | None,
    *,
    radii: Sequence[float] | None = None,
    threshold: float | None = None,
    **options: Any,
) -> Evaluation:
    """Scores of boxes, or of points if there are ``landmarks``; the options are those of :func:`evaluate_landmarks`.

    Raises:
        ConfigError: a threshold that is not finite, or that is given for boxes or beside a goal.
    """
    if landmarks is None:
        if threshold is not None:
            raise ConfigError("--threshold: only for landmarks; average precision takes all boxes")
        return evaluate_boxes(predicted, dataset)
    if threshold is not None and not math.isfinite(threshold):
        raise ConfigError(f"--threshold: expected a number, got {threshold}")
    return evaluate_landmarks(predicted, landmarks, radii=tuple(radii or RADII_PX), threshold=threshold, **options)


def choose_radius(radii: Sequence[float] | None) -> float:
    """The radius at which a threshold is chosen: the one that is given, else the default one."""
    return radii[0] if radii and len(radii) == 1 else RADIUS_PX


def check_invalid(evaluation: Evaluation, predicted: CocoResults, source: str, options: DatasetFiles) -> None:
    """List the invalid results if the options ask for it.

    Raises:
        CocoError: a result is invalid and the options are strict, or all results are invalid.
    """
    num_valid = len(predicted.scores) - len(evaluation.invalid) + len(predicted.invalid)
    for finding in evaluation.invalid:
        message = str(replace(finding, file=source))
        if options.strict or not num_valid:
            raise CocoError(message if options.strict else f"{message}; no other result is valid either")
        if options.findings:
            output.note(f"invalid: {message}")


def tables_of(evaluation: Evaluation) -> list[ScoreTable]:
    """Tables over all categories or keypoint types, and for each of them if there are several."""
    if isinstance(evaluation, BoxEvaluation):
        all_boxes = ScoreTable("Boxes", BOX_CAPTION, ("", *BOX_COLUMNS), (("all", *astuple(evaluation.overall)),))
        names = evaluation.dataset.category_name
        own = tuple((names(category), *astuple(scores)) for category, scores in evaluation.by_category.items())
        alone = ScoreTable("By category", "The same for each category.", ("category", *BOX_COLUMNS), own)
        return [all_boxes, alone] if len(own) > 1 else [all_boxes]
    rows = tuple((f"{scores.radius:g} px", *_point_row(scores)) for scores in evaluation.overall)
    tables = [ScoreTable("Points", POINT_CAPTION, ("within", *POINT_COLUMNS), rows), _count_table(evaluation)]
    if len(evaluation.by_type) > 1:
        own = tuple(
            (f"{name}, {scores.radius:g} px", *_point_row(scores))
            for name, each in evaluation.by_type.items()
            for scores in each
        )
        tables.append(ScoreTable("By landmark", "The same for each keypoint type.", ("landmark", *POINT_COLUMNS), own))
    if evaluation.oks:
        scores = evaluation.oks.to_dict()
        tables.append(ScoreTable("OKS", OKS_CAPTION, ("", *scores), (("all", *scores.values()),)))
    return tables


def _point_row(scores: PointScores) -> tuple[float | None, ...]:
    rates, error = scores.micro, scores.error
    return rates.f1, rates.precision, rates.recall, scores.mean_average_precision, None if error is None else error.mean


def _count_table(evaluation: LandmarkEvaluation) -> ScoreTable:
    scores = evaluation.overall[0]
    kept = "all results" if scores.threshold is None else f"results of score {scores.threshold:.4g} or more"
    columns = ("counts", "mean error", "root mean square", "bias", "presence AUC")
    row = (kept, *astuple(scores.count), scores.presence_auc)
    return ScoreTable("Counts", "Predicted minus true number of points per image.", columns, (row,))


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the findings, the counts and the tables."""
    output.print_findings(_dataset(evaluation), console)
    output.print_first("invalid results", evaluation.invalid, console)
    console.print(", ".join(f"{count:,} {name}" for name, count in _counts(evaluation).items()))
    for scores in tables_of(evaluation):
        shown = output.table(*scores.columns)
        for row in scores.rows:
            shown.add_row(*(output.plain(score_cell(value)) for value in row))
        console.print(shown)


def files_of(
    evaluation: Evaluation, marks: ResultMarks, *, name: str, images: Path | None, num_pictures: int
) -> dict[str, str | bytes]:
    """``metrics.json``, ``curves.csv`` and ``report.html``, with pictures if there are images."""
    metrics = {"source": name, "files": list(_dataset(evaluation).files), **evaluation.to_dict()}
    sheet = None
    if images is not None and num_pictures and len(marks.dataset.images):
        sheet = Pictures(SHEET_CAPTION.format(marks.min_score), _sheet(marks, images, num_pictures))
    return {
        "metrics.json": json.dumps(metrics, indent=2, allow_nan=False) + "\n",
        "curves.csv": _curves_csv(evaluation.curves),
        "report.html": _page(evaluation, name, sheet),
    }


def _page(evaluation: Evaluation, name: str, sheet: Pictures | None) -> str:
    invalid = evaluation.invalid
    return evaluation_page(
        "Evaluation",
        name,
        read_from=_dataset(evaluation).files,
        counts=_counts(evaluation),
        tables=tables_of(evaluation),
        curves=evaluation.curves,
        pictures=sheet,
        notes=[f"{len(invalid):,} invalid results, the first: {invalid[0]}"] if invalid else [],
    )


def _sheet(marks: ResultMarks, folder: Path, count: int) -> bytes:
    """Images with annotations, evenly spread over the dataset, as PNG."""
    rows = np.unique(marks.dataset.annotations.image_rows)
    pictures = []
    for row in spread_evenly(rows if len(rows) else np.arange(len(marks.dataset.images)), count):
        image = open_image(folder, marks.dataset.images.file_names[row])
        pictures.append(detection_picture(image, marks.predicted(row), marks.truth(row)))
    stream = io.BytesIO()
    contact_sheet(pictures, columns=3).save(stream, "PNG")
    return stream.getvalue()


def _curves_csv(curves: Sequence[PrecisionRecall]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["category", "at", "recall", "precision", "score"])
    for curve in curves:
        columns = (curve.recall.tolist(), curve.precision.tolist(), curve.scores.tolist())
        for recall, precision, score in zip(*columns, strict=True):
            writer.writerow([curve.category, curve.at, recall, precision, "" if np.isnan(score) else score])
    return text.getvalue()


def _counts(evaluation: Evaluation) -> dict[str, int]:
    dataset = _dataset(evaluation)
    counts = {
        "images": len(dataset.images),
        "categories": len(dataset.categories),
        "instances": len(dataset.instances),
        "crowd regions": len(dataset.crowd),
        "results": evaluation.num_results,
        "invalid results": len(evaluation.invalid),
    }
    ignored = {} if isinstance(evaluation, BoxEvaluation) else {"in ignored regions": evaluation.num_ignored}
    return counts | ignored


def _dataset(evaluation: Evaluation) -> CocoDataset:
    return evaluation.dataset if isinstance(evaluation, BoxEvaluation) else evaluation.landmarks.dataset
