"""Evaluations for people and for machines: tables, ``metrics.json``, ``curves.csv`` and the report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from detect.cli import output
from detect.cli.detection_marks import Drawer
from detect.data import CocoDataset
from detect.data.images import open_image
from detect.evaluation.boxes import BoxEvaluation
from detect.evaluation.coco_points import LandmarkEvaluation
from detect.evaluation.points import PointScores
from detect.evaluation.precision_recall import PrecisionRecall
from detect.report.evaluation_page import Curve, CurvePanel, Pictures, ScoreTable, evaluation_page, score_cell
from detect.report.pictures import contact_sheet, detection_picture

Evaluation = BoxEvaluation | LandmarkEvaluation

BOX_COLUMNS = (
    *("AP", "AP50", "AP75", "AP small", "AP medium", "AP large"),
    *("AR1", "AR10", "AR100", "AR small", "AR medium", "AR large"),
)
POINT_COLUMNS = ("F1", "precision", "recall", "AP", "error, px")
BOX_CAPTION = (
    "COCO's twelve numbers, by pycocotools: average precision (AP) and recall (AR) over IoU .50 to .95, AP50 and AP75 "
    "at that IoU, by the area of the objects in their images, and AR with at most 1, 10 and 100 results of an image."
)
POINT_CAPTION = (
    "Points are paired one to one within the radius; AP is over all scores, the error the mean distance of pairs."
)
CURVE_CAPTION = "Precision at each recall, as the score that results need falls."
SHEET_CAPTION = (
    "What is there, thin and white; what was found with a score of at least {least:g}, in the colour of its class."
)


@dataclass(frozen=True)
class Source:
    """What was evaluated: a detector or a results file, and where the images are, if they are to be seen."""

    name: str
    images: Path | None
    num_pictures: int
    least_score: float


def tables_of(evaluation: Evaluation) -> list[ScoreTable]:
    """Scores of all together, then of each category or landmark type where there are several."""
    if isinstance(evaluation, BoxEvaluation):
        all_boxes = ScoreTable("Boxes", BOX_CAPTION, ("", *BOX_COLUMNS), (("all", *astuple(evaluation.overall)),))
        names = evaluation.dataset.category_name
        own = tuple((names(category), *astuple(scores)) for category, scores in evaluation.by_category.items())
        alone = ScoreTable("By category", "The same of each category.", ("category", *BOX_COLUMNS), own)
        return [all_boxes, alone] if len(own) > 1 else [all_boxes]
    rows = tuple((f"{scores.radius:g} px", *_point_row(scores)) for scores in evaluation.overall)
    tables = [ScoreTable("Points", POINT_CAPTION, ("within", *POINT_COLUMNS), rows), _count_table(evaluation)]
    if len(evaluation.by_type) > 1:
        own = tuple(
            (f"{name}, {scores.radius:g} px", *_point_row(scores))
            for name, each in evaluation.by_type.items()
            for scores in each
        )
        tables.append(ScoreTable("By landmark", "The same of each type.", ("landmark", *POINT_COLUMNS), own))
    return tables


def _point_row(scores: PointScores) -> tuple[float | None, ...]:
    rates, error = scores.micro, scores.error
    return rates.f1, rates.precision, rates.recall, scores.mean_average_precision, None if error is None else error.mean


def _count_table(evaluation: LandmarkEvaluation) -> ScoreTable:
    scores = evaluation.overall[0]
    kept = "all results" if scores.threshold is None else f"results of score {scores.threshold:g} or more"
    columns = ("counts", "mean error", "root mean square", "bias", "presence AUC")
    row = (kept, *astuple(scores.count), scores.presence_auc)
    return ScoreTable("Counts", "Found minus true number of points of an image.", columns, (row,))


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """What was scored, tables, and what was refused."""
    output.print_findings(_dataset(evaluation), console)
    invalid = evaluation.invalid
    if invalid:
        console.print(f"{len(invalid):,} results refused:", style="yellow")
        for finding in invalid[: output.SHOWN_FINDINGS]:
            console.print(f"  {finding}", markup=False, soft_wrap=True)
        if len(invalid) > output.SHOWN_FINDINGS:
            console.print(f"  and {len(invalid) - output.SHOWN_FINDINGS:,} more")
    counts = ", ".join(f"{count:,} {name}" for name, count in _counts(evaluation).items())
    console.print(counts)
    for scores in tables_of(evaluation):
        shown = output.table(*scores.columns)
        for row in scores.rows:
            shown.add_row(*(output.plain(score_cell(value)) for value in row))
        console.print(shown)


def files_of(evaluation: Evaluation, source: Source, drawer: Drawer) -> dict[str, str | bytes]:
    """``metrics.json``, ``curves.csv`` and ``report.html``."""
    metrics = {"source": source.name, "files": list(_dataset(evaluation).files), **evaluation.to_dict()}
    return {
        "metrics.json": json.dumps(metrics, indent=2, allow_nan=False) + "\n",
        "curves.csv": _curves_csv(evaluation.curves),
        "report.html": _page(evaluation, source, drawer),
    }


def _page(evaluation: Evaluation, source: Source, drawer: Drawer) -> str:
    dataset = _dataset(evaluation)
    sheet = None
    if source.images is not None and source.num_pictures and len(dataset.images):
        sheet = Pictures(SHEET_CAPTION.format(least=source.least_score), _sheet(dataset, source, drawer))
    notes = (
        [f"{len(evaluation.invalid):,} results refused, such as: {evaluation.invalid[0]}"] if evaluation.invalid else []
    )
    return evaluation_page(
        "Evaluation",
        f"Of {source.name}",
        read_from=dataset.files,
        counts=_counts(evaluation),
        tables=tables_of(evaluation),
        curves=_curve_panels(evaluation.curves),
        pictures=sheet,
        notes=notes,
    )


def _curve_panels(curves: Sequence[PrecisionRecall]) -> list[CurvePanel]:
    every = [each for each in curves if not each.category]
    panels = [CurvePanel("All together", CURVE_CAPTION, tuple(_curve(each, each.at) for each in every))]
    own = [each for each in curves if each.category]
    for at in dict.fromkeys(each.at for each in own):
        lines = tuple(_curve(each, each.category) for each in own if each.at == at)
        panels.append(CurvePanel(f"Each, {at}", CURVE_CAPTION, lines))
    return panels


def _curve(curve: PrecisionRecall, name: str) -> Curve:
    return Curve(name, curve.recall, curve.precision, curve.scores)


def _sheet(dataset: CocoDataset, source: Source, drawer: Drawer) -> bytes:
    """Images with annotations, evenly spread over the dataset."""
    rows = np.unique(dataset.annotations.image_rows)
    rows = rows if len(rows) else np.arange(len(dataset.images))
    chosen = rows[np.linspace(0, len(rows) - 1, min(source.num_pictures, len(rows))).round().astype(int)]
    pictures = []
    for row in chosen.tolist():
        image = open_image(source.images or Path(), dataset.images.file_names[row])
        pictures.append(detection_picture(image, drawer.found(row), drawer.truth(row)))
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
    return {
        "images": len(dataset.images),
        "categories": len(dataset.categories),
        "instances": len(dataset.instances),
        "crowd regions": len(dataset.crowd),
        "results": evaluation.num_results,
        "refused results": len(evaluation.invalid),
    }


def _dataset(evaluation: Evaluation) -> CocoDataset:
    return evaluation.dataset if isinstance(evaluation, BoxEvaluation) else evaluation.landmarks.dataset
