"""Objects lost to suppression: what every order of scores loses, by brute force over all orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detect.advice import suppression
from detect.advice.overlaps import overlapping_pairs
from detect.advice.suppression import suppressed_objects
from detect.ops.nms import class_nms


def kept_by_loop(boxes: np.ndarray, order: tuple[int, ...], iou_threshold: float) -> int:
    """Greedy suppression from its definition: the boxes in order, each compared with those that stay."""

    def iou(one: np.ndarray, other: np.ndarray) -> float:
        width, height = (min(one[2 + k], other[2 + k]) - max(one[k], other[k]) for k in (0, 1))
        shared = max(width, 0) * max(height, 0)
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
        return shared / (sum(areas) - shared)

    kept: list[int] = []
    for row in order:
        if all(iou(boxes[row], boxes[other]) <= iou_threshold for other in kept):
            kept.append(row)
    return len(kept)


side = st.integers(0, 6)
sets = st.lists(st.tuples(side, side, st.integers(4, 9), st.integers(4, 9)), min_size=1, max_size=6)


@given(sets, st.sampled_from([0.2, 0.5, 0.7]))
def test_the_best_order_loses_as_many(drawn, threshold):
    boxes = np.array([[x, y, x + width, y + height] for x, y, width, height in drawn], float)
    found = suppressed_objects(overlapping_pairs(boxes, np.zeros(len(boxes), int)), iou_threshold=threshold)
    orders = itertools.permutations(range(len(boxes)))
    assert found.is_exact
    assert found.num_lost == len(boxes) - max(kept_by_loop(boxes, order, threshold) for order in orders)


def crowd(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, images and categories."""
    draws = np.random.default_rng(seed)
    corners = draws.uniform(0, 60, (400, 2))
    boxes = np.concatenate([corners, corners + draws.uniform(15, 25, (400, 2))], axis=1)
    return boxes, draws.integers(0, 4, 400), draws.integers(0, 3, 400)


@pytest.mark.parametrize("by_category", [False, True])
def test_no_order_of_scores_loses_fewer(by_category):
    boxes, images, categories = crowd(0)
    groups = images * 3 + categories if by_category else images
    found = suppressed_objects(overlapping_pairs(boxes, groups), iou_threshold=0.5)
    assert found.num_lost > 5
    assert found.is_exact
    for seed in range(20):
        scores = torch.from_numpy(np.random.default_rng(seed).random(400))
        kept = class_nms(torch.from_numpy(boxes), scores, classes=torch.from_numpy(groups), iou_threshold=0.5)
        assert 400 - len(kept) >= found.num_lost
        removed = np.setdiff1d(np.arange(400), kept.numpy())
        assert set(removed.tolist()) <= set(found.pairs.first.tolist()) | set(found.pairs.second.tolist())


def test_out_of_time_the_bound_is_lower_and_says_so(monkeypatch):
    boxes, images, _ = crowd(1)
    exact = suppressed_objects(overlapping_pairs(boxes, images), iou_threshold=0.3)
    assert exact.is_exact
    monkeypatch.setattr(suppression, "SECONDS", 0.0)
    bound = suppressed_objects(overlapping_pairs(boxes, images), iou_threshold=0.3)
    assert not bound.is_exact
    assert bound.num_lost <= exact.num_lost


def test_a_higher_threshold_loses_no_more():
    boxes, images, _ = crowd(2)
    lost = [
        suppressed_objects(overlapping_pairs(boxes, images), iou_threshold=level / 10).num_lost for level in range(3, 9)
    ]
    assert lost == sorted(lost, reverse=True)
    assert lost[0] > lost[-1]


def test_nothing_is_lost_where_nothing_overlaps():
    boxes = np.array([[0.0, 0, 10, 10], [10, 0, 20, 10]])
    assert suppressed_objects(overlapping_pairs(boxes, np.zeros(2, int)), iou_threshold=0.0).num_lost == 0
    assert suppressed_objects(overlapping_pairs(boxes[:0], np.zeros(0, int)), iou_threshold=0.5).num_lost == 0
