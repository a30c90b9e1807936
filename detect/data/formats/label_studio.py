"""Label Studio's JSON export: tasks with annotations, whose coordinates are percentages of the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from detect.data.coco_reader import Progress
from detect.data.formats.label_rows import LabelBuilder, LabelRows, ObjectLabels, box_around, in_order
from detect.data.formats.label_text import numbers_of, read_json
from detect.errors import CocoError

KINDS = ("rectanglelabels", "polygonlabels", "keypointlabels", "ellipselabels")
OTHER_ANNOTATIONS = "of several annotations of a task the ground truth is read, else the first that is not cancelled"
UNLABELLED = "tasks without an annotation, skipped or with predictions alone, are read as images without objects"
ROTATED = "rotated boxes are read as the boxes around them"


def read_label_studio(
    files: Sequence[str], *, keypoints: bool = False, on_progress: Progress | None = None
) -> LabelRows:
    """Read exports of Label Studio. A region that is no box, polygon, ellipse or keypoint becomes a finding.

    Raises:
        CocoError: a file cannot be read or is not a list of tasks.
    """
    labels = LabelBuilder(", ".join(files), unit="region")
    for file in in_order(files, on_progress):
        tasks = read_json(file)
        if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
            raise CocoError(f"{file}: not a list of Label Studio's tasks")
        for place, task in enumerate(tasks, 1):
            _read_task(labels, file, task, place)
    return labels.rows(keypoints=keypoints)


def _read_task(labels: LabelBuilder, file: str, task: Mapping[str, Any], place: int) -> None:
    source = f"{file}: task {task.get('id', place)}"
    made = [each for each in _list(task.get("annotations")) if isinstance(each, Mapping)]
    made = [each for each in made if not each.get("was_cancelled")]
    if len(made) != 1:
        labels.count(OTHER_ANNOTATIONS if made else UNLABELLED, source)
    made.sort(key=lambda each: not each.get("ground_truth"))  # stable: else the first
    regions = [
        each
        for each in _list(made[0].get("result") if made else None)
        if isinstance(each, Mapping) and each.get("type") != "choices"
    ]
    sizes = [each for each in regions if each.get("original_width")]
    try:
        width, height = numbers_of(sizes[0].get(f"original_{side}") for side in ("width", "height"))
    except (IndexError, ValueError):
        width, height = 0.0, 0.0
    image = labels.image(_image_name(task), source=source, wh=(width, height))
    for number, region in enumerate(regions, 1):
        with image.object(number) as found:
            _read_region(found, region, (width / 100, height / 100))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _image_name(task: Mapping[str, Any]) -> str:
    """The image's path in the local storage, or else the last part of its address."""
    data = task.get("data")
    texts = [each for each in (data.values() if isinstance(data, Mapping) else ()) if isinstance(each, str)]
    address = next((each for each in texts if "/" in each or "." in each), str(task.get("file_upload") or ""))
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    local = parse_qs(parts.query).get("d")
    return local[0] if local else unquote(parts.path).rpartition("/")[2] or f"task {task.get('id')}"


def _read_region(found: ObjectLabels, region: Mapping[str, Any], scale: tuple[float, float]) -> None:
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
        found.count("of several labels of a region the first is read")
    if kind == "polygonlabels":
        points = [[x * scale[0], y * scale[1]] for x, y in map(numbers_of, _list(value.get("points")))]
        found.polygon(label, points)
        return
    x, y = (at * by for at, by in zip(numbers_of([value.get("x"), value.get("y")]), scale, strict=True))
    if kind == "keypointlabels":
        found.point(label, x, y)
        return
    (degrees,) = numbers_of([value.get("rotation") or 0])
    if degrees:
        found.count(ROTATED)
    if kind == "rectanglelabels":
        w, h = (at * by for at, by in zip(numbers_of([value.get("width"), value.get("height")]), scale, strict=True))
        angle = math.radians(degrees)  # about the corner at the top left
        x, y = x + (w * math.cos(angle) - h * math.sin(angle)) / 2, y + (w * math.sin(angle) + h * math.cos(angle)) / 2
        found.box(label, box_around((x, y), (w, h), angle))
    else:
        radii = numbers_of([value.get("radiusX"), value.get("radiusY")])
        rx, ry = (radius * by for radius, by in zip(radii, scale, strict=True))
        found.ellipse(label, (x, y), (rx, ry), angle_deg=degrees)
