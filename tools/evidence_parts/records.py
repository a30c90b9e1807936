"""Results of finished runs: a row of a table for each, and a small file with its detections in each image.

Both are committed. A row is appended whole or not at all, by one process at a time.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.data import CocoResults
from detect.files import write_whole
from evidence_parts.plan import Run

TENTHS = 10  # boxes are kept to a tenth of a pixel
SCORE_STEPS = 65535
MOST = 100  # detections of an image and category that COCO counts
DIGITS = 6

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A finished run; None: not defined. Seconds are medians over epochs, without validation."""

    dataset: str
    variant: str
    epochs: int
    seed: int
    ap: float | None = None
    ap50: float | None = None
    f1_3px: float | None = None
    f1_5px: float | None = None
    count_mae: float | None = None
    average_iou: float | None = None
    grid_average_iou: float | None = None
    grid_recall: float | None = None
    positives: float | None = None
    """Positive anchors per instance."""
    anchors: float | None = None
    """Anchors per image."""
    gflops: float | None = None
    """The head's operations for one image."""
    epoch_seconds: float | None = None
    threads: int | None = None
    detail: str = ""

    @property
    def run(self) -> Run:
        """The run that this row is the result of."""
        return Run(self.dataset, self.variant, self.epochs, self.seed)


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a table, none if the file is missing; the last row of a run counts.

    Raises:
        ValueError: a column is unknown or a number broken.
    """
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [_row(each) for each in csv.DictReader(stream)]
    return list({row.run: row for row in rows}.values())


def append_row(path: Path, row: Row) -> None:
    """Add a row to a table."""
    names = [field.name for field in fields(Row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.parent):
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        if not path.exists():
            writer.writeheader()
        writer.writerow({name: _text(value) for name, value in asdict(row).items()})
        write_whole(path, (path.read_text("utf-8") if path.exists() else "") + text.getvalue())


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays: whole or not at all."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    write_whole(path, stream.getvalue())


def load_arrays(path: Path) -> Arrays:
    """Read the arrays of a file."""
    with np.load(path) as found:
        return dict(found)


def packed_boxes(results: CocoResults) -> Arrays:
    """The best detections of each image and category in few bytes: x, y, width, height and score, rounded.

    Numbers of two bytes are kept as planes, (column, byte, row), which compress better by a sixth.
    """
    order = np.lexsort((-results.scores, results.category_ids, results.image_rows))
    group = results.image_rows[order] * (results.category_ids.max(initial=0) + 1) + results.category_ids[order]
    order = order[np.arange(len(group)) - np.searchsorted(group, group) < MOST]
    boxes = np.round(results.boxes_xywh[order] * TENTHS).astype(np.int16)
    scores = np.round(results.scores[order] * SCORE_STEPS).astype(np.uint16)
    return {
        "images": results.image_rows[order].astype(np.uint16),
        "categories": results.category_ids[order].astype(np.uint16),
        "scores": _planes(scores[:, None]),
        "boxes": _planes(boxes),
    }


def unpacked_boxes(arrays: Arrays) -> CocoResults:
    """Restore the results that :func:`packed_boxes` packed."""
    return box_results(
        arrays["images"].astype(np.int64),
        arrays["categories"].astype(np.int64),
        _from_planes(arrays["scores"], np.uint16)[:, 0] / SCORE_STEPS,
        _from_planes(arrays["boxes"], np.int16) / TENTHS,
    )


def _planes(values: Any) -> Any:
    columns = np.ascontiguousarray(values.T).view(np.uint8)
    return columns.reshape(values.shape[1], len(values), 2).transpose(0, 2, 1).copy()


def _from_planes(planes: Any, kind: type) -> Any:
    return np.ascontiguousarray(planes.transpose(0, 2, 1)).view(kind)[..., 0].T


def box_results(
    image_rows: Int64[ndarray, " n"],
    category_ids: Int64[ndarray, " n"],
    scores: Float64[ndarray, " n"],
    boxes_xywh: Float64[ndarray, "n 4"],
) -> CocoResults:
    """Results of boxes, from their columns."""
    keypoints = (np.zeros((0, 3)),) * len(scores)
    return CocoResults(np.arange(len(scores)), image_rows, category_ids, scores, boxes_xywh, keypoints, ())


def _row(values: dict[str, str]) -> Row:
    kinds = {field.name: str(field.type) for field in fields(Row)}
    return Row(**{name: _value(kinds[name], text) for name, text in values.items()})


def _value(kind: str, text: str) -> Any:
    if kind == "str":
        return text
    return None if not text else int(text) if kind.startswith("int") else float(text)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder; other processes wait."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
