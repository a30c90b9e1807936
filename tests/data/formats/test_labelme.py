"""LabelMe files: every shape, corners in any order, pictures inside the files."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from builders import findings_below, label_folder, labels_in_words

from detect.data.read_dataset import read_dataset


def labelme(*shapes: Any, **fields: Any) -> str:
    head = {"version": "5.0.1", "flags": {}, "shapes": list(shapes), "imagePath": "a.png"}
    return json.dumps({**head, "imageData": "QUJD" * 1000, "imageHeight": 50, "imageWidth": 100, **fields})


def shape(kind: str, *points: Any, **fields: Any) -> dict[str, Any]:
    return {"label": "cat", "shape_type": kind, "points": [list(point) for point in points], **fields}


PLACE = "a.json, shape 1: annotation 1, image 1: "
SHAPES: dict[str, tuple[Any, list[str], list[str], list[str]]] = {
    "a rectangle": (shape("rectangle", (1, 2), (11, 22)), ["cat 1 2 10 20"], [], []),
    "a rectangle with swapped corners": (shape("rectangle", (11, 22), (1, 2)), ["cat 1 2 10 20"], [], []),
    "a rectangle of four corners": (shape("rectangle", (1, 2), (1, 22), (11, 22), (11, 2)), ["cat 1 2 10 20"], [], []),
    "a polygon": (shape("polygon", (1, 1), (5, 1), (5, 7)), ["cat 1 1 4 6"], [], []),
    "a point": (shape("point", (3, 4)), ["cat 2.5 3.5 1 1 3 4 2"], [], []),
    "a circle": (
        *(shape("circle", (20, 20), (23, 24)), ["cat 15 15 10 10"], []),
        ["a.json: circles are read as the boxes around them: 1, the first is a.json, shape 1"],
    ),
    "a line": (
        *(shape("line", (1, 1), (5, 5)), []),
        *([f"{PLACE}a line of 2 points is neither a rectangle, polygon, circle, mask nor point"], []),
    ),
    "a polygon of two points": (*(shape("polygon", (1, 1), (5, 5)), [], [f"{PLACE}a polygon of 2 points"], []),),
    "a label that is a number": (*(shape("point", (3, 4), label=7), [], [f"{PLACE}its label is 7, not a name"], []),),
    "points that are no pairs": (
        *({**shape("polygon"), "points": [[1, 2, 3]]}, [], [f"{PLACE}its points are not pairs (x, y)"], []),
    ),
    "not an object": (5, [], [f"{PLACE}it has no list of points"], []),
    "not finite": (shape("point", (float("nan"), 4)), [], [f"{PLACE}nan is not a number"], []),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_what_is_kept_counted_and_said_of_a_shape(tmp_path, kind):
    one, annotations, invalid, suspicious = SHAPES[kind]
    dataset = read_dataset(label_folder(tmp_path, {"a.json": labelme(one)}), keypoints=True)
    assert labels_in_words(dataset) == [f"a.png: {each}" for each in annotations]
    assert findings_below(tmp_path, dataset.invalid) == invalid
    assert findings_below(tmp_path, dataset.suspicious) == suspicious


def test_a_path_of_another_machine_is_found_by_the_images_name(tmp_path):
    text = labelme(shape("rectangle", (1, 2), (11, 22)), imagePath="..\\images\\a.png", imageHeight=None)
    label_folder(tmp_path, {"labels/a.json": text, "images/a.png": (100, 50)})
    for images in (None, tmp_path / "images"):
        dataset = read_dataset(tmp_path / "labels", images=images)
        np.testing.assert_array_equal(dataset.images.wh, [[100, 50]])
    assert dataset.images.file_names == ("a.png",)
