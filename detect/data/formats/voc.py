"""Pascal VOC: one XML file for each image, with a box (xmin, ymin, xmax, ymax) for each object.

VOC counts pixels from 1 and includes the last one: the box of a whole image of width 640 goes from 1 to 640. A
coordinate of 0 in any file shows that its tool counts from 0; all files that are read together are then read so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from xml.etree import ElementTree as ET

import numpy as np

from detect.data.coco_entries import Finding
from detect.data.coco_reader import Progress
from detect.data.formats.label_rows import LabelBuilder, LabelRows, ObjectLabels
from detect.data.formats.label_text import folder_of, numbers_of, read_xml, stem_of
from detect.errors import CocoError

CORNERS = ("xmin", "ymin", "xmax", "ymax")
DIFFICULT = "difficult objects are read as crowd regions, which are ignored, as in VOC's own evaluation"


def read_voc(files: Sequence[str], *, keypoints: bool = False, on_progress: Progress | None = None) -> LabelRows:
    """Read VOC files. Difficult objects become crowd regions; an object without a usable box becomes a finding.

    Raises:
        CocoError: the only file cannot be read; one of several becomes a finding.
    """
    labels = LabelBuilder(files[0] if len(files) == 1 else folder_of(files))
    labels.read_each(files, partial(_read_file, labels), on_progress)
    return _counted_from_zero(labels.rows(keypoints=keypoints))


def _read_file(labels: LabelBuilder, file: str) -> None:
    root = read_xml(file)
    if root.tag != "annotation":
        raise CocoError(f"{file}: <{root.tag[:40]}> at the top, not <annotation> as in VOC files")
    width, height = (_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    name = (root.findtext("filename") or "").strip() or stem_of(file)
    image = labels.image(name, source=file, wh=(width, height))
    for number, entry in enumerate(root.iter("object"), 1):
        with image.object(number) as found:
            _read_object(found, entry)


def _read_object(found: ObjectLabels, entry: ET.Element) -> None:
    if entry.find("bndbox") is None:
        raise ValueError("it has no bndbox")
    corners = numbers_of((entry.findtext(f"bndbox/{name}") or "").strip() for name in CORNERS)
    crowd = _number(entry.findtext("difficult")) > 0
    if crowd:
        found.count(DIFFICULT)
    found.box(entry.findtext("name"), corners, iscrowd=crowd)


def _number(text: str | None) -> float:
    """The number of a text, 0 if it has none."""
    try:
        return numbers_of([text])[0]
    except ValueError:
        return 0.0


def _counted_from_zero(rows: LabelRows) -> LabelRows:
    """Move boxes whose coordinates count from 1: pixel 1 begins at 0."""
    boxes_xywh = rows.annotations.boxes_xywh
    if not len(boxes_xywh):
        return rows
    lowest = np.unravel_index(boxes_xywh[:, :2].argmin(), (len(boxes_xywh), 2))[0]
    if boxes_xywh[lowest, :2].min() < 1:
        place = rows.sources[rows.annotations.image_ids[lowest] - 1]
        reason = f"coordinates are taken to count from 0, not from 1 as VOC's: {place} has one below 1"
        rows.suspicious.append(Finding(rows.file, None, None, reason))
        return rows
    moved = boxes_xywh + np.array([-1, -1, 1, 1])  # the corner at the top left moves, the one at the bottom right stays
    rows.annotations = replace(rows.annotations, boxes_xywh=moved)
    return rows
