"""YOLO's matching rules give each box the anchors that the frameworks' own code gives it."""

from __future__ import annotations

import numpy as np
import pytest
from builders import instances_of, part_of
from numpy.testing import assert_array_equal

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.center_rules import assign_by_center, similarity
from detect.anchors.known import load_anchors
from detect.catalog.matching import BestShape, SideRatio

ANCHORS = AnchorSet.of([[(8, 8), (16, 30), (33, 23)], [(30, 61), (62, 45), (59, 100)]], strides=(8, 16))
BOXES = [
    [3, 3, 20, 18], [30, 40, 60, 44], [100, 100, 28, 28], [12, 8, 8, 8], [8, 12, 9, 9], [96, 30, 31, 26],
    [64, 64, 64, 64], [120, 120, 8, 8], [0, 0, 128, 128], [40, 8, 16, 120], [9, 9, 7, 7], [60, 60, 66, 66],
]  # fmt: skip
# ComputeLoss.build_targets of the yolov5 package 7.0.14 for these boxes, with anchor_t 4: matches on each level
YOLOV5 = [[6, 6], [4, 9], [9, 9], [6, 0], [9, 0], [9, 9], [5, 15], [2, 0], [0, 10], [0, 12], [3, 0], [3, 9]]


def test_positives_are_those_of_yolov5s_own_build_targets():
    result = assign_by_center(instances_of(BOXES, image_wh=(128, 128)), ANCHORS, SideRatio())
    assert_array_equal(result.positives, YOLOV5)
    assert_array_equal(result.num_anchors, [16 * 16 * 3, 8 * 8 * 3])


def test_without_neighbours_each_anchor_learns_a_box_in_one_cell():
    instances = instances_of(BOXES, image_wh=(128, 128))
    result = assign_by_center(instances, ANCHORS, SideRatio(neighbours=0))
    close = similarity(instances, ANCHORS, SideRatio()) > 1 / 4
    assert_array_equal(result.positives, np.stack([close[:, :3].sum(axis=1), close[:, 3:].sum(axis=1)], axis=1))


def test_the_last_of_the_boxes_that_share_a_slot_is_learned_in_darknet():
    # the first two have their centres in one cell and the same best anchor; the third is alike in another cell
    boxes = [[10, 10, 8, 8], [11, 10, 8, 8], [30, 10, 8, 8]]
    result = assign_by_center(instances_of(boxes), ANCHORS, BestShape())
    assert_array_equal(result.positives, [[0, 0], [1, 0], [1, 0]])
    assert_array_equal(result.candidates, [[1, 0], [1, 0], [1, 0]])
    assert_array_equal(result.ambiguous, [1, 0])
    assert_array_equal(result.unassigned, [0])
    apart = assign_by_center(instances_of(boxes, image_ids=[1, 2, 3]), ANCHORS, BestShape())
    assert_array_equal(apart.positives.sum(axis=1), [1, 1, 1])


def test_yolov4_adds_the_anchors_above_its_threshold():
    # 20 x 30 has IoU .8 with 16 x 30, 600 / 1830 with 30 x 61 and 460 / 899 with 33 x 23
    boxes = [[20, 20, 20, 30]]
    assert_array_equal(assign_by_center(instances_of(boxes), ANCHORS, BestShape(iou=0.4)).positives, [[2, 0]])
    assert_array_equal(assign_by_center(instances_of(boxes), ANCHORS, BestShape(iou=0.3)).positives, [[2, 1]])


@pytest.mark.parametrize("rule", [SideRatio(), BestShape(), BestShape(iou=0.213)])
def test_every_box_of_a_sample_has_what_a_loop_over_boxes_gives_it(rule):
    instances, anchors = part_of("nuclei", "letterbox:256", step=20), load_anchors("yolov5")
    taken: dict[tuple[int, ...], int] = {}
    counts = np.zeros((len(instances), 3), int)
    for row, (x0, y0, x1, y1) in enumerate(instances.boxes):
        values = {}
        for number, level in enumerate(anchors.levels):
            for index, (w, h) in enumerate(level.shapes):
                sides = (x1 - x0) / w, (y1 - y0) / h
                both = min(x1 - x0, w) * min(y1 - y0, h)
                iou = both / ((x1 - x0) * (y1 - y0) + w * h - both)
                ratio = min(min(side, 1 / side) for side in sides)
                values[number, index] = ratio if isinstance(rule, SideRatio) else iou
        best = max(values, key=lambda key: values[key])
        for (number, index), value in values.items():
            x, y = ((x0 + x1) / 2 / anchors.levels[number].stride, (y0 + y1) / 2 / anchors.levels[number].stride)
            if isinstance(rule, SideRatio):
                counts[row, number] += (value > 0.25) * (1 + _neighbours(x, y, 256 // anchors.levels[number].stride))
            elif (number, index) == best or value > (rule.iou or 1):
                image = int(instances.dataset.instances.image_rows[row])
                taken[image, number, index, int(x), int(y)] = row
    for (_, number, _, _, _), row in taken.items():
        counts[row, number] += 1
    assert_array_equal(assign_by_center(instances, anchors, rule).positives, counts)


def _neighbours(x: float, y: float, size: int) -> int:
    """Cells beside the centre's, on its nearer sides, that lie inside the level."""
    lower = sum(at % 1 < 0.5 and at > 1 for at in (x, y))
    return lower + sum((size - at) % 1 < 0.5 and size - at > 1 for at in (x, y))


def test_no_boxes_have_no_positives():
    result = assign_by_center(instances_of([]), ANCHORS, SideRatio())
    assert result.positives.shape == (0, 2)
    assert_array_equal(result.num_anchors, [0, 0])
