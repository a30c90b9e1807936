"""Calibrated counts: learned where the points are known, kept as ``counts.json``, applied to what a detector finds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.cli.detectors import ResultMarks
from detect.cli.output import json_text, note, save, show, show_table
from detect.data import CocoDataset, CocoResults
from detect.data.coco_dataset import image_sources
from detect.errors import ConfigError, FitError, OutputError
from detect.evaluation.coco_points import F1_RADIUS_PX, UNLABELLED_IN_SCORES, point_results
from detect.evaluation.count_intervals import MIN_OF_EACH, CountCalibration, KnownCounts
from detect.evaluation.count_reliability import CountReliability, cross_validate_counts
from detect.evaluation.false_positives import false_positives
from detect.files import is_folder, read_small_text
from detect.keypoints.keypoints import by_group, is_predicted
from detect.loading.labels import LabelMap
from detect.report.count_figures import count_panel
from detect.report.evaluation_page import ScoreRow, ScoreTable
from detect.report.plots import Panel
from detect.text_formats import csv_text
from detect.training.checkpoints import TrainedDetector
from detect.wording import plural

COUNT_FILE = "counts.json"
FORMAT = 1
MAX_PRINTED = 20  # rows of images
CountRow = tuple[str, str, int, int, int, float | str]  # image, keypoint type, count, low, high, presence

COUNT_COLUMNS = ("calibrated counts", "images", "counted", "true", "covered", "width")
COUNT_CAPTION = (
    "Mean counted and true points of an image, and the share of images whose true count is in the {:.0%} interval. Each "
    "tenth of the images is predicted by a calibration on the others. An image without points in which none is found is "
    "always covered."
)
PRESENCE_COLUMNS = ("has a point", "images", "probability", "share", "Brier score", "AUC")
PRESENCE_CAPTION = (
    "The probability that an image has a point, calibrated and tested likewise, and the share that has one."
)
RATE_COLUMNS = ("false positives", "number", "mm²", "per mm²", "at least", "at most")
RATE_CAPTION = (
    "Predicted points without a true one within 5 px, outside ignored regions, by the area of the images outside these "
    "regions; images without true points count whole. The {:.0%} interval takes them to be independent."
)


@dataclass(frozen=True, eq=False)
class CountReport:
    """Calibrations of an evaluation by keypoint type, and how well such ones predict images that they were not made on."""

    calibrations: dict[str, CountCalibration]
    reliability: dict[str, CountReliability]
    tables: list[ScoreTable]
    content: dict[str, Any]

    @classmethod
    def of(
        cls, marks: ResultMarks, *, empty: str, microns_per_pixel: float | None, threshold: float | None, **how: Any
    ) -> CountReport:
        """Calibrate on the results of images with known points; where these do not allow it, a line says why.

        ``how`` are ``unlabelled`` and ``confidence``; the threshold is for false positives alone.
        """
        calibrations, reliability = _calibrated(marks, empty=empty, **how)
        tables = [table for name, own in reliability.items() for table in _tables(name, own)]
        content: dict[str, Any] = {}
        if reliability:
            content["counts"] = {name: own.to_dict() for name, own in reliability.items()}
        if microns_per_pixel is not None:
            found = _false_positives(marks, microns_per_pixel=microns_per_pixel, threshold=threshold, **how)
            content["false_positives"] = found
            cells = [(name, tuple(rate.values()) if rate else (None,) * 5) for name, rate in found.items()]
            rows = ((name.replace("_", " "), *own) for name, own in cells)
            caption = RATE_CAPTION.format(how["confidence"])
            tables.append(ScoreTable("False positives by area", caption, RATE_COLUMNS, tuple(rows)))
        return cls(calibrations, reliability, tables, content)

    def lines(self) -> list[str]:
        """A sentence on the counts of each keypoint type, and one on presence if it could not be calibrated."""
        lines = []
        for name, own in self.reliability.items():
            slope = "" if own.slope is None else f", slope of true over counted {own.slope:.2f}"
            share = f"hold {own.covered.mean():.1%} of {plural(len(own.truth), 'image')}"
            lines.append(f"{name}: {own.confidence:.0%} intervals {share}, each predicted from others{slope}")
            if own.presence() is None:
                lines.append(
                    f"{name}: no probability of presence; it takes {MIN_OF_EACH} images with points and as many without"
                )
        return lines

    def panels(self) -> list[Panel]:
        """The figures of each keypoint type."""
        every = enumerate(self.reliability.items())
        return [count_panel(f"counts-{number}", *own) for number, own in every]

    def files(self, trained: TrainedDetector, marks: ResultMarks, reading: str | None) -> dict[str, str | bytes]:
        """``counts.json``: the calibrations, the images they were made on, and the checkpoint they belong to; or nothing."""
        if not self.calibrations:
            return {}
        made_on = f"{plural(len(marks.dataset.images), 'image')} of {', '.join(marks.dataset.files)}"
        own = {name: asdict(calibration) for name, calibration in self.calibrations.items()}
        key = {"format": FORMAT, "made_on": made_on, "checkpoint": _digest(trained), "reading": reading}
        content = {**key, "types": own}
        return {COUNT_FILE: json_text(content, indent=2) + "\n"}


def reading_of(tiles: str | None, *, turned: bool) -> str | None:
    """The options that change what is found in an image; None without any."""
    words = [f"--slice {tiles}"] if tiles else []
    return " ".join([*words, "--turns"] if turned else words) or None


def keep_counts(trained: TrainedDetector, files: dict[str, str | bytes]) -> None:
    """Write the files beside the checkpoint; where that cannot be written, a line says so."""
    try:
        save(Path(trained.name).parent, files)
    except OutputError as error:
        note(f"warning: {error}: the run does not keep its counts")


def _calibrated(
    marks: ResultMarks, *, empty: str, unlabelled: str, confidence: float
) -> tuple[dict[str, CountCalibration], dict[str, CountReliability]]:
    calibrations: dict[str, CountCalibration] = {}
    reliability: dict[str, CountReliability] = {}
    if marks.landmarks is None:
        return calibrations, reliability
    points = point_results(marks.results, marks.landmarks, radius=F1_RADIUS_PX, unlabelled=unlabelled)
    sources = image_sources(marks.dataset)
    for number, name in enumerate(marks.landmarks.type_names):
        own = points.of_type(number)
        try:
            known = KnownCounts.of(own.scores, np.array([len(each) for each in own.truth], np.int64), sources)
            reliability[name] = cross_validate_counts(known, confidence=confidence, empty=empty)
            calibrations[name] = CountCalibration.fit(known, empty=empty)
        except (FitError, ValueError) as error:
            note(f"no intervals of counts of {name}: {error}")
    return calibrations, reliability


def _tables(name: str, own: CountReliability) -> Iterator[ScoreTable]:
    """Counted beside true points, and the scores of presence."""
    rows: tuple[ScoreRow, ...] = tuple(tuple(asdict(part).values()) for part in own.bins())
    yield ScoreTable(f"Counts of {name}", COUNT_CAPTION.format(own.confidence), COUNT_COLUMNS, rows)
    if scores := own.presence():
        rows = (("all", len(own.truth), None, None, scores.brier, scores.auc),)
        for number, (given, share, num_images) in enumerate(scores.bins, 1):
            rows += ((f"quarter {number}", num_images, given, share, None, None),)
        yield ScoreTable(f"Presence of {name}", PRESENCE_CAPTION, PRESENCE_COLUMNS, rows)


def _false_positives(marks: ResultMarks, *, unlabelled: str, **how: Any) -> dict[str, Any]:
    if marks.landmarks is None:
        raise ConfigError("--microns-per-pixel: only for landmarks")
    points = point_results(marks.results, marks.landmarks, radius=F1_RADIUS_PX, unlabelled=unlabelled)
    regions = marks.landmarks.ignored_regions(UNLABELLED_IN_SCORES[unlabelled])
    return asdict(false_positives(points, marks.landmarks, regions, **how))


def _digest(trained: TrainedDetector) -> str:
    return hashlib.sha256(Path(trained.name).read_bytes()).hexdigest()


@dataclass(frozen=True)
class SavedCounts:
    """The calibrations of a ``counts.json`` by keypoint type, and the images that they were made on."""

    made_on: str
    types: dict[str, CountCalibration]

    @classmethod
    def find(
        cls, trained: TrainedDetector, path: Path | None, reading: str | None, *, confidence: float
    ) -> SavedCounts | None:
        """Those of a file or folder, or else of the run; None for boxes and, with a line that says why, for such a run.

        Raises:
            ConfigError: the given file cannot be read, or belongs to another checkpoint or another reading.
            FitError: a calibration has too few images for the confidence.
        """
        if trained.task != "landmarks":
            if path is not None:
                raise ConfigError(f"--counts: only for landmarks, {trained.name} finds boxes")
            return None
        file = Path(trained.name).parent if path is None else path
        file = file / COUNT_FILE if is_folder(file) else file
        try:
            saved = _read_counts(file, trained, reading)
        except ConfigError as error:
            if path is not None:
                raise
            note(f"no intervals of counts: {error}; detect evaluate --run {trained.name} calibrates them")
            return None
        for calibration in saved.types.values():
            calibration.quantile(confidence)
        return saved


def _read_counts(file: Path, trained: TrainedDetector, reading: str | None) -> SavedCounts:
    text = read_small_text(file, ConfigError)
    try:
        content = msgspec.json.decode(text)
        known = content["format"] == FORMAT
        types = msgspec.convert(content["types"], dict[str, CountCalibration])
        saved, checkpoint, own = SavedCounts(content["made_on"], types), content["checkpoint"], content["reading"]
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError):
        raise ConfigError(f"{file}: not calibrated counts, or of another version") from None
    if not known or checkpoint != _digest(trained):
        raise ConfigError(f"{file}: made with another checkpoint or version")
    if own != reading:
        raise ConfigError(f"{file}: made with {own or 'whole images'}")
    return saved


@dataclass(frozen=True)
class FoundCounts:
    """Rows of image, keypoint type, count, low, high and presence, for each image and for all together."""

    images: list[CountRow]
    totals: list[CountRow]
    made_on: str
    confidence: float

    def files(self) -> dict[str, str | bytes]:
        """``counts.csv``, with the totals last; nothing without calibrated counts."""
        header = ["image", "type", "count", "low", "high", "presence"]
        return {"counts.csv": csv_text(header, [*self.images, *self.totals])} if self.totals else {}

    def to_dict(self) -> dict[str, Any]:
        """The totals by keypoint type, for JSON."""
        totals = {name: {"count": count, "low": low, "high": high} for _, name, count, low, high, _ in self.totals}
        return {"counts": {"confidence": self.confidence, "calibrated_on": self.made_on, **totals}} if totals else {}

    def show(self) -> None:
        """Print the first images and the totals, and on what images the counts were calibrated."""
        rows = [
            (image, name, f"{count:,}", f"{low:,} to {high:,}", str(presence or "-"))
            for image, name, count, low, high, presence in [*self.images[:MAX_PRINTED], *self.totals]
        ]
        if (others := len(self.images) - MAX_PRINTED) > 0:
            rows.insert(MAX_PRINTED, (f"{others:,} more in counts.csv", "", "", "", ""))
        if rows:
            show_table(("image", "category", "count", f"{self.confidence:.0%} interval", "any"), rows)
            show(f"calibrated on {self.made_on}: holds for images of the same kind, in the same mix", style="dim")


def count_found(
    results: CocoResults,
    dataset: CocoDataset,
    rows: Int64[ndarray, " b"],
    labels: LabelMap,
    saved: SavedCounts | None,
    *,
    confidence: float,
) -> FoundCounts:
    """The counts of each calibrated keypoint type in these images of a dataset; none without a calibration."""
    found = FoundCounts([], [], saved.made_on if saved else "", confidence)
    names = dataset.images.file_names
    for number, name in enumerate(labels.type_names):
        if not saved or name not in saved.types:
            continue
        category, place, _ = labels.keypoint_table(number)
        pairs = zip((results.category_ids == category).tolist(), results.keypoints, strict=True)
        kept = np.array([ours and bool(is_predicted(table)[place]) for ours, table in pairs], bool)
        scores = by_group(results.scores[kept], results.image_rows[kept], len(names))
        scores = [scores[row] for row in rows.tolist()]
        each = saved.types[name].predict(scores, confidence=confidence)
        total = saved.types[name].total(scores, confidence=confidence)
        presence = [""] * len(scores) if each.presence is None else each.presence.round(3).tolist()
        columns = (each.count.tolist(), each.low.tolist(), each.high.tolist(), presence)
        cells = zip(rows.tolist(), *columns, strict=True)
        found.images.extend((names[row], name, *values) for row, *values in cells)
        found.totals.append(("all images", name, total.count, total.low, total.high, ""))
    return found
