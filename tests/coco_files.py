"""A COCO file with nothing wrong, with one thing wrong, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from numpy.testing import assert_array_equal

from detect.data import CocoDataset, Finding, read_coco
from detect.errors import CocoError

MISSING = object()


def coco_with_one_box() -> dict[str, Any]:
    """One image with one box, nothing wrong."""
    return {
        "images": [{"id": 1, "width": 100, "height": 80, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0, "area": 12}],
    }


def coco_with(kind: str, field: str | None, value: Any) -> dict[str, Any]:
    """The same with one field of an entry, one entry, or (``kind`` at the top) one list replaced or left out."""
    broken = coco_with_one_box()
    parent, key = (broken, kind) if field is None else (broken[kind][0], field)
    if field == "*":
        parent, key = broken[kind], 0
    if value is MISSING:
        del parent[key]
    else:
        parent[key] = value
    return broken


def assert_one_box(dataset: CocoDataset) -> None:
    assert (dataset.invalid, dataset.suspicious) == ((), ())
    assert_array_equal(dataset.instances.ids, [7])
    assert_array_equal(dataset.instances.boxes_xywh, [[1.0, 2.0, 3.0, 4.0]])


def coco_error(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(CocoError) as caught:
        read_coco(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def boxes_on_one_image(*boxes: dict[str, Any]) -> dict[str, Any]:
    """A 100 x 80 image with these annotations, numbered from 1."""
    return {
        "images": [{"id": 4, "width": 100, "height": 80, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "dust"}],
        "annotations": [{"id": number, "image_id": 4, "category_id": 1, **box} for number, box in enumerate(boxes, 1)],
    }


def findings_in_words(findings: Iterable[Finding]) -> list[tuple[int | None, int | None, str]]:
    return [(finding.annotation_id, finding.image_id, finding.reason) for finding in findings]


ONE_BOX_TEXT = json.dumps(coco_with_one_box()).encode()


def text_with(old: bytes, new: bytes) -> bytes:
    """``ONE_BOX_TEXT`` with one part replaced."""
    assert ONE_BOX_TEXT.count(old) == 1
    return ONE_BOX_TEXT.replace(old, new)


def name_of(value: Any) -> str | None:
    """The name of a parametrized value in a test's id."""
    return "missing" if value is MISSING else None
