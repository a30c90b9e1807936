"""The score of anchors under a detector's own rule."""

from __future__ import annotations

import numpy as np
import pytest
from builders import instances_of, part_of
from numpy.testing import assert_allclose, assert_array_equal

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.detector_score import MEASURES, score_for
from detect.anchors.known import stock_anchors
from detect.anchors.metrics import anchor_metrics
from detect.catalog.detectors import anchor_detectors, load_detector


def test_yolov5_reaches_a_box_whose_sides_differ_by_less_than_four():
    # side ratios .5, and 8 / 40
    score = score_for(
        instances_of([[0, 0, 20, 10], [0, 0, 40, 8]]), AnchorSet.of([[(10, 10)]], strides=[8]), load_detector("yolov5")
    )
    assert_allclose(score.best, [0.5, 0.25])
    assert_array_equal(score.reached, [True, False])
    assert (score.average, score.recall) == (0.375, 0.5)


def test_max_iou_reaches_what_the_grid_reaches():
    retinanet = load_detector("retinanet")
    instances = part_of("nuclei", "letterbox:256", step=10)
    score = score_for(instances, stock_anchors(retinanet), retinanet)
    metrics = anchor_metrics(instances, stock_anchors(retinanet), convention="mmdet")
    assert_allclose(score.best, metrics.grid_best_iou)
    assert score.recall == metrics.grid_recall(0.5)


@pytest.mark.parametrize("name", ["yolov5", "yolov4-darknet", "mmdet-yolov3", "mmdet-ssd300", "torchvision-retinanet"])
def test_a_box_that_is_reached_has_a_positive_anchor_unless_another_box_takes_it(name):
    detector = anchor_detectors()[name]
    score = score_for(part_of("bccd", detector.resize, step=30), stock_anchors(detector), detector)
    positives = score.assignment.positives.sum(axis=1)
    assert np.mean(score.reached & (positives == 0)) < 0.01
    assert score.measure in MEASURES.values()


def test_every_rule_of_the_catalog_has_a_measure():
    assert {each.rule for each in anchor_detectors().values()} <= set(MEASURES)
