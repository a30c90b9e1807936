"""The text of results files in COCO's format, which :func:`detect.coco.read_results` and pycocotools read."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from detect.coco import CocoDataset, CocoResults


def results_json(results: CocoResults, dataset: CocoDataset) -> bytes:
    """A list of ``image_id``, ``category_id``, ``score``, and ``bbox`` (x, y, width, height) or ``keypoints`` (x, y, v).

    Numbers are written so that they are the same when read again.

    >>> from detect.coco import read_coco
    >>> dataset = read_coco({"images": [{"id": 7, "width": 9, "height": 9}], "categories": [], "annotations": []})
    >>> rows = np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([3]), np.array([0.5]), np.array([[1.0, 2.0, 3.0, 4.0]])
    >>> results_json(CocoResults(*rows, (np.zeros((0, 3)),), ()), dataset)
    b'[{"image_id":7,"category_id":3,"bbox":[1.0,2.0,3.0,4.0],"score":0.5}]'
    """
    entries: list[dict[str, Any]] = []
    columns = (dataset.images.ids[results.image_rows], results.category_ids, results.scores, results.boxes_xywh)
    for image, category, score, box, points in zip(
        *(column.tolist() for column in columns), results.keypoints, strict=True
    ):
        where: dict[str, Any] = {"keypoints": points.reshape(-1).tolist()} if len(points) else {}
        where |= {} if np.isnan(box).any() else {"bbox": box}
        entries.append({"image_id": image, "category_id": category, **where, "score": score})
    return msgspec.json.encode(entries)
