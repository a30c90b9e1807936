"""Results in COCO's format: a list of detections, each with an image id, a category id and a score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.data.coco_columns import NO_ROW, rows_of_ids
from detect.data.coco_dataset import CocoDataset
from detect.data.coco_entries import NO_BOX, Finding, KeypointAnnotation, column, points_of
from detect.data.coco_fields import Fields
from detect.data.coco_tolerance import read_entries
from detect.errors import CocoError
from detect.text_formats import decode_json

UNUSABLE_BOX = "no bbox of four finite numbers without a negative size"
EXPECTED = 'expected COCO results: a list of {"image_id", "category_id", "score", and "keypoints" or "bbox"}'


class _Result(KeypointAnnotation, gc=False, kw_only=True):
    score: float
    angle: float | None = None


@dataclass(frozen=True)
class CocoResults:
    """Detections as columns, in the order of the file; ``image_rows`` index the dataset's images."""

    places: Int64[ndarray, " n"]  # position of each entry in the file's list, from 0; invalid entries are left out
    image_rows: Int64[ndarray, " n"]
    category_ids: Int64[ndarray, " n"]
    scores: Float64[ndarray, " n"]
    boxes_xywh: Float64[ndarray, "n 4"]  # in pixels of the image; NaN for an entry without a box
    keypoints: tuple[Float64[ndarray, "_ 3"], ...]  # x, y, visibility; empty for an entry without keypoints
    invalid: tuple[Finding, ...]
    angles_deg: Float64[ndarray, " n"] | None = None  # of oriented keypoints, NaN for an entry without one

    def __post_init__(self) -> None:
        columns = (self.places, self.image_rows, self.category_ids, self.scores, self.boxes_xywh, self.keypoints)
        lengths = [len(column) for column in columns]
        lengths += [] if self.angles_deg is None else [len(self.angles_deg)]
        if len(set(lengths)) > 1:
            raise ValueError(f"results are columns of one length, got {lengths}")

    @property
    def has_box(self) -> Bool[ndarray, " n"]:
        """Whether an entry has a box: four finite numbers, and no negative size."""
        return np.isfinite(self.boxes_xywh).all(axis=1) & (self.boxes_xywh[:, 2:] >= 0).all(axis=1)


def read_results(path: str | Path, dataset: CocoDataset) -> CocoResults:
    """Read detections on the images of a dataset; entries that cannot be used are listed in ``invalid``.

    Raises:
        CocoError: the file cannot be read or is not a list of results.
    """
    entries, places, faults = _entries(path)
    image_ids, category_ids = column(entries, "image_id", np.int64), column(entries, "category_id", np.int64)
    scores = column(entries, "score", float)
    rows = rows_of_ids(image_ids, dataset.images.ids)
    boxes = np.array([msgspec.structs.astuple(entry.bbox or NO_BOX) for entry in entries], float).reshape(-1, 4)
    points, angles = tuple(map(points_of, entries)), column(entries, "angle", float)
    every = CocoResults(places, rows, category_ids, scores, boxes, points, ())
    unusable = _unusable(every, dataset, np.array([entry.bbox is not None for entry in entries], bool), angles)
    for row, reason in unusable.items():
        faults.append(Finding(str(path), None, int(image_ids[row]), f"entry {places[row]} of the results: {reason}"))
    kept = np.delete(np.arange(len(entries)), list(unusable))
    angles = angles[kept]
    return CocoResults(
        *(places[kept], rows[kept], category_ids[kept], scores[kept], boxes[kept]),
        tuple(points[row] for row in kept.tolist()),
        tuple(faults),
        angles_deg=angles if np.isfinite(angles).any() else None,
    )


def _unusable(
    results: CocoResults, dataset: CocoDataset, has_bbox: Bool[ndarray, " n"], angles: Float64[ndarray, " n"]
) -> dict[int, str]:
    """Why each row that cannot be used cannot, in order; a row of keypoints needs no usable box."""
    of_point = np.repeat(np.arange(len(results.places)), list(map(len, results.keypoints)))
    infinite = np.isinf(np.concatenate([np.zeros((0, 3)), *results.keypoints])).any(axis=1)  # NaN: no such point
    is_known = np.isin(results.category_ids, np.array(dataset.category_ids, np.int64))
    checks = {
        "no image has this id": results.image_rows == NO_ROW,
        "no category has the id {category}": ~is_known,
        "score {score:g} is not finite": ~np.isfinite(results.scores),
        UNUSABLE_BOX: has_bbox & ~results.has_box & ~np.isin(np.arange(len(has_bbox)), of_point),
        "a keypoint is infinite": np.isin(np.arange(len(has_bbox)), of_point[infinite]),
        "its angle is infinite": np.isinf(angles),
    }
    found = {}
    for row in np.flatnonzero(np.any(list(checks.values()), axis=0)).tolist():
        reason = next(words for words, fails in checks.items() if fails[row])
        found[row] = reason.format(category=results.category_ids[row], score=results.scores[row])
    return found


def _entries(path: str | Path) -> tuple[list[_Result], Int64[ndarray, " n"], list[Finding]]:
    """The entries with the right types, their positions in the list, and findings about the others."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CocoError(f"{path}: {error.strerror or error}") from None
    try:
        entries = msgspec.json.decode(data, type=list[_Result])
        return entries, np.arange(len(entries)), []
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass  # find the wrong entries
    content: Any = decode_json(data, lambda reason: CocoError(f"{path}: {reason}: {EXPECTED}"))
    if not isinstance(content, list):
        what = "a dataset, not results" if isinstance(content, dict) and "annotations" in content else "no list"
        raise CocoError(f"{path}: {what}: {EXPECTED}")
    faults: list[Finding] = []
    read = list(read_entries(content, "result", _read_result, str(path), faults))
    return [entry for _, entry, _ in read], np.array([place for place, _, _ in read], np.int64), faults


def _read_result(fields: Fields) -> _Result:
    return _Result(
        image_id=fields.required_id("image_id"),
        category_id=fields.required_id("category_id"),
        score=fields.number("score"),
        bbox=fields.box(),
        keypoints=fields.points(),
        angle=fields.number("angle") if fields.entry.get("angle") is not None else None,
    )


def results_json(results: CocoResults, dataset: CocoDataset) -> bytes:
    """Write results as JSON: ``image_id``, ``category_id``, ``score``, and ``bbox`` or ``keypoints`` of each detection.

    Oriented keypoints also have an ``angle`` in degrees, clockwise on screen from the x axis. Reading the text again gives
    the same numbers.

    >>> from detect.data import read_coco
    >>> dataset = read_coco({"images": [{"id": 7, "width": 9, "height": 9}], "categories": [], "annotations": []})
    >>> rows = np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([3]), np.array([0.5]), np.array([[1.0, 2.0, 3.0, 4.0]])
    >>> results_json(CocoResults(*rows, (np.zeros((0, 3)),), ()), dataset)
    b'[{"image_id":7,"category_id":3,"bbox":[1.0,2.0,3.0,4.0],"score":0.5}]'
    """
    entries: list[dict[str, Any]] = []
    angles = np.full(len(results.scores), np.nan) if results.angles_deg is None else results.angles_deg
    columns = (dataset.images.ids[results.image_rows], results.category_ids, results.scores, results.boxes_xywh, angles)
    for image, category, score, box, angle, points in zip(
        *(values.tolist() for values in columns), results.keypoints, strict=True
    ):
        where: dict[str, Any] = {"keypoints": points.reshape(-1).tolist()} if len(points) else {}
        where |= {} if np.isnan(box).any() else {"bbox": box}
        where |= {"angle": angle} if math.isfinite(angle) else {}
        entries.append({"image_id": image, "category_id": category, **where, "score": score})
    return msgspec.json.encode(entries)
