"""Objects without an anchor: the matching of all images, and the inequalities that let most images be left out."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from builders import instances_of, part_of
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from detect.advice.anchor_losses import close_to_others, without_anchor
from detect.anchors.anchor_set import AnchorSet
from detect.anchors.detector_score import score_for
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import stock_anchors
from detect.catalog.detectors import AnchorDetector, anchor_detectors
from detect.catalog.matching import MaxIoURule
from detect.ops.boxes import pairwise_iou

SMALL = AnchorSet.of([[(16, 16), (12, 24)], [(32, 32)]], strides=(8, 16))


def of_all_images(instances: ResizedInstances, anchors: AnchorSet, detector: AnchorDetector) -> np.ndarray:
    return score_for(instances, anchors, detector).assignment.positives.sum(axis=1) == 0


def with_rule(**fields: object) -> AnchorDetector:
    return msgspec.structs.replace(anchor_detectors()["retinanet"], matching=MaxIoURule(**fields))  # type: ignore[arg-type]


RULES = {
    "own": with_rule(),
    "forced": with_rule(low_quality_mode="forced"),
    "threshold alone": with_rule(allow_low_quality_matches=False, fg_iou_thresh=0.4, bg_iou_thresh=0.3),
}


@pytest.mark.parametrize(("sample", "resize", "step"), [("bccd", "letterbox:96", 20), ("nuclei", "letterbox:128", 2)])
@pytest.mark.parametrize(
    "name", ["torchvision-retinanet", "mmdet-retinanet", "mmdet-ssd300", "effdet-d0", "yolov5", "atss"]
)
def test_objects_without_an_anchor_are_those_of_the_whole_assignment(name, sample, resize, step):
    instances, detector = part_of(sample, resize, step=step), anchor_detectors()[name]
    anchors = stock_anchors(detector)
    assert_array_equal(without_anchor(instances, anchors, detector), of_all_images(instances, anchors, detector))


def crowds(seed: int, num_images: int = 40) -> ResizedInstances:
    """Images of 64 pixels: boxes beside others that are nearly the same, tiny ones, and ones that are alone."""
    draws = np.random.default_rng(seed)
    boxes, images = [], []
    for image in range(1, num_images + 1):
        for _ in range(int(draws.integers(1, 4))):
            shape = draws.choice([2, 3, 9, 14, 20, 28], 2)
            corner = draws.integers(0, 64 - shape)
            for _ in range(int(draws.integers(1, 4))):
                near = (corner + draws.integers(-3, 4, 2)).clip(0, 64 - shape)
                boxes.append([*near, *shape])
                images.append(image)
    return instances_of(boxes, image_ids=images)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(2))
def test_in_crowds_too_they_are_those_of_the_whole_assignment(seed, rule):
    instances = crowds(seed)
    expected = of_all_images(instances, SMALL, RULES[rule])
    assert_array_equal(without_anchor(instances, SMALL, RULES[rule]), expected)
    assert expected.sum() > 10
    reached = score_for(instances, SMALL, RULES[rule]).best >= RULES[rule].matching.fg_iou_thresh  # type: ignore[union-attr]
    assert (expected & reached).any() or rule == "forced"  # lost to another object, not for want of an anchor


def test_two_objects_in_one_anchor_lose_it_to_each_other_though_they_are_apart():
    # both are 1 / 64 of the anchors of 16 by 16 around them, and the first object takes every one that ties
    instances = instances_of([[26, 26, 2, 2], [30, 30, 2, 2]], image_wh=(64, 64))
    lost = without_anchor(instances, AnchorSet.of([[(16, 16)]], strides=(64,)), RULES["own"])
    assert_array_equal(lost, [False, True])


def test_without_objects_none_is_without_an_anchor():
    assert len(without_anchor(instances_of([]), SMALL, RULES["own"])) == 0


BOX = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 16)] * 2).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


def iou_of(one: list[list[int]], other: list[list[int]]) -> np.ndarray:
    tensors = (torch.tensor(boxes, dtype=torch.float64) for boxes in (one, other))
    return pairwise_iou(*tensors).numpy()


@given(st.lists(BOX, min_size=2, max_size=5), st.lists(BOX, min_size=1, max_size=12))
def test_an_object_whose_best_anchor_another_could_take_is_close_to_it(boxes, anchors):
    """The other takes an anchor by overlapping it as much, or because it is the other's best too."""
    iou = iou_of(boxes, anchors)
    best = iou.max(axis=1)
    ties = iou >= best[:, None] - 1e-9
    takes = (iou[None] >= iou[:, None] - 1e-9) | ties[None]  # object, other, anchor
    takes[np.arange(len(boxes)), np.arange(len(boxes))] = False
    in_danger = (takes & ties[:, None] & (iou[None] > 0)).any(axis=(1, 2)) & (best > 0)
    assert (close_to_others(np.array(boxes, float), np.zeros(len(boxes), int), best) >= in_danger).all()


@given(BOX, BOX, BOX)
def test_one_minus_iou_is_a_metric(anchor, one, other):
    (first, second), between = iou_of([anchor], [one, other])[0], iou_of([one], [other])[0, 0]
    assert between >= first + second - 1 - 1e-12


@given(BOX, BOX)
def test_an_anchor_extends_beyond_a_box_by_less_than_its_side_over_their_iou(anchor, box):
    """IoU <= shared width / anchor's width <= box's width / anchor's width, and the same along y."""
    iou = iou_of([anchor], [box])[0, 0]
    if iou > 0:
        x0, y0, x1, y1 = box
        beyond = np.array([x0 - anchor[0], y0 - anchor[1], anchor[2] - x1, anchor[3] - y1])
        assert (beyond < np.array([x1 - x0, y1 - y0] * 2) / iou).all()


def test_objects_of_other_images_and_their_order_do_not_matter():
    draws = np.random.default_rng(0)
    corners = draws.uniform(0, 40, (50, 2))
    boxes, rows = np.concatenate([corners, corners + draws.uniform(4, 12, (50, 2))], axis=1), draws.integers(0, 8, 50)
    best = draws.uniform(0.6, 1, 50)
    found, order = close_to_others(boxes, rows, best), draws.permutation(50)
    assert 0 < found.sum() < 50
    assert_array_equal(close_to_others(boxes[order], rows[order], best[order]), found[order])
    for image in range(8):
        own = rows == image
        assert_array_equal(close_to_others(boxes[own], rows[own], best[own]), found[own])
