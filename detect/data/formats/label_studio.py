"""Label Studio's JSON export: tasks with annotations, whose coordinates are percentages of the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from detect.data.coco_reader import Progress
from detect.data.formats.label_rows import ImageLabels, LabelBuilder, LabelRows
from detect.data.formats.label_text import numbers_of, read_json
from detect.errors import CocoError

KINDS = ("rectanglelabels", "polygonlabels", "keypointlabels", "ellipselabels")
OTHER_ANNOTATIONS = "of several annotations of a task the ground truth is read, else the first that is not cancelled"
ROTATED = "rotated boxes are read as the boxes around them"


def read_label_studio(
    files: Sequence[str], *, keypoints: bool = False, on_progress: Progress | None = None
) -> LabelRows:
    """Read exports of Label Studio. A region that is no box, polygon, ellipse or keypoint becomes a finding.

    Raises:
        CocoError: a file cannot be read or is not a list of tasks.
    """
    labels = LabelBuilder(", ".join(files), unit="region")
    for done, file in enumerate(sorted(files), 1):
        tasks = read_json(file)
        if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
            raise CocoError(f"{file}: not a list of Label Studio's tasks")
        for place, task in enumerate(tasks, 1):
            _read_task(labels, file, task, place)
        if on_progress:
            on_progress("reading labels", done, len(files))
    return labels.rows(keypoints=keypoints)


def _read_task(labels: LabelBuilder, file: str, task: Mapping[str, Any], place: int) -> None:
    source = f"{file}: task {task.get('id', place)}"
    made = [each for each in task.get("annotations") or [] if isinstance(each, Mapping)]
    made = [each for each in made if not each.get("was_cancelled")]
    if len(made) > 1:
        labels.count(OTHER_ANNOTATIONS, source)
    made.sort(key=lambda each: not each.get("ground_truth"))  # stable: else the first
    regions = (made[0].get("result") or []) if made else []
    regions = [each for each in regions if isinstance(each, Mapping) and each.get("type") != "choices"]
    sizes = [each for each in regions if each.get("original_width")]
    try:
        width, height = numbers_of(sizes[0].get(f"original_{side}") for side in ("width", "height"))
    except (IndexError, ValueError):
        width, height = 0.0, 0.0
    image = labels.image(_image_name(task), source=source, wh=(width, height))
    for number, region in enumerate(regions, 1):
        with labels.faults_of(image, number):
            _read_region(labels, image, region, number, (width / 100, height / 100))


def _image_name(task: Mapping[str, Any]) -> str:
    """The image's path in the local storage, or else the last part of its address."""
    data = task.get("data")
    texts = [each for each in (data.values() if isinstance(data, Mapping) else ()) if isinstance(each, str)]
    address = next((each for each in texts if "/" in each or "." in each), str(task.get("file_upload") or ""))
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d")
    return local[0] if local else unquote(parts.path).rpartition("/")[2] or f"task {task.get('id')}"


def _read_region(
    labels: LabelBuilder, image: ImageLabels, region: Mapping[str, Any], number: int, scale: tuple[float, float]
) -> None:
    if not all(scale):
        raise ValueError("no original_width and original_height: its percentages cannot be made pixels")
    value = region.get("value")
    kind = next((each for each in KINDS if isinstance(value, Mapping) and each in value), None)
    if kind is None or not isinstance(value, Mapping):
        known = "a box, polygon, ellipse nor keypoint with a label"
        raise ValueError(f"a region of type {str(region.get('type'))[:40]!r} is neither {known}")
    names = value[kind]
    label = names[0] if isinstance(names, list) and names else None
    if isinstance(names, list) and len(names) > 1:
        labels.count("of several labels of a region the first is read", f"{image.source}, region {number}")
    if kind == "polygonlabels":
        points = [[x * scale[0], y * scale[1]] for x, y in map(numbers_of, value["points"])]
        labels.polygon(image, label, points, number=number)
        return
    x, y = (at * by for at, by in zip(numbers_of([value.get("x"), value.get("y")]), scale, strict=True))
    if kind == "keypointlabels":
        labels.point(image, label, x, y, number=number)
        return
    angle = math.radians(numbers_of([value.get("rotation") or 0])[0])
    if angle:
        labels.count(ROTATED, f"{image.source}, region {number}")
    if kind == "rectanglelabels":
        w, h = (at * by for at, by in zip(numbers_of([value.get("width"), value.get("height")]), scale, strict=True))
        labels.box(image, label, _around(x, y, w, h, angle), number=number)
    else:
        radii = numbers_of([value.get("radiusX"), value.get("radiusY")])
        rx, ry = (radius * by for radius, by in zip(radii, scale, strict=True))
        half_w = math.hypot(rx * math.cos(angle), ry * math.sin(angle))
        half_h = math.hypot(rx * math.sin(angle), ry * math.cos(angle))
        box = (x - half_w, y - half_h, x + half_w, y + half_h)
        labels.box(image, label, box, number=number, area=math.pi * rx * ry)


def _around(x: float, y: float, w: float, h: float, angle: float) -> tuple[float, float, float, float]:
    """The box around a box that is turned clockwise about its top left corner."""
    cos, sin = math.cos(angle), math.sin(angle)
    xs, ys = (0.0, w * cos, -h * sin, w * cos - h * sin), (0.0, w * sin, h * cos, w * sin + h * cos)
    return x + min(xs), y + min(ys), x + max(xs), y + max(ys)
