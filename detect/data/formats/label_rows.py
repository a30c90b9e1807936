"""Entries of label files without ids: numbered in the order of files and lines, so that a finding leads to its line.

Coordinates are pixels, or fractions of the image that become pixels once its size is known
(:mod:`detect.data.image_sizes`).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.data.coco_entries import ANGLE_FIELDS, AnnotationEntries, Category, Finding, Image, Rows
from detect.data.coco_reader import Progress
from detect.data.formats.label_text import short_repr
from detect.errors import CocoError
from detect.ops.box_arrays import xyxy_to_xywh

VISIBLE = 2.0
MAX_SIDE_PX = 2**31  # of images; more is no size
PER_CALL = 64  # files between calls of on_progress
NO_POINTS = np.zeros((0, 3))  # shared by all annotations without keypoints


@dataclass
class LabelRows(Rows):
    """Entries of label files, with ids that rise from 1 in the order of files and lines.

    ``sources`` has the label file of each image, by image id, and ``numbers`` the line or object (``unit``) of each
    annotation in it. ``folders`` has the folder that each image's name starts from, if the images have been found. With
    ``fractions``, coordinates are relative to the image's size.
    """

    sources: Sequence[str] = ()
    numbers: Int64[ndarray, " n"] = field(default_factory=lambda: np.zeros(0, np.int64))
    unit: str = "object"
    folders: Sequence[str] | None = None
    fractions: bool = False
    first_image_id: int = 1

    def locate(self, finding: Finding) -> Finding:
        """The finding of a check with the label file of its image, and the line of its annotation."""
        if finding.file != self.file or finding.image_id is None:
            return finding
        row = finding.image_id - self.first_image_id
        if not 0 <= row < len(self.sources):
            return finding
        source = self.sources[row]
        if finding.annotation_id is not None:
            row = int(np.searchsorted(self.annotations.ids, finding.annotation_id))
            source = f"{source}, {self.unit} {self.numbers[row]}"
        return replace(finding, file=source)

    def renumber(self, images: int, annotations: int, categories: Mapping[int, int]) -> None:
        """Shift the ids of images and annotations, and replace those of categories."""
        for image in self.images:
            image.id += images
        for findings in (self.faults, self.suspicious):
            findings[:] = [_shifted(each, images, annotations) for each in findings]
        columns = self.annotations
        known = np.array([0, *categories], np.int64)
        new = np.array([0, *categories.values()], np.int64)[np.searchsorted(known, columns.category_ids)]
        ids, image_ids = columns.ids + annotations, columns.image_ids + images
        self.annotations = replace(columns, ids=ids, image_ids=image_ids, category_ids=new)
        self.categories = [Category(categories[each.id], each.name, each.keypoints) for each in self.categories or ()]
        self.first_image_id += images


def _shifted(finding: Finding, images: int, annotations: int) -> Finding:
    image_id = None if finding.image_id is None else finding.image_id + images
    annotation_id = None if finding.annotation_id is None else finding.annotation_id + annotations
    return replace(finding, image_id=image_id, annotation_id=annotation_id)


def label_entries(
    boxes_xywh: Float64[ndarray, "n 4"],
    *,
    ids: Int64[ndarray, " n"],
    image_ids: Int64[ndarray, " n"],
    category_ids: Int64[ndarray, " n"],
    iscrowd: Bool[ndarray, " n"] | None = None,
    area: Float64[ndarray, " n"] | None = None,
    keypoints: tuple[Float64[ndarray, "_ 3"], ...] | None = None,
) -> AnnotationEntries:
    """Annotations as columns; a box of NaN is no box, an area of NaN that of the box."""
    has_box = ~np.isnan(boxes_xywh).all(axis=1)
    crowd = np.zeros(len(ids), bool) if iscrowd is None else iscrowd
    areas = np.full(len(ids), math.nan) if area is None else area
    return AnnotationEntries(ids, image_ids, category_ids, boxes_xywh, has_box, crowd, areas, keypoints)


class LabelBuilder:
    """Collect labelled images, and the boxes and points of their objects.

    Label tools place points as they place boxes, in continuous pixels: their ``pixel_origin`` is ``corner``.

    >>> labels = LabelBuilder("points.csv", unit="line")
    >>> with labels.image("a.png", source="points.csv").object(2) as found:
    ...     found.point("cell", 3.0, 4.0)
    >>> rows = labels.rows(keypoints=True)
    >>> [each.name for each in rows.categories], rows.annotations.keypoints
    (['cell'], (array([[3., 4., 2.]]),))
    """

    def __init__(self, file: str, *, unit: str = "object", pixel_origin: str | None = "corner") -> None:
        self.file = file
        self.unit = unit
        self.pixel_origin = pixel_origin
        self.faults: list[Finding] = []
        self._images: list[Image] = []
        self._sources: list[str] = []
        self._counted: dict[str, tuple[int, str]] = {}
        self._names: dict[str, int] = {}
        self._numbers = array("q")  # id, image id, name, crowd and number in the file of each object
        self._values = array("d")  # box, area, point and angle of each object
        self._next_id = 1

    def image(self, name: str, *, source: str, wh: tuple[float, float] = (0, 0)) -> ImageLabels:
        """Add an image, of size (0, 0) if it is unknown."""
        width, height = (int(side) if 0 < side <= MAX_SIDE_PX else 0 for side in wh)
        self._images.append(Image(len(self._images) + 1, width, height, name.replace("\\", "/")))
        self._sources.append(source)
        return ImageLabels(self, len(self._images), source)

    def read_each(self, files: Sequence[str], read: Callable[[str], None], on_progress: Progress | None) -> None:
        """Read files of one image each; if there are several, an error becomes a finding."""
        for file in in_order(files, on_progress, per_call=PER_CALL):
            try:
                read(file)
            except CocoError as error:  # noqa: PERF203 - one file does not stop the others
                if len(files) == 1:
                    raise
                self.faults.append(Finding("", None, None, str(error)))

    def count(self, what: str, place: str) -> None:
        """Count something that is used although it deserves a word; the first place is named."""
        times, first = self._counted.get(what, (0, place))
        self._counted[what] = (times + 1, first)

    def add(self, image_id: int, label: str, values: tuple[float, ...], number: int, crowd: bool) -> None:
        """Add an annotation: box, area, point and angle."""
        name = self._names.setdefault(label.strip(), len(self._names))
        self._numbers.extend((self._next_id, image_id, name, crowd, number))
        self._values.extend(values)
        self._next_id += 1

    def fault(self, image_id: int, place: str, reason: str) -> None:
        """Add a finding about an object that cannot be used; it takes an id as well."""
        self.faults.append(Finding(place, self._next_id, image_id, reason))
        self._next_id += 1

    @np.errstate(over="ignore", invalid="ignore")  # any number may stand in a file: it is checked later
    def rows(self, *, keypoints: bool, angles: bool = False) -> LabelRows:
        """Everything that was added. Categories have ids from 1 in the order of their names."""
        numbers = np.array(self._numbers, np.int64).reshape(-1, 5)
        values = np.array(self._values, float).reshape(-1, 8)
        names = sorted(self._names)
        ranks = np.zeros(len(names), np.int64)
        ranks[[self._names[name] for name in names]] = np.arange(1, len(names) + 1)
        entries = label_entries(
            xyxy_to_xywh(values[:, :4]),
            ids=numbers[:, 0],
            image_ids=numbers[:, 1],
            category_ids=ranks[numbers[:, 2]],
            iscrowd=numbers[:, 3] > 0,
            area=values[:, 4],
            keypoints=tuple(map(_one_point, values[:, 5:7])) if keypoints else None,
        )
        if angles:
            own = [values[:, 7] if field == "rotation" else np.full(len(values), math.nan) for field in ANGLE_FIELDS]
            entries = replace(entries, angles_deg=np.stack(own, axis=1))
        return LabelRows(
            self.file,
            self._images,
            entries,
            [Category(number, name) for number, name in enumerate(names, 1)],
            self.faults,
            suspicious=[
                Finding(self.file, None, None, f"{what}: {times:,}, the first is {place}")
                for what, (times, place) in self._counted.items()
            ],
            pixel_origin=self.pixel_origin,
            sources=self._sources,
            numbers=numbers[:, 4],
            unit=self.unit,
        )


@dataclass(frozen=True)
class ImageLabels:
    """An image that labels are added to: its id, and the file that it is labelled in, as messages name it."""

    labels: LabelBuilder
    id: int
    source: str

    @contextmanager
    def object(self, number: int) -> Iterator[ObjectLabels]:
        """One object of the image, by its number in the file; an error in its values becomes a finding."""
        found = ObjectLabels(self, number)
        try:
            yield found
        except (OverflowError, TypeError, ValueError) as error:
            found.fault(str(error))


@dataclass(frozen=True)
class ObjectLabels:
    """An object of an image, which becomes one annotation or several."""

    image: ImageLabels
    number: int

    @property
    def place(self) -> str:
        """Where the object stands, as messages name it."""
        return f"{self.image.source}, {self.image.labels.unit} {self.number}"

    def box(
        self,
        label: object,
        box_xyxy: Sequence[float],
        *,
        iscrowd: bool = False,
        area: float = math.nan,
        angle_deg: float = math.nan,
    ) -> None:
        """Add a box (x0, y0, x1, y1)."""
        self._add(label, (*box_xyxy, area, math.nan, math.nan, angle_deg), iscrowd)

    def polygon(self, label: object, points: Sequence[Sequence[float]], *, holes: float = 0.0) -> None:
        """Add the box around a polygon of at least 3 points, with the polygon's area less that of its holes."""
        if len(points) < 3:
            self.fault(f"a polygon of {len(points)} points")
            return
        x, y = np.array(points, float).T
        self.box(label, (x.min(), y.min(), x.max(), y.max()), area=max(polygon_area(points) - holes, 0.0))

    def ellipse(
        self, label: object, center: Sequence[float], radii: Sequence[float], *, angle_deg: float = 0.0
    ) -> None:
        """Add the box around an ellipse that is turned clockwise."""
        (x, y), (rx, ry), angle = center, radii, math.radians(angle_deg)
        half_w = math.hypot(rx * math.cos(angle), ry * math.sin(angle))
        half_h = math.hypot(rx * math.sin(angle), ry * math.cos(angle))
        around = (x - half_w, y - half_h, x + half_w, y + half_h)
        self.box(label, around, area=math.pi * rx * ry, angle_deg=angle_deg)

    def point(self, label: object, x: float, y: float) -> None:
        """Add a point: an annotation with one visible keypoint and no box."""
        self._add(label, (*(math.nan,) * 5, x, y, math.nan))

    def fault(self, reason: str) -> None:
        """Add a finding about an object that cannot be used."""
        self.image.labels.fault(self.image.id, self.place, reason)

    def count(self, what: str) -> None:
        """Count something that is used although it deserves a word."""
        self.image.labels.count(what, self.place)

    def _add(self, label: object, values: tuple[float, ...], crowd: bool = False) -> None:
        if isinstance(label, str) and label.strip():
            self.image.labels.add(self.image.id, label, values, self.number, crowd)
        else:
            is_none = label in (None, "")
            self.fault("it has no label" if is_none else f"its label is {short_repr(label)}, not a name")


def in_order(files: Sequence[str], on_progress: Progress | None, *, per_call: int = 1) -> Iterator[str]:
    """Yield files in the order of their names, and report those that are done with."""
    for done, file in enumerate(sorted(files), 1):
        yield file
        if on_progress and done % per_call == 0:
            on_progress("reading labels", done, len(files))


def _one_point(xy: Float64[ndarray, " 2"]) -> Float64[ndarray, "_ 3"]:
    return NO_POINTS if math.isnan(xy[0]) and math.isnan(xy[1]) else np.array([[*xy, VISIBLE]])


def box_around(center: Sequence[float], wh: Sequence[float], angle: float) -> tuple[float, float, float, float]:
    """The box (x0, y0, x1, y1) around a box that is turned about its centre by an angle in radians."""
    (x, y), (width, height), cos, sin = center, wh, abs(math.cos(angle)), abs(math.sin(angle))
    half_w, half_h = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return x - half_w, y - half_h, x + half_w, y + half_h


@np.errstate(over="ignore", invalid="ignore")
def polygon_area(points: Sequence[Sequence[float]] | Float64[ndarray, "n 2"]) -> float:
    """The area inside a polygon, by the shoelace formula.

    >>> polygon_area([(0, 0), (4, 0), (4, 3)])
    6.0
    """
    x, y = np.array(points, float).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
