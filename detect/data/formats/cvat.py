"""CVAT's XML "for images": boxes, polygons, ellipses and points of each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from detect.data.coco_reader import Progress
from detect.data.formats.label_rows import ImageLabels, LabelBuilder, LabelRows
from detect.data.formats.label_text import numbers_of, read_xml
from detect.errors import CocoError

CORNERS = ("xtl", "ytl", "xbr", "ybr")
SHAPES = ("box", "polygon", "points", "ellipse", "polyline", "mask", "cuboid", "skeleton")


def read_cvat(
    files: Sequence[str], *, keypoints: bool = False, angles: bool = False, on_progress: Progress | None = None
) -> LabelRows:
    """Read CVAT files. Each point becomes an annotation of its own; a rotated box or ellipse is read as the box around it.

    With ``angles`` the rotation of boxes and ellipses is their angle: 0 where the file does not state it, though it states
    that of another. CVAT turns clockwise on screen.

    Raises:
        CocoError: a file cannot be read, is not CVAT's or holds the tracks of a video; with ``angles`` also for a rotation
            that is not a finite number.
    """
    labels, has_angles = LabelBuilder(", ".join(files)), False
    for done, file in enumerate(sorted(files), 1):
        root = read_xml(file)
        if root.tag != "annotations":
            raise CocoError(f"{file}: <{root.tag[:40]}> at the top, not <annotations> as in CVAT's files")
        if root.find("track") is not None:
            raise CocoError(f"{file}: tracks of a video: export the task as 'CVAT for images'")
        has_angles = has_angles or (angles and root.find("image/*[@rotation]") is not None)
        for entry in root.iter("image"):
            _read_image(labels, file, entry, angles)
        if on_progress:
            on_progress("reading labels", done, len(files))
    return labels.rows(keypoints=keypoints, angles=has_angles)


def _read_image(labels: LabelBuilder, file: str, entry: ET.Element, angles: bool) -> None:
    name = entry.get("name") or f"image {entry.get('id')}"
    try:
        width, height = numbers_of([entry.get("width"), entry.get("height")])
    except ValueError:
        width, height = 0.0, 0.0
    image = labels.image(name, source=f"{file}: {name}", wh=(width, height))
    for number, shape in enumerate((each for each in entry if each.tag in SHAPES), 1):
        if angles:
            _check_rotation(shape, f"{image.source}, object {number}")
        with labels.faults_of(image, number):
            _read_shape(labels, image, shape, number)


def _read_shape(labels: LabelBuilder, image: ImageLabels, shape: ET.Element, number: int) -> None:
    label = shape.get("label")
    if shape.tag == "box":
        x0, y0, x1, y1, angle = numbers_of([*map(shape.get, CORNERS), shape.get("rotation", "0")])
        if angle % 360:
            labels.count("rotated boxes are read as the boxes around them", f"{image.source}, object {number}")
            x0, y0, x1, y1 = _around(x0, y0, x1, y1, math.radians(angle))
        labels.box(image, label, (x0, y0, x1, y1), number=number, angle_deg=angle)
    elif shape.tag == "polygon":
        labels.polygon(image, label, _points(shape), number=number)
    elif shape.tag == "points":
        for x, y in _points(shape):
            labels.point(image, label, x, y, number=number)
    elif shape.tag == "ellipse":
        x, y, rx, ry, angle = numbers_of([*map(shape.get, ("cx", "cy", "rx", "ry")), shape.get("rotation", "0")])
        area, cos, sin = math.pi * rx * ry, math.cos(math.radians(angle)), math.sin(math.radians(angle))
        half_w, half_h = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
        around = (x - half_w, y - half_h, x + half_w, y + half_h)
        labels.box(image, label, around, number=number, area=area, angle_deg=angle)
    elif shape.tag == "mask":
        left, top, width, height = numbers_of(map(shape.get, ("left", "top", "width", "height")))
        labels.box(image, label, (left, top, left + width, top + height), number=number)
    else:
        labels.fault(image, number, f"a {shape.tag} is neither a box, a polygon, an ellipse, a mask nor points")


def _check_rotation(shape: ET.Element, place: str) -> None:
    """Raise CocoError if the rotation of a shape is not a finite number: a wrong angle would be learned."""
    try:
        numbers_of([shape.get("rotation", "0")])
    except ValueError as error:
        raise CocoError(f"{place}: rotation {error}") from None


def _points(shape: ET.Element) -> list[tuple[float, float]]:
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("points are not pairs x,y between semicolons")
    return [(x, y) for x, y in map(numbers_of, pairs)]


def _around(x0: float, y0: float, x1: float, y1: float, angle: float) -> tuple[float, float, float, float]:
    """The box around a box that is turned about its centre."""
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    half_w, half_h = ((x1 - x0) * cos + (y1 - y0) * sin) / 2, ((x1 - x0) * sin + (y1 - y0) * cos) / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x - half_w, y - half_h, x + half_w, y + half_h
