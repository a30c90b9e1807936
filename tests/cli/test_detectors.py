"""Devices, marks of results on images, and images chosen to be shown."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detect.cli.detectors import ResultMarks, load_on, spread_evenly
from detect.data import CocoDataset, CocoResults, read_coco
from detect.errors import ConfigError
from detect.keypoints.coco_keypoints import coco_keypoints


@pytest.fixture
def dataset() -> CocoDataset:
    """Two images; the second has a box of category 4 with a keypoint, one of category 9, and a crowd."""
    rows = [(4, [10, 10, 8, 6], [14, 12, 2], 0), (9, [1, 2, 3, 4], [0, 0, 0], 0), (4, [0, 0, 30, 30], [0, 0, 0], 1)]
    annotations = [
        {"id": number, "image_id": 2, "category_id": category, "bbox": box, "keypoints": keypoints, "iscrowd": crowd}
        for number, (category, box, keypoints, crowd) in enumerate(rows, 1)
    ]
    images = [{"id": number, "width": 40, "height": 30, "file_name": f"{number}.png"} for number in (1, 2)]
    categories = [{"id": 4, "name": "cell"}, {"id": 9, "name": "debris"}]
    return read_coco({"images": images, "categories": categories, "annotations": annotations}, keypoints=True)


def results(*rows: tuple[int, int, float, list[float], list[list[float]]]) -> CocoResults:
    """Results from (image row, category, score, box, keypoints)."""
    image_rows, categories, scores, boxes, keypoints = zip(*rows, strict=True)
    tables = tuple(np.array(table, float).reshape(-1, 3) for table in keypoints)
    columns = np.array(image_rows), np.array(categories), np.array(scores), np.array(boxes, float)
    return CocoResults(np.arange(len(rows)), *columns, tables, ())


def test_a_device_that_is_not_there_is_named_before_the_checkpoint_is_read(tmp_path):
    with pytest.raises(ConfigError, match="--device gpu: "):
        load_on(tmp_path / "nothing.pt", "gpu")


def test_results_of_enough_score_are_drawn_in_rising_order_of_score(dataset):
    found = results((1, 9, 0.9, [1, 1, 2, 2], []), (0, 4, 0.8, [5, 5, 5, 5], []), (1, 4, 0.5, [3, 3, 4, 4], []),
                    (1, 4, 0.2, [7, 7, 1, 1], []))  # fmt: skip
    marks = ResultMarks(dataset, found, 0.5).predicted(1)
    assert_array_equal(marks.boxes, [[3, 3, 7, 7], [1, 1, 3, 3]])
    assert_array_equal(marks.classes, [0, 1])  # category 4 is the first, 9 the second
    assert [text.split()[0] for text in marks.texts] == ["cell", "debris"]
    assert len(ResultMarks(dataset, found, 0.5).predicted(0).boxes) == 1


def test_points_are_drawn_in_continuous_pixels(dataset):
    found = results((1, 4, 0.9, [np.nan] * 4, [[14, 12, 1]]))
    for pixel_origin, shift in (("center", 0.5), ("corner", 0.0)):
        marks = ResultMarks(dataset, found, 0.5, pixel_origin=pixel_origin).predicted(1)
        assert_array_equal(marks.points, [[14 + shift, 12 + shift]])
        assert len(marks.boxes) == 0


def test_the_truth_is_boxes_without_crowds_or_labelled_points(dataset):
    nothing = CocoResults(*np.zeros((3, 0), np.int64), np.zeros(0), np.zeros((0, 4)), (), ())
    boxes = ResultMarks(dataset, nothing, 0.5).truth(1)
    assert_array_equal(boxes.boxes, [[10, 10, 18, 16], [1, 2, 4, 6]])
    points = ResultMarks(dataset, nothing, 0.5, coco_keypoints(dataset)).truth(1)
    assert_array_equal(points.points, [[14.5, 12.5]])
    assert len(ResultMarks(dataset, nothing, 0.5).truth(0).boxes) == 0


def test_rows_are_spread_from_the_first_to_the_last():
    assert spread_evenly([5], 12) == [5]
    assert spread_evenly([], 12) == []
    assert spread_evenly(range(10), 4) == [0, 3, 6, 9]
    assert spread_evenly([2, 3], 12) == [2, 3]
