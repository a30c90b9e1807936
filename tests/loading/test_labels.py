"""Labels of one image, moved and cut with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detect.data import CocoDataset, read_coco
from detect.errors import CocoError
from detect.keypoints.keypoints import coco_keypoints
from detect.loading.labels import ImageLabels, LabelTable
from detect.loading.transforms import View


def labels_of(**given: Any) -> ImageLabels:
    empty = ImageLabels(
        boxes=np.zeros((0, 4)),
        classes=np.zeros(0, np.int64),
        crowd=np.zeros((0, 4)),
        points=np.zeros((0, 2)),
        types=np.zeros(0, np.int64),
        visibility=np.zeros(0, np.int64),
        unlabelled=np.zeros((0, 4)),
    )
    return replace(empty, **given)


def test_a_box_keeps_what_is_inside_and_one_with_little_left_becomes_a_region_to_ignore():
    # of 10 x 10 boxes that reach 5, 7 and 10 columns over the right edge at 20: .5, .3 and 0 are left
    boxes = np.array([[15.0, 0, 25, 10], [17.0, 0, 27, 10], [20.0, 0, 30, 10]])
    cut = labels_of(boxes=boxes, classes=np.array([4, 5, 6])).cut((20, 20), min_visible=0.4)
    assert_array_equal(cut.boxes, [[15, 0, 20, 10]])
    assert_array_equal(cut.classes, [4])
    assert_array_equal(cut.crowd, [[17, 0, 20, 10]])


def test_a_box_that_is_exactly_as_visible_as_it_must_be_stays():
    cut = labels_of(boxes=np.array([[15.0, 0, 25, 10]]), classes=np.array([0])).cut((20, 20), min_visible=0.5)
    assert len(cut.boxes) == 1


def test_a_box_outside_is_gone_even_where_any_part_would_do():
    cut = labels_of(boxes=np.array([[20.0, 0, 30, 10]]), classes=np.array([0])).cut((20, 20), min_visible=0.0)
    assert len(cut.boxes) == len(cut.crowd) == 0


def test_crowds_and_unlabelled_regions_are_cut_and_let_go_when_nothing_is_left():
    regions = np.array([[-5.0, 0, 5, 10], [30.0, 0, 40, 10]])
    cut = labels_of(crowd=regions, unlabelled=regions).cut((20, 20), min_visible=0.4)
    assert_array_equal(cut.crowd, [[0, 0, 5, 10]])
    assert_array_equal(cut.unlabelled, [[-0.5, 0, 5, 10]])  # in pixel indices an image begins at -.5


@pytest.mark.parametrize(("pixel", "first", "last"), [("center", -0.5, 19.5), ("corner", 0.0, 20.0)])
def test_points_on_the_edge_are_inside_and_beyond_it_they_are_not_labelled(pixel_origin, first, last):
    points = np.array([[first, 5], [last, 5], [first - 0.1, 5], [last + 0.1, 5], [5, first - 0.1], [5, last + 0.1]])
    given = labels_of(points=points, types=np.arange(6), visibility=np.full(6, 2), pixel_origin=pixel_origin)
    cut = given.cut((20, 20), min_visible=0.4)
    assert_array_equal(cut.visibility, [2, 2, 0, 0, 0, 0])
    assert_array_equal(cut.types, np.arange(6))  # rows stay, so that points of an instance stay together


def test_regions_about_points_move_as_the_points_do():
    corners = np.array([[3.0, 4.0], [9.0, 8.0]])
    for pixel_origin in ("center", "corner"):
        given = labels_of(points=corners, types=np.zeros(2, int), visibility=np.ones(2, int), pixel_origin=pixel_origin)
        moved = replace(given, unlabelled=corners.reshape(1, 4)).moved(View((20, 20), (2.0, 3.0), (1.0, 0.0)))
        assert_allclose(moved.unlabelled.reshape(2, 2), moved.points, rtol=1e-12)


def dataset_of(*annotations: dict[str, Any]) -> CocoDataset:
    entries = [{"id": number, "bbox": [1, 2, 3, 4], **each} for number, each in enumerate(annotations, 1)]
    return read_coco(
        {
            "images": [{"id": number, "width": 20, "height": 20} for number in (3, 5, 9)],
            "categories": [{"id": 2, "name": "a"}, {"id": 7, "name": "b"}, {"id": 90, "name": "c"}],
            "annotations": entries,
        },
        keypoints=True,
    )


def test_each_image_has_its_own_labels_and_classes_count_over_gaps_in_the_ids():
    dataset = dataset_of(
        {"image_id": 9, "category_id": 90, "bbox": [0, 0, 10, 10]},
        {"image_id": 3, "category_id": 7, "keypoints": [5, 6, 2]},
        {"image_id": 9, "category_id": 2, "bbox": [5, 5, 10, 10], "iscrowd": 1},
        {"image_id": 9, "category_id": 2},
    )
    table = LabelTable(dataset, coco_keypoints(dataset), (2, 7, 90))
    first, second, third = map(table.of_image, range(3))
    assert_array_equal(first.boxes, [[1, 2, 4, 6]])
    assert_array_equal(first.classes, [1])
    assert_array_equal(first.points, [[5, 6]])
    assert len(second.boxes) == len(second.crowd) == len(second.points) == len(second.unlabelled) == 0
    assert_array_equal(third.classes, [2, 0])
    assert_array_equal(third.crowd, [[5, 5, 15, 15]])
    assert len(third.unlabelled) == 3  # the crowd, and two instances without a labelled point


def test_labelled_points_outside_their_image_are_counted():
    dataset = dataset_of(
        {"image_id": 3, "category_id": 2, "keypoints": [5, 6, 2]},
        {"image_id": 3, "category_id": 2, "keypoints": [25, 6, 1]},
        {"image_id": 5, "category_id": 2, "keypoints": [5, -6, 2]},
    )
    assert LabelTable(dataset, coco_keypoints(dataset), (2, 7, 90)).points_outside == 2


def test_a_category_that_is_no_class_is_named():
    dataset = dataset_of({"image_id": 3, "category_id": 7}, {"image_id": 3, "category_id": 90, "iscrowd": 1})
    with pytest.raises(CocoError, match="annotations are of category 7, 90; the classes are of 1, 2"):
        LabelTable(dataset, None, (1, 2))


def test_category_ids_rise():
    with pytest.raises(ValueError, match=r"category ids rise, each stands once, got \[2, 2\]"):
        LabelTable(dataset_of(), None, (2, 2))
