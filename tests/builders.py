"""Small inputs that several test files build."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from detect.anchors.instances import ResizedInstances
from detect.data import read_coco
from detect.samples import sample_annotations

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
