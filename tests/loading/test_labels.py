"""LabelMap of one image, moved and cut with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from detect.data import CocoDataset, read_coco
from detect.errors import CocoError, ConfigError
from detect.keypoints.coco_keypoints import ALL_TYPES, coco_keypoints
from detect.keypoints.orientations import directions
from detect.loading.augment import flip, rotate90, zoom_window
from detect.loading.image_ops import Picture
from detect.loading.labels import ImageLabels, LabelMap, labels_by_image
from detect.loading.transforms import Transform


def labels_of(**given: Any) -> ImageLabels:
    empty = ImageLabels(
        boxes=np.zeros((0, 4)),
        classes=np.zeros(0, np.int64),
        crowd=np.zeros((0, 4)),
        points=np.zeros((0, 2)),
        types=np.zeros(0, np.int64),
        visibility=np.zeros(0, np.int64),
        unlabelled=np.zeros((0, 4)),
        unlabelled_types=np.zeros(0, np.int64),
    )
    return replace(empty, **given)


def test_a_box_keeps_what_is_inside_and_one_with_little_left_becomes_a_region_to_ignore():
    # of 10 x 10 boxes that reach 5, 7 and 10 columns over the right edge at 20: .5, .3 and 0 are left
    boxes = np.array([[15.0, 0, 25, 10], [17.0, 0, 27, 10], [20.0, 0, 30, 10]])
    cut = labels_of(boxes=boxes, classes=np.array([4, 5, 6])).clipped((20, 20), min_visible=0.4)
    assert_array_equal(cut.boxes, [[15, 0, 20, 10]])
    assert_array_equal(cut.classes, [4])
    assert_array_equal(cut.crowd, [[17, 0, 20, 10]])


def test_a_box_that_is_exactly_as_visible_as_it_must_be_stays():
    cut = labels_of(boxes=np.array([[15.0, 0, 25, 10]]), classes=np.array([0])).clipped((20, 20), min_visible=0.5)
    assert len(cut.boxes) == 1


def test_a_box_outside_is_gone_even_where_any_part_would_do():
    cut = labels_of(boxes=np.array([[20.0, 0, 30, 10]]), classes=np.array([0])).clipped((20, 20), min_visible=0.0)
    assert len(cut.boxes) == len(cut.crowd) == 0


def test_crowds_and_unlabelled_regions_are_cut_and_let_go_when_nothing_is_left():
    regions = np.array([[-5.0, 0, 5, 10], [30.0, 0, 40, 10]])
    given = labels_of(crowd=regions, unlabelled=regions, unlabelled_types=np.array([3, 4]))
    cut = given.clipped((20, 20), min_visible=0.4)
    assert_array_equal(cut.unlabelled_types, [3])
    assert_array_equal(cut.crowd, [[0, 0, 5, 10]])
    assert_array_equal(cut.unlabelled, [[-0.5, 0, 5, 10]])  # in pixel indices an image begins at -.5


@pytest.mark.parametrize(("pixel_origin", "first", "last"), [("center", -0.5, 19.5), ("corner", 0.0, 20.0)])
def test_points_on_the_edge_are_inside_and_beyond_it_they_are_not_labelled(pixel_origin, first, last):
    points = np.array([[first, 5], [last, 5], [first - 0.1, 5], [last + 0.1, 5], [5, first - 0.1], [5, last + 0.1]])
    given = labels_of(points=points, types=np.arange(6), visibility=np.full(6, 2), pixel_origin=pixel_origin)
    cut = given.clipped((20, 20), min_visible=0.4)
    assert_array_equal(cut.visibility, [2, 2, 0, 0, 0, 0])
    assert_array_equal(cut.types, np.arange(6))  # rows stay, so that points of an instance stay together


def test_regions_about_points_move_as_the_points_do():
    corners = np.array([[3.0, 4.0], [9.0, 8.0]])
    for pixel_origin in ("center", "corner"):
        given = labels_of(points=corners, types=np.zeros(2, int), visibility=np.ones(2, int), pixel_origin=pixel_origin)
        given = replace(given, unlabelled=corners.reshape(1, 4), unlabelled_types=np.zeros(1, int))
        moved = given.transformed(Transform((20, 20), (2.0, 3.0), (1.0, 0.0)))
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
    first, second, third = labels_by_image(dataset, coco_keypoints(dataset), category_ids=(2, 7, 90))
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
    labels = labels_by_image(dataset, coco_keypoints(dataset), category_ids=(2, 7, 90))
    assert [each.num_points_outside((20, 20)) for each in labels] == [1, 1, 0]


def test_classes_are_the_rows_of_sorted_ids_with_gaps():
    dataset = read_coco(
        {"images": [], "categories": [{"id": 90, "name": "b"}, {"id": 3, "name": "a"}], "annotations": []}
    )
    assert LabelMap.of(dataset) == LabelMap((3, 90), ("a", "b"))


def test_each_keypoint_of_a_category_is_a_type():
    dataset = dataset_of({"image_id": 3, "category_id": 7, "keypoints": [2, 2, 2, 5, 5, 2]})
    labels = LabelMap.of(dataset, coco_keypoints(dataset))
    assert labels.type_names == ("b 0", "b 1")
    assert [labels.keypoint_table(number) for number in (0, 1)] == [(7, 0, 2), (7, 1, 2)]
    with pytest.raises(ValueError, match="no category has the keypoint type 2"):
        labels.keypoint_table(2)


@pytest.mark.parametrize(
    ("unlabelled", "boxes", "types"),
    [
        ("ignore", [[0.5, 1.5, 3.5, 5.5], [0.5, 1.5, 3.5, 5.5]], [ALL_TYPES, 1]),
        ("background", [[0.5, 1.5, 3.5, 5.5]], [ALL_TYPES]),
        ("map", [[0.5, 1.5, 3.5, 5.5], [-0.5, -0.5, 19.5, 19.5]], [ALL_TYPES, 1]),
    ],
)
def test_a_keypoint_without_a_label_may_be_anywhere_in_its_object(unlabelled, boxes, types):
    dataset = dataset_of(
        {"image_id": 5, "category_id": 7, "keypoints": [2, 2, 2, 0, 0, 0]},
        {"image_id": 5, "category_id": 7, "keypoints": [0, 0, 0, 0, 0, 0]},  # nothing is known of its keypoints
    )
    _, image, _ = labels_by_image(dataset, coco_keypoints(dataset), category_ids=(2, 7, 90), unlabelled=unlabelled)
    assert_array_equal(image.unlabelled, boxes)
    assert_array_equal(image.unlabelled_types, types)


def test_without_categories_there_is_nothing_to_detect():
    with pytest.raises(ConfigError, match="no categories"):
        LabelMap.of(read_coco({"images": [], "categories": [], "annotations": []}))


def test_a_dataset_that_numbers_its_categories_otherwise_is_refused():
    LabelMap((2, 7), ("A", "b")).check_names(dataset_of())
    with pytest.raises(CocoError, match="category 7 is 'b'; it was learned as 'c'"):
        LabelMap((2, 7), ("a", "c")).check_names(dataset_of())


def tips_of(points: np.ndarray, tips: np.ndarray) -> ImageLabels:
    column = np.ones(len(points), np.int64)
    return labels_of(points=points, types=column, visibility=column, tips=tips)


def turned(angles_deg: list[float], change: Callable[[Picture], Picture]) -> list[float]:
    """Degrees of angles after a change of their picture."""
    points, angles = np.tile([[5.0, 7.0]], (len(angles_deg), 1)), np.deg2rad(angles_deg)
    moved = change(Picture(torch.zeros(1, 20, 30), Transform((30, 20)), (30, 20)))
    found = tips_of(points, points + directions(angles)).transformed(moved.transform).angles
    return np.rad2deg(found).round(6).tolist()


@pytest.mark.parametrize(
    ("change", "wanted"),
    {
        "nothing": (lambda each: each, [30, 135, -90]),
        "columns": (partial(flip, along_x=True, along_y=False), [150, 45, -90]),
        "rows": (partial(flip, along_x=False, along_y=True), [-30, -135, 90]),
        "both": (partial(flip, along_x=True, along_y=True), [-150, -45, 90]),
        "a quarter, counter-clockwise": (partial(rotate90, quarters=1), [-60, 45, -180]),
        "a half": (partial(rotate90, quarters=2), [-150, -45, 90]),
        "three quarters": (partial(rotate90, quarters=3), [120, -135, 0]),
        "a window": (partial(zoom_window, factor=1.3, position_xy=(0.2, 0.8)), [30, 135, -90]),
    }.values(),
)
def test_angles_turn_with_the_picture(change, wanted):
    difference = np.subtract(turned([30, 135, -90], change), wanted) % 360
    assert_allclose(np.minimum(difference, 360 - difference), 0, atol=1e-5)


def test_a_stretch_changes_angles_and_unknown_ones_stay_unknown():
    """Twice as wide: a diagonal falls to atan(1 / 2)."""
    points = np.array([[5.0, 7.0], [6.0, 7.0]])
    given = tips_of(points, points + np.array([[1.0, 1.0], [np.nan, np.nan]]))
    assert_allclose(np.rad2deg(given.transformed(Transform((20, 20), (2.0, 1.0))).angles), [26.565051, np.nan])
    assert labels_of().transformed(Transform((20, 20))).angles is None
