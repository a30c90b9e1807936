"""YOLO text labels: a line ``class x y width height``, a polygon or a pose, as fractions of the image, for each object.

``data.yaml`` names the classes, and the number and names of keypoints of a pose (``kpt_shape``, ``kpt_names``). A rotated
box, of four corners, is read as the box around it. Categories have the class + 1 as their id.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.data.coco_checks import Check, apply_checks
from detect.data.coco_entries import Category, Finding, Image
from detect.data.coco_reader import Progress
from detect.data.formats.label_rows import NO_POINTS, PER_CALL, VISIBLE, LabelRows, label_entries, polygon_area
from detect.data.formats.label_text import read_text
from detect.data.formats.yolo_files import YoloFiles

SLACK = 0.01  # fractions may exceed 0 and 1 by this much, as in YOLO's own loaders; boxes are clipped to the image
BOX, BOX_AND_SCORE, CORNERS = 5, 6, 9  # numbers of a line, its class included
MAX_CLASS = 2**31


@np.errstate(over="ignore", invalid="ignore")  # any number may stand in a file: it is checked
def read_yolo(files: YoloFiles, *, keypoints: bool = False, on_progress: Progress | None = None) -> LabelRows:
    """Read the label files of images; an image without a label file, or with an empty one, has no objects.

    Coordinates stay fractions until the sizes of the images are known.
    """
    reader = _LineReader()
    for number, label in enumerate(files.labels, 1):
        if label:
            reader.read(label, number)
        if on_progress and number % PER_CALL == 0:
            on_progress("reading labels", number, len(files.labels))
    lines = reader.lines(pose=5 + math.prod(files.kpt_shape) if files.kpt_shape else 0)
    boxes, area = lines.shapes()
    usable, faults = _usable(lines, boxes, files)
    classes = lines.classes[usable].astype(np.int64)
    names = files.names if files.names is not None else dict.fromkeys(np.unique(classes).tolist())
    notes = [*files.notes, *(Finding(files.file, None, None, each) for each in _shapes_in_words(lines, usable))]
    return LabelRows(
        files.file,
        [Image(number, 0, 0, name) for number, name in enumerate(files.images, 1)],
        label_entries(
            boxes[usable],
            ids=lines.ids[usable],
            image_ids=lines.image_ids[usable],
            category_ids=classes + 1,
            area=area[usable],
            keypoints=lines.keypoints(usable, files.kpt_shape) if keypoints else None,
        ),
        [Category(each + 1, names[each] or f"class {each}", files.kpt_names.get(each)) for each in sorted(names)],
        files.left_out + reader.faults + faults,
        suspicious=notes,
        sources=[label or name for label, name in zip(files.labels, files.images, strict=True)],
        numbers=lines.numbers[usable],
        unit="line",
        folders=files.folders,
        fractions=True,
    )


class _LineReader:
    """Collects the numbers of lines; a line that is not numbers is a fault."""

    def __init__(self) -> None:
        self.faults: list[Finding] = []
        self._places = array("q")  # id, image id, line and count of numbers of each object
        self._values = array("d")
        self._next_id = 1

    def read(self, label: str, image_id: int) -> None:
        """Read one label file."""
        for number, line in enumerate(read_text(label).split("\n"), 1):
            if fields := line.split():
                try:
                    values = list(map(float, fields))
                except ValueError:
                    self._fault(label, number, image_id, fields)
                else:
                    self._places.extend((self._next_id, image_id, number, len(values)))
                    self._values.extend(values)
                self._next_id += 1

    def _fault(self, label: str, number: int, image_id: int, fields: Sequence[str]) -> None:
        wrong = next(field for field in fields if not _is_number(field))
        hint = ": write decimals with a point, not a comma" if _is_number(wrong.replace(",", ".")) else ""
        reason = f"{wrong[:40]!r} is not a number{hint}"
        self.faults.append(Finding(f"{label}, line {number}", self._next_id, image_id, reason))

    def lines(self, *, pose: int) -> _Lines:
        """All lines as columns; ``pose`` is the number of numbers in the line of a pose, 0 if there are none."""
        self._values.extend([0.0] * BOX)  # after a short last line too, there are the numbers of a box
        values = np.frombuffer(self._values)
        ids, image_ids, numbers, counts = np.frombuffer(self._places or b"", np.int64).reshape(-1, 4).T
        return _Lines(ids, image_ids, numbers, counts, np.cumsum(counts) - counts, values, pose)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class _Lines:
    """Lines of numbers as columns: the numbers of line i begin at ``starts[i]`` of ``values``."""

    ids: Int64[ndarray, " n"]
    image_ids: Int64[ndarray, " n"]
    numbers: Int64[ndarray, " n"]
    counts: Int64[ndarray, " n"]
    starts: Int64[ndarray, " n"]
    values: Float64[ndarray, " v"]
    pose: int

    @property
    def classes(self) -> Float64[ndarray, " n"]:
        return self.values[self.starts]

    @property
    def outlined(self) -> Bool[ndarray, " n"]:
        """Whether each line is a polygon, or the corners of a rotated box."""
        return (self.counts >= 7) & (self.counts % 2 == 1) & (self.counts != self.pose)

    def shapes(self) -> tuple[Float64[ndarray, "n 4"], Float64[ndarray, " n"]]:
        """The box (x, y, width, height) of each line, and the area of polygons."""
        x, y, width, height = (self.values[self.starts + column] for column in (1, 2, 3, 4))
        boxes = np.stack([x - width / 2, y - height / 2, width, height], axis=1)
        area = np.full(len(boxes), math.nan)
        for row in np.flatnonzero(self.outlined).tolist():
            corners = self.values[self.starts[row] + 1 : self.starts[row] + self.counts[row]].reshape(-1, 2)
            boxes[row] = *corners.min(axis=0), *np.ptp(corners, axis=0)
            area[row] = polygon_area(corners)
        return boxes, area

    def keypoints(
        self, rows: Int64[ndarray, " m"], kpt_shape: tuple[int, int] | None
    ) -> tuple[Float64[ndarray, "_ 3"], ...]:
        """The keypoints of lines, in fractions; without a visibility, all but those at (0, 0) are visible."""
        dims = kpt_shape[1] if kpt_shape else 0
        found = []
        for row in rows.tolist():
            points = NO_POINTS
            if dims and self.counts[row] == self.pose:
                points = self.values[self.starts[row] + BOX : self.starts[row] + self.pose].reshape(-1, dims)
            if dims == 2 and len(points):
                labelled = (points != 0).any(axis=1, keepdims=True)
                points = np.concatenate([points, VISIBLE * labelled], axis=1)
            found.append(points)
        return tuple(found)


def _usable(
    lines: _Lines, boxes: Float64[ndarray, "n 4"], files: YoloFiles
) -> tuple[Int64[ndarray, " m"], list[Finding]]:
    """The usable rows in rising order, and a finding with the first failed check for each of the others."""
    classes, counts = lines.classes, lines.counts
    named = classes if files.names is None else np.array(sorted(files.names), float)
    plain = np.isin(counts, [BOX, BOX_AND_SCORE, *([lines.pose] if lines.pose else [])])
    low, size = boxes[:, :2], boxes[:, 2:]
    center, high = low + size / 2, low + size
    inside = [(each >= -SLACK) & (each <= 1 + SLACK) for each in (center, low, high)]
    fractions = np.where(plain[:, None], inside[0] & (size <= 1 + SLACK), inside[1] & inside[2]).min(axis=1)
    hint = "" if lines.pose else "; a pose needs kpt_shape in data.yaml"

    def largest(row: int) -> str:
        own = lines.values[lines.starts[row] + 1 : lines.starts[row] + (BOX if plain[row] else counts[row])]
        value = own[np.abs(own - 0.5).argmax()]
        return f"{value:g} is not a fraction of the image, from 0 to 1{': are these pixels?' if value > 2 else ''}"

    checks: list[Check] = [
        (
            ~((classes >= 0) & (classes <= MAX_CLASS) & (classes == np.floor(classes))),
            lambda row: f"class {classes[row]:g} is not a whole number from 0",
        ),
        (
            ~np.isin(classes, named),
            lambda row: f"class {classes[row]:g} has no name: there are {len(named)}, from class {named.min():g}",
        ),
        (
            ~(plain | lines.outlined),
            lambda row: f"{counts[row]} numbers are no box (5), polygon (7, 9, ...) or pose{hint}",
        ),
        (~fractions, largest),
    ]
    usable, failed = apply_checks(checks, len(counts))
    faults = []
    for row, reason in failed:
        image_id = int(lines.image_ids[row])
        place = f"{files.labels[image_id - 1]}, line {lines.numbers[row]}"
        faults.append(Finding(place, int(lines.ids[row]), image_id, reason))
    return usable, faults


def _shapes_in_words(lines: _Lines, usable: Int64[ndarray, " m"]) -> list[str]:
    """What lines are besides plain boxes and poses, with their numbers."""
    counts, outlined = lines.counts[usable], lines.outlined[usable]
    rotated = int((outlined & (counts == CORNERS)).sum())
    polygons, scored = int(outlined.sum()) - rotated, int((counts == BOX_AND_SCORE).sum())
    words = {
        "rotated boxes, of four corners, are read as the boxes around them": rotated,
        "polygons are read as the boxes around them, with their areas": polygons,
        "a sixth number, the score of a result, is ignored": scored,
    }
    return [f"{text}: {number:,}" for text, number in words.items() if number]
