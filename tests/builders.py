"""Small inputs that several test files build."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_array_equal
from torch import Tensor

from detect.anchors.generator import GridAnchors
from detect.anchors.instances import ResizedInstances
from detect.data import CocoDataset, Finding, read_coco
from detect.errors import CocoError
from detect.ops.grid_matcher import LevelGrid
from detect.samples import sample_annotations

# ---- heads, losses, ops, detectors


def one_cell(boxes: Tensor) -> LevelGrid:
    """A level whose only cell has these boxes as its anchors, so that anchors may lie anywhere."""
    return LevelGrid(1, 1, (1.0, 1.0), boxes)


def grid_anchors(boxes: Tensor, num_per_level: Sequence[int] | None = None) -> GridAnchors:
    """Anchors that lie anywhere, some on each level."""
    levels = torch.split(boxes, list(num_per_level or [len(boxes)]))
    return GridAnchors(boxes, tuple(one_cell(level) for level in levels))


def random_boxes(count: int, seed: int, *, side: float = 100.0) -> Tensor:
    """Boxes with corners and sizes of whole pixels, so that many overlaps are equal."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * side
    size = torch.rand(count, 2, generator=random) * side / 2 + 1
    return torch.cat([corner, corner + size], dim=1).round()


def random_images(*shape: int) -> Tensor:
    """Images (b, d, h, w) from 0 to 1."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


# ---- data, anchors


def coco_content(
    boxes: Sequence[Sequence[float]],
    *,
    ids: Sequence[int] | None = None,
    image_wh: tuple[int, int] = (64, 64),
    image_ids: Sequence[int] | None = None,
    category_ids: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Boxes (x, y, width, height); by default with ids from 1, in image 1 and of category 1."""
    ids = range(1, len(boxes) + 1) if ids is None else ids
    image_ids = [1] * len(boxes) if image_ids is None else image_ids
    category_ids = [1] * len(boxes) if category_ids is None else category_ids
    rows = zip(ids, image_ids, category_ids, boxes, strict=True)
    return {
        "images": [
            {"id": int(id_), "width": image_wh[0], "height": image_wh[1]} for id_ in sorted(set(image_ids) or {1})
        ],
        "categories": [{"id": int(id_), "name": f"type {id_}"} for id_ in sorted(set(category_ids) or {1})],
        "annotations": [
            {"id": id_, "image_id": int(image), "category_id": int(category), "bbox": list(map(float, box))}
            for id_, image, category, box in rows
        ],
    }


def instances_of(boxes: Sequence[Sequence[float]], resize: str = "none", **fields: Any) -> ResizedInstances:
    """The boxes of :func:`coco_content` after a resize rule."""
    return ResizedInstances.of(read_coco(coco_content(boxes, **fields)), resize)


def part_of(sample: str, resize: str, step: int) -> ResizedInstances:
    """The instances in every ``step``-th image of a sample."""
    content = json.loads(sample_annotations(sample).read_text())
    content["images"] = content["images"][::step]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
    return ResizedInstances.of(read_coco(content), resize)


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


# ---- cli


def written(path: Path, content: Any) -> Path:
    """A file with a text, or with JSON."""
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def points_dataset(**changes: Any) -> dict[str, Any]:
    """Four images with two points, one, none, and one that lies in a crowd of 40 x 40 pixels."""
    points = {1: [(10, 10), (50, 50)], 2: [(20, 20)], 4: [(30, 30)]}
    rows = [(image, [x, y, 2], [x - 5, y - 4, 10, 8], 0) for image, own in points.items() for x, y in own]
    rows.append((4, [0, 0, 0], [0, 0, 40, 40], 1))
    annotations = [
        {"id": number, "image_id": image, "category_id": 1, "keypoints": keypoints, "bbox": box, "iscrowd": crowd}
        for number, (image, keypoints, box, crowd) in enumerate(rows, 1)
    ]
    return {
        "images": [{"id": number, "width": 100, "height": 100, "file_name": f"{number}.png"} for number in range(1, 5)],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": annotations,
        **changes,
    }
