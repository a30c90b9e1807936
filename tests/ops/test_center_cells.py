"""Anchors of the cells that hold a box's centre, as mmdetection's GridAssigner matches them."""

from __future__ import annotations

import torch
from builders import instances_of
from numpy.testing import assert_array_equal

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import assign
from detect.anchors.generator import AnchorGenerator
from detect.conventions import BACKGROUND, IGNORE
from detect.ops.center_cells import CenterCells
from detect.ops.grid_matcher import LevelGrid

ANCHORS = AnchorSet.of([[(8, 8), (16, 30), (33, 23)], [(30, 61), (62, 45), (59, 100)]], strides=(8, 16))
BOXES = [
    [3, 3, 20, 18], [30, 40, 60, 44], [100, 100, 28, 28], [12, 8, 8, 8], [8, 12, 9, 9], [96, 30, 31, 26],
    [64, 64, 64, 64], [120, 120, 8, 8], [0, 0, 128, 128], [40, 8, 16, 120], [9, 9, 7, 7], [60, 60, 66, 66],
]  # fmt: skip
# GridAssigner.assign of mmdetection 3.3.0 for these boxes, thresholds .5, min_pos_iou 0: positives on each level
MMDET = [[1, 0], [0, 2], [2, 0], [0, 0], [1, 0], [1, 0], [0, 2], [1, 0], [0, 1], [0, 1], [1, 0], [0, 2]]


def test_positives_are_those_of_mmdetections_own_assigner():
    instances = instances_of(BOXES, image_wh=(128, 128))
    assert_array_equal(assign(instances, AnchorGenerator(ANCHORS), CenterCells()).positives, MMDET)


def test_candidates_are_the_responsible_anchors_above_the_threshold():
    instances = instances_of(BOXES, image_wh=(128, 128))
    result = assign(instances, AnchorGenerator(ANCHORS), CenterCells())
    assert (result.by_threshold <= result.candidates).all()
    assert_array_equal(result.by_threshold[1], [0, 2])


def test_an_anchor_close_to_a_box_is_ignored_where_its_cell_is_not_responsible():
    # cells of 8 px and shapes of 32 px: the shifts by 8 px have IoU 24 / 40 with the box
    level = LevelGrid(8, 8, (8.0, 8.0), torch.tensor([[-12.0, -12.0, 20.0, 20.0]]))
    matches = CenterCells().match([level], torch.tensor([[16.0, 16.0, 48.0, 48.0]])).view(8, 8)
    assert matches[4, 4] == 0
    assert (matches == 0).sum() == 1
    assert matches[3, 3] == IGNORE
    assert matches[0, 0] == BACKGROUND


def test_without_boxes_every_anchor_is_background():
    level = LevelGrid(2, 2, (8.0, 8.0), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    assert (CenterCells().match([level], torch.zeros(0, 4)) == BACKGROUND).all()
