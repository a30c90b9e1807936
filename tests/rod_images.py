"""Images of rods over crops of the nuclei's images, labelled with a head and a tail or with an angle, from a seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from detect.samples import sample_annotations

SIDE_PX = 96
BODY, HEAD = 150.0, 255.0  # grey values
HALF_WIDTH_PX, APART_PX = 2.0, 18.0


def write_rods(
    folder: Path, *, num_images: int, seed: int, heads: bool, name: str = "rods", with_angles: bool = False
) -> Path:
    """Write images and a COCO file, whose path is returned. Heads are bright; without them both ends are alike.

    Then an end drawn by chance is labelled as the head, so that nothing but the axis can be learned. ``with_angles`` labels
    the same rods by their middle and the field ``angle`` in degrees.
    """
    random = np.random.default_rng(seed)
    backgrounds = sorted((sample_annotations("nuclei").parent / "images").glob("*.png"))
    images, annotations = [], list[dict[str, object]]()
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, num_images + 1):
        values = _crop(backgrounds[random.integers(len(backgrounds))], random)
        for middle in _middles(random):
            angle, half = random.uniform(-np.pi, np.pi), random.uniform(6.0, 9.0)
            arm = half * np.array([np.cos(angle), np.sin(angle)])
            head, tail = middle + arm, middle - arm
            _draw(values, head, tail, BODY, HALF_WIDTH_PX)
            if heads:
                _draw(values, head, head - arm / 3, HEAD, HALF_WIDTH_PX)
            low, high = np.minimum(head, tail) - 2, np.maximum(head, tail) + 3
            own = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "num_keypoints": 2}
            box = [*low.tolist(), *(high - low).tolist()]
            ends: dict[str, object] = {"keypoints": [*head.tolist(), 2, *tail.tolist(), 2]}
            if with_angles:
                ends = {"num_keypoints": 1, "keypoints": [*middle.tolist(), 2], "angle": float(np.rad2deg(angle))}
            annotations.append({**own, "bbox": box, **ends})
        file_name = f"{name}_{number:03}.png"
        Image.fromarray(values.round().astype(np.uint8)).save(folder / file_name)
        images.append({"id": number, "width": SIDE_PX, "height": SIDE_PX, "file_name": file_name})
    path = folder / f"{name}.json"
    category = {"id": 1, "name": "rod", "keypoints": ["middle"] if with_angles else ["head", "tail"]}
    path.write_text(json.dumps({"images": images, "categories": [category], "annotations": annotations}), "utf-8")
    return path


def _crop(path: Path, random: np.random.Generator) -> Float[ndarray, "h w"]:
    with Image.open(path) as image:
        values = np.asarray(image.convert("L"), float)
    y, x = (random.integers(side - SIDE_PX + 1) for side in values.shape)
    return values[y : y + SIDE_PX, x : x + SIDE_PX].copy()


def _middles(random: np.random.Generator) -> list[Float[ndarray, " 2"]]:
    middles = list[ndarray]()
    for point in random.uniform(12, SIDE_PX - 13, (random.integers(3, 9), 2)):
        if all(np.hypot(*(point - other)) > APART_PX for other in middles):
            middles.append(point)
    return middles


def _draw(values: Float[ndarray, "h w"], start: ndarray, end: ndarray, grey: float, half_width: float) -> None:
    """Draw a line with round ends in place; each pixel is mixed by its distance from the line."""
    y, x = np.mgrid[: values.shape[0], : values.shape[1]]
    along = end - start
    share = np.clip(((x - start[0]) * along[0] + (y - start[1]) * along[1]) / (along @ along), 0, 1)
    distance = np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1])
    cover = np.clip(half_width + 0.5 - distance, 0, 1)
    values += cover * (grey - values)
