"""A small dataset of rods (two keypoints) and balls (one), and results for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detect.data import CocoResults, read_coco, read_results
from detect.keypoints.coco_keypoints import CocoKeypoints, coco_keypoints


def dataset_of(*annotations: dict[str, Any]) -> dict[str, Any]:
    """Two images of 200 x 200 pixels, a category of two keypoints and one of one."""
    entries = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 30], **entry}
        for number, entry in enumerate(annotations, 1)
    ]
    return {
        "images": [{"id": number, "width": 200, "height": 200} for number in (1, 2)],
        "categories": [{"id": 1, "name": "rod"}, {"id": 5, "name": "ball"}],
        "annotations": entries,
    }


ROD = {"keypoints": [12, 13, 2, 14, 15, 1]}
BALL = {"keypoints": [50, 60, 2], "category_id": 5, "image_id": 2}


def results_of(found: CocoKeypoints, entries: list[dict[str, Any]], tmp_path: Path) -> CocoResults:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(entries), "utf-8")
    return read_results(path, found.dataset)


def landmarks(*annotations: dict[str, Any], **options: Any) -> CocoKeypoints:
    return coco_keypoints(read_coco(dataset_of(*annotations), keypoints=True), **options)
