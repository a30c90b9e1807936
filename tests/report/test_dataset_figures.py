"""Figures of the dataset: every box and image is counted, and the largest groups are shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from builders import instances_of
from numpy.testing import assert_allclose
from pages import GROWING_BOXES, TWO_LEVELS, boxes_in_files, many_boxes

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.metrics import anchor_metrics
from detect.data import Annotations, CocoDataset, Images
from detect.report.dataset_figures import (
    MAX_BARS,
    MAX_CATEGORIES,
    MAX_SIZES,
    average_iou_panels,
    box_centers,
    boxes_per_image,
    image_sizes,
    object_sizes,
)


def test_at_most_forty_categories_the_largest_first() -> None:
    score = anchor_metrics(many_boxes(3000, num_categories=90), TWO_LEVELS)
    panel = average_iou_panels([score])[2]
    shown = panel.figure.data[0].y
    counts = sorted((group.count for group in score.by_category), reverse=True)
    largest = max(score.by_category, key=lambda group: group.count)
    assert len(shown) == MAX_CATEGORIES == 40
    assert shown[0] == largest.grid_average_iou
    assert panel.figure.layout.xaxis.ticktext[0].endswith(f"  {counts[0]}")
    assert "the 40 of 90 categories with the most boxes" in panel.caption


def test_categories_of_one_name_stay_apart() -> None:
    panel = average_iou_panels(
        [anchor_metrics(boxes_in_files(GROWING_BOXES, names=["7", "7", "2020-01-01"]), TWO_LEVELS)]
    )[2]
    assert list(panel.figure.data[0].x) == [0, 1, 2]
    assert len(panel.figure.layout.xaxis.ticktext) == 3


def test_image_sizes_are_thinned_to_the_most_common() -> None:
    sizes = np.stack([np.arange(2500) + 100, np.full(2500, 80)], axis=1)
    wh = np.concatenate([sizes, sizes[-1:]])  # the last size twice
    images = Images(np.arange(len(wh)), wh, ("",) * len(wh))
    none = Annotations(*[np.zeros(0, np.int64)] * 3, np.zeros((0, 4)), np.zeros(0, bool), np.zeros(0))
    panel = image_sizes(CocoDataset(images, none, {}, (), (), ()))
    assert len(panel.figure.data[0].x) == MAX_SIZES
    assert panel.figure.data[0].x[0] == 2599
    assert "2,000 most common" in panel.caption


def test_histograms_count_every_box_and_image() -> None:
    some = many_boxes(9000, num_images=70)
    per_image = boxes_per_image(some.dataset).figure.data[0]
    assert sum(per_image.y) == 70
    assert len(per_image.x) <= MAX_BARS
    assert sum(object_sizes(some).figure.data[0].y) == 9000
    assert np.sum(box_centers(some.dataset).figure.data[0].z) == 9000


def test_boxes_per_image_by_hand() -> None:
    """Three boxes in the first image, two in the second, none in a third that is only listed."""
    some = boxes_in_files(GROWING_BOXES[:5], files=["a", "b"])
    lonely = replace(some.dataset, images=Images(np.arange(3), np.full((3, 2), 640), ("a", "b", "c")))
    bars = boxes_per_image(lonely).figure.data[0]
    assert dict(zip(bars.x.tolist(), bars.y.tolist(), strict=True)) == {0: 1, 1: 0, 2: 1, 3: 1}


def test_a_box_in_the_upper_right_lies_there() -> None:
    cloud = box_centers(boxes_in_files([[600, 10, 20, 20]]).dataset).figure
    row, column = np.argwhere(cloud.data[0].z)[0]
    assert (cloud.data[0].x[column], cloud.data[0].y[row]) == (0.9375, 0)  # 610 / 640 is .953, 20 / 480 is .042
    assert tuple(cloud.layout.yaxis.range) == (1, 0)  # down the page as down the image


def test_bars_are_on_the_grid_and_lines_by_shape():
    anchors = AnchorSet.of([[(32, 32)], [(128, 64)]], strides=(16, 32))
    score = anchor_metrics(instances_of([[14, 14, 20, 20], [22, 22, 20, 20]]), anchors)
    bars, lines = average_iou_panels([score])[2].figure.data
    assert (bars.type, lines.mode) == ("bar", "markers")
    assert_allclose(bars.y, [score.grid_average_iou])
    assert_allclose(lines.y, [score.average_iou])
    assert score.grid_average_iou < score.average_iou


def test_other_sets_are_diamonds_at_their_average_on_the_grid():
    sets = [AnchorSet.of([[(side, side)]], strides=[16]) for side in (20, 40)]
    first, second = (anchor_metrics(instances_of([[14, 14, 20, 20]]), anchors) for anchors in sets)
    diamonds = average_iou_panels([first, second])[0].figure.data[2]
    assert_allclose(diamonds.y[0], 400 / 1600)
