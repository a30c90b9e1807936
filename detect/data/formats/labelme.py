"""LabelMe: one JSON file for each image, with shapes of one or more points in pixels."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from detect.data.coco_reader import Progress
from detect.data.formats.label_rows import ImageLabels, LabelBuilder, LabelRows
from detect.data.formats.label_text import folder_of, numbers_of, read_json, stem_of
from detect.errors import CocoError


def read_labelme(files: Sequence[str], *, keypoints: bool = False, on_progress: Progress | None = None) -> LabelRows:
    """Read LabelMe files. Rectangles, polygons, circles and masks become boxes, points become keypoints.

    Raises:
        CocoError: the only file cannot be read; one of several becomes a finding.
    """
    labels = LabelBuilder(files[0] if len(files) == 1 else folder_of(files), unit="shape")
    labels.read_each(files, partial(_read_file, labels), on_progress)
    return labels.rows(keypoints=keypoints)


def _read_file(labels: LabelBuilder, file: str) -> None:
    content = read_json(file)
    if not isinstance(content, Mapping) or not isinstance(content.get("shapes"), list):
        raise CocoError(f"{file}: no list of shapes, as LabelMe's files have")
    try:
        width, height = numbers_of([content.get("imageWidth"), content.get("imageHeight")])
    except ValueError:
        width, height = 0.0, 0.0
    name = str(content.get("imagePath") or stem_of(file)).replace("\\", "/")
    image = labels.image(os.path.normpath(name), source=file, wh=(width, height))
    for number, shape in enumerate(content["shapes"], 1):
        with labels.faults_of(image, number):
            _read_shape(labels, image, shape, number)


def _read_shape(labels: LabelBuilder, image: ImageLabels, shape: Any, number: int) -> None:
    if not isinstance(shape, Mapping) or not isinstance(shape.get("points"), list):
        raise ValueError("it has no list of points")
    if any(not isinstance(point, list) or len(point) != 2 for point in shape["points"]):
        raise ValueError("its points are not pairs (x, y)")
    points = [tuple(numbers_of(point)) for point in shape["points"]]
    label, kind = shape.get("label"), shape.get("shape_type") or "polygon"
    if kind == "point" and len(points) == 1:
        labels.point(image, label, *points[0], number=number)
    elif kind == "points" and points:
        for x, y in points:
            labels.point(image, label, x, y, number=number)
    elif kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        labels.count("circles are read as the boxes around them", f"{image.source}, shape {number}")
        box = (x - radius, y - radius, x + radius, y + radius)
        labels.box(image, label, box, number=number, area=math.pi * radius * radius)
    elif kind in ("rectangle", "mask") and len(points) in (2, 4):
        xs, ys = zip(*points, strict=True)
        labels.box(image, label, (min(xs), min(ys), max(xs), max(ys)), number=number)
    elif kind in ("polygon", "oriented_rectangle", "rotation"):
        if kind != "polygon":
            labels.count("rotated boxes are read as the boxes around them", f"{image.source}, shape {number}")
        labels.polygon(image, label, points, number=number)
    else:
        shapes = "a rectangle, polygon, circle, mask nor point"
        labels.fault(image, number, f"a {str(kind)[:40]} of {len(points)} points is neither {shapes}")
