"""Small inputs that several test files build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
