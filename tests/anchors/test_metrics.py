from __future__ import annotations

import numpy as np
import pytest
from builders import instances_of
from numpy.testing import assert_allclose, assert_array_equal

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.anchors.metrics import CURVE, THRESHOLDS, anchor_metrics, recall_curve
from detect.data import read_coco


@pytest.fixture
def three_boxes() -> ResizedInstances:
    """20 x 20 of type 5, 20 x 40 of type 2, 300 x 100 of type 5; each in its own 640 x 480 image."""
    boxes = [[10, 10, 20, 20], [100, 100, 20, 40], [50, 60, 300, 100]]
    return instances_of(boxes, ids=[10, 11, 12], image_ids=[1, 2, 3], category_ids=[5, 2, 5], image_wh=(640, 480))


def test_numbers_by_hand(three_boxes):
    score = anchor_metrics(three_boxes, AnchorSet.of([[(20, 20), (200, 100)]], strides=[8]))
    # 20x20: 1 with the first; 20x40: 400 / 800; 300x100: 200 / 300
    assert_allclose(score.best_iou, [1.0, 0.5, 2 / 3])
    assert_array_equal(score.nearest, [0, 0, 1])
    assert_allclose(score.average_iou, (1 + 0.5 + 2 / 3) / 3)
    assert [score.recall(t) for t in (0.5, 0.6, 0.7)] == pytest.approx([1, 2 / 3, 1 / 3])
    assert score.ratio_recall == 1.0
    assert_allclose(score.average_side_ratio, (1 + 20 / 40 + 200 / 300) / 3)


def test_yolov5s_ratio_is_a_strict_factor_of_four(three_boxes):
    # widths 20, 20, 300 against 80: exactly 4 does not count (YOLOv5: best > 1 / thr)
    assert anchor_metrics(three_boxes, AnchorSet.of([[(80, 80)]], strides=[8])).ratio_recall == pytest.approx(1 / 3)
    assert anchor_metrics(three_boxes, AnchorSet.of([[(79, 79)]], strides=[8])).ratio_recall == 1.0


def test_groups_add_up_to_the_whole(bccd):
    score = anchor_metrics(bccd, load_anchors("yolov3-coco"))
    for groups in (score.by_size, score.by_ratio, score.by_category):
        counts = np.array([group.count for group in groups])
        assert counts.sum() == len(bccd)
        averages = np.array([group.average_iou if group.count else 0.0 for group in groups])
        assert_allclose(counts @ averages / counts.sum(), score.average_iou)
        for threshold in THRESHOLDS:
            recalls = np.array([group.recall[threshold] if group.count else 0.0 for group in groups])
            assert_allclose(counts @ recalls / counts.sum(), score.recall(threshold))


def test_groups_by_hand(three_boxes):
    score = anchor_metrics(three_boxes, AnchorSet.of([[(20, 20)]], strides=[8]))
    # sizes 20, 28.3, 173.2: two small, one large; ratios h/w 1, 2, 1/3
    assert [group.count for group in score.by_size] == [2, 0, 1]
    assert [group.count for group in score.by_ratio] == [0, 1, 1, 1, 0]
    assert [(group.name, group.count) for group in score.by_category] == [("type 2", 1), ("type 5", 2)]


def test_the_worst_come_first_with_ties_by_annotation_id(three_boxes):
    score = anchor_metrics(three_boxes, AnchorSet.of([[(20, 20), (200, 100)]], strides=[8]))
    ids = three_boxes.dataset.instances.ids
    assert ids[score.worst(2)].tolist() == [11, 12]
    assert ids[score.worst(99)].tolist() == [11, 12, 10]
    flat = anchor_metrics(three_boxes, AnchorSet.of([[(20, 20), (20, 40), (300, 100)]], strides=[8]))
    assert ids[flat.worst(2)].tolist() == [10, 11]


def test_the_curve_is_the_recall_at_every_threshold(bccd):
    score = anchor_metrics(bccd, load_anchors("retinanet"))
    assert_allclose(recall_curve(score.best_iou), [score.recall(float(threshold)) for threshold in CURVE])
    assert recall_curve(score.best_iou)[0] == 1.0


def test_the_grid_never_covers_more_than_shapes_that_share_a_centre(bccd, nuclei):
    for instances in (bccd, nuclei):
        for name in ("retinanet", "yolov5-coco"):
            score = anchor_metrics(instances, load_anchors(name))
            assert (score.grid_best_iou <= score.best_iou + 1e-12).all()


def test_no_boxes_give_no_score():
    empty = read_coco({"images": [], "annotations": [], "categories": []})
    score = anchor_metrics(ResizedInstances.of(empty, "none"), load_anchors("retinanet"))
    assert np.isnan(score.average_iou)
    assert score.by_category == ()
    assert len(score.worst(5)) == 0


def test_groups_on_the_grid_add_up_and_name_the_level_of_the_best_anchor(three_boxes):
    # strides 8 and 64: 20 x 20 and 20 x 40 find theirs on P3, 300 x 100 on P6
    score = anchor_metrics(three_boxes, AnchorSet.of([[(20, 20)], [(200, 100)]], strides=(8, 64)))
    assert_array_equal(score.best_level, [0, 0, 1])
    assert [(group.name, group.count) for group in score.by_level] == [("P3", 2), ("P6", 1)]
    for groups in (score.by_size, score.by_ratio, score.by_category, score.by_level):
        total = sum(group.count * group.grid_average_iou for group in groups if group.count)
        assert_allclose(total / 3, score.grid_average_iou)


def test_missed_are_the_instances_below_the_threshold(bccd):
    score = anchor_metrics(bccd, load_anchors("retinanet"), convention="torchvision")
    assert_allclose(1 - len(score.missed(0.6)) / len(bccd), score.grid_recall(0.6))
    assert (score.grid_best_iou[score.missed(0.6)] < 0.6).all()


def test_what_only_one_level_reaches_by_hand(three_boxes):
    # strides 8 and 64: 20 x 20 is reached by P3 alone, 300 x 100 by P6 alone; 20 x 40 by both from a threshold of 0
    score = anchor_metrics(three_boxes, AnchorSet.of([[(20, 20)], [(200, 100)]], strides=(8, 64)))
    reached = score.grid_level_iou >= 0.3
    assert_array_equal(score.only_on_level(0.3), (reached & ~reached[:, ::-1]).sum(axis=0))
    assert_array_equal(score.only_on_level(0.0), [0, 0])
    alone = anchor_metrics(three_boxes, AnchorSet.of([[(20, 20)]], strides=[8]))
    assert_array_equal(alone.only_on_level(0.0), [3])


@pytest.mark.parametrize("convention", ["exact", "torchvision", "effdet"])
def test_the_best_anchors_have_the_best_iou_in_every_convention(bccd, convention):
    score = anchor_metrics(bccd, load_anchors("retinanet"), convention=convention)
    rows = score.worst(200)
    boxes, anchors = bccd.boxes[rows], score.best_anchors(rows)
    low, high = np.maximum(boxes[:, :2], anchors[:, :2]), np.minimum(boxes[:, 2:], anchors[:, 2:])
    shared = (high - low).prod(axis=1)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (boxes, anchors)]
    assert_allclose(shared / (sum(areas) - shared), score.grid_best_iou[rows])
