"""CVAT's XML "for images": boxes, polygons, ellipses and points of each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from detect.data.coco_reader import Progress
from detect.data.formats.label_rows import LabelBuilder, LabelRows, ObjectLabels, box_around, in_order
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
    for file in in_order(files, on_progress):
        root = read_xml(file)
        if root.tag != "annotations":
            raise CocoError(f"{file}: <{root.tag[:40]}> at the top, not <annotations> as in CVAT's files")
        if root.find("track") is not None:
            raise CocoError(f"{file}: tracks of a video: export the task as 'CVAT for images'")
        has_angles = has_angles or (angles and root.find("image/*[@rotation]") is not None)
        for entry in root.iter("image"):
            _read_image(labels, file, entry, angles)
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
        with image.object(number) as found:
            _read_shape(found, shape)


def _read_shape(found: ObjectLabels, shape: ET.Element) -> None:
    label = shape.get("label")
    if shape.tag == "box":
        x0, y0, x1, y1, angle = numbers_of([*map(shape.get, CORNERS), shape.get("rotation", "0")])
        if angle % 360:
            found.count("rotated boxes are read as the boxes around them")
            center, wh = ((x0 + x1) / 2, (y0 + y1) / 2), (x1 - x0, y1 - y0)
            x0, y0, x1, y1 = box_around(center, wh, math.radians(angle))
        found.box(label, (x0, y0, x1, y1), angle_deg=angle)
    elif shape.tag == "polygon":
        found.polygon(label, _points(shape))
    elif shape.tag == "points":
        for x, y in _points(shape):
            found.point(label, x, y)
    elif shape.tag == "ellipse":
        x, y, rx, ry, angle = numbers_of([*map(shape.get, ("cx", "cy", "rx", "ry")), shape.get("rotation", "0")])
        found.ellipse(label, (x, y), (rx, ry), angle_deg=angle)
    elif shape.tag == "mask":
        left, top, width, height = numbers_of(map(shape.get, ("left", "top", "width", "height")))
        found.box(label, (left, top, left + width, top + height))
    else:
        found.fault(f"a {shape.tag} is neither a box, a polygon, an ellipse, a mask nor points")


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
