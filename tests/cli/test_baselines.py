"""``detect evaluate --baseline`` as a user types it: what needs no learning, below the detector."""

from __future__ import annotations

import re

import numpy as np
import pytest
from builders import written
from numpy.testing import assert_array_equal
from PIL import Image

from detect.cli.baselines import results_of


@pytest.mark.parametrize("task", ["boxes", "landmarks"])
def test_a_row_without_learning_stands_below_the_detector_s(detect, truth, tmp_path, trained, task):
    """Bright discs on black, which both methods find wherever they are."""
    images, annotations = [], []
    for number, (x, y) in enumerate([(20, 30), (70, 40), (50, 80)], 1):
        rows, columns = np.mgrid[:100, :100]
        disc = np.where((columns - x) ** 2 + (rows - y) ** 2 <= 64, 200, 10).astype(np.uint8)
        Image.fromarray(disc).save(tmp_path / f"{number}.png")
        images.append({"id": number, "width": 100, "height": 100, "file_name": f"{number}.png"})
        place = {"bbox": [x - 8, y - 8, 17, 17], "keypoints": [x, y, 2], "num_keypoints": 1}
        annotations.append({"id": number, "image_id": number, "category_id": 4, "area": 200, "iscrowd": 0, **place})
    categories = [{"id": 4, "name": "nucleus"}]
    parts = [(images[:2], annotations[:2]), (images[2:], annotations[2:])]
    train, val = (
        written(tmp_path / f"{name}.json", {"images": own, "annotations": labels, "categories": categories})
        for name, (own, labels) in zip(("train", "val"), parts, strict=True)
    )
    data = {"train": [str(train)], "val": [str(val)], "images": str(tmp_path)}
    folder = trained(task, names={4: "nucleus"}, threshold=0.5, data=data)
    run = detect("evaluate", folder, "--baseline", "--json")
    below = run.json["baseline"]
    scores = below["overall"]["ap"] if task == "boxes" else below["overall"][0]["micro"]["f1"]
    assert scores == pytest.approx(1.0)
    assert ("bright components" if task == "boxes" else "bright blobs") in below["method"]
    out = detect("evaluate", folder, "--baseline").out
    assert re.search(r"all, without learning +1\.000" if task == "boxes" else r"1 px, without learning +1\.000", out)


def test_results_are_of_one_category_and_each_image():
    scores = [np.array([0.5, 0.25]), np.zeros(0), np.array([0.75])]
    boxes = [np.array([[1.0, 2, 4, 6], [0, 0, 1, 1]]), np.zeros((0, 4)), np.array([[5.0, 5, 6, 7]])]
    found = results_of(7, scores, boxes=boxes)
    assert_array_equal(found.image_rows, [0, 0, 2])
    assert_array_equal(found.category_ids, [7, 7, 7])
    assert_array_equal(found.boxes_xywh, [[1, 2, 3, 4], [0, 0, 1, 1], [5, 5, 1, 2]])
    points = results_of(7, scores, points=[each[:, :2] for each in boxes])
    assert [table.tolist() for table in points.keypoints] == [[[1, 2, 1]], [[0, 0, 1]], [[5, 5, 1]]]
    assert np.isnan(points.boxes_xywh).all()
    assert results_of(7, []).scores.shape == (0,)
