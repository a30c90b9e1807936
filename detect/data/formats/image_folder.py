"""Hugging Face's image folders: ``metadata.jsonl`` with a line for each image; its ``objects`` are boxes in pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detect.data.coco_reader import Progress
from detect.data.formats.label_rows import LabelBuilder, LabelRows, in_order
from detect.data.formats.label_text import json_of, numbers_of, read_text
from detect.errors import CocoError

CATEGORIES = ("categories", "category", "label", "labels", "category_id")


def read_image_folder(
    files: Sequence[str], *, keypoints: bool = False, on_progress: Progress | None = None
) -> LabelRows:
    """Read ``metadata.jsonl`` files. Boxes are (x, y, width, height); a category without a name is ``class 0`` and so on.

    Raises:
        CocoError: a file cannot be read, or a line is not an object with a ``file_name``.
    """
    labels = LabelBuilder(", ".join(files), unit="object")
    for file in in_order(files, on_progress):
        for number, line in enumerate(read_text(file).split("\n"), 1):
            if line.strip():
                _read_line(labels, file, number, line)
    return labels.rows(keypoints=keypoints)


def _read_line(labels: LabelBuilder, file: str, line_number: int, line: str) -> None:
    entry = json_of(line, f"{file}, line {line_number}")
    if not isinstance(entry, Mapping) or not isinstance(entry.get("file_name"), str):
        raise CocoError(f"{file}, line {line_number}: no file_name, as each line of a metadata.jsonl has")
    wide, high = (side if isinstance(side, int) else 0 for side in map(entry.get, ("width", "height")))
    image = labels.image(entry["file_name"], source=f"{file}, line {line_number}", wh=(wide, high))
    if "objects" not in entry:
        labels.count("lines without objects are read as images without objects", image.source)
    for number, (box, category) in enumerate(_objects(entry.get("objects"), file, line_number), 1):
        with image.object(number) as found:
            if not isinstance(box, list) or len(box) != 4:
                raise ValueError(f"bbox {str(box)[:60]} is not (x, y, width, height)")
            x, y, width, height = numbers_of(box)
            label = f"class {category}" if isinstance(category, int) else category
            found.box(label, (x, y, x + width, y + height))


def _objects(objects: Any, file: str, line_number: int) -> list[tuple[Any, Any]]:
    """Pairs of box and category, from an object of lists or a list of objects."""
    if not objects:
        return []
    if isinstance(objects, list) and all(isinstance(each, Mapping) for each in objects):
        return [(each.get("bbox"), next((each[name] for name in CATEGORIES if name in each), None)) for each in objects]
    boxes = objects.get("bbox") if isinstance(objects, Mapping) else None
    categories = next((objects[name] for name in CATEGORIES if name in objects), None) if boxes is not None else None
    if not isinstance(boxes, list) or not isinstance(categories, list) or len(boxes) != len(categories):
        raise CocoError(f"{file}, line {line_number}: objects has no lists bbox and categories of one length")
    return list(zip(boxes, categories, strict=True))
