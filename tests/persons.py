"""Objects of several keypoints each, as those of persons in COCO's files, and results for them."""

from __future__ import annotations

from typing import Any

import numpy as np


def random_persons(
    seed: int, *, num_types: int = 4, num_images: int = 6
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A dataset as in COCO's files, objects labelled in part, in nothing, and crowds; and results near and far from them."""
    draws = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, num_images + 1):
        for _ in range(int(draws.integers(0, 6))):
            points = draws.uniform(0, 200, (num_types, 2))
            seen = draws.integers(0, 3, num_types) * (draws.random() < 0.8)
            box = [*points.min(axis=0), *np.ptp(points, axis=0)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "keypoints": np.column_stack([points * (seen > 0)[:, None], seen]).ravel().tolist(),
                    "num_keypoints": int((seen > 0).sum()),
                    "area": float(draws.uniform(500, 40000)),
                    "bbox": [float(number) for number in box],
                    "iscrowd": int(draws.random() < 0.2),
                }
            )
            for _ in range(int(draws.integers(0, 3))):
                placed = points + draws.normal(scale=draws.choice([1.0, 8.0, 40.0]), size=points.shape)
                results.append(
                    {
                        "image_id": image,
                        "category_id": 1,
                        "keypoints": np.column_stack([placed, np.ones(num_types)]).ravel().tolist(),
                        "score": float(np.round(draws.random(), 1)),
                    }
                )
    images = [{"id": image, "height": 200, "width": 200} for image in range(1, num_images + 1)]
    categories = [{"id": 1, "name": "thing"}]
    return {"images": images, "categories": categories, "annotations": annotations}, results
