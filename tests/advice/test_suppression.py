"""Objects lost to suppression: what every order of scores loses, by brute force over all orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from builders import crowd_of, crowded
from hypothesis import given
from hypothesis import strategies as st

from detect.advice import suppression
from detect.advice.lost_objects import lost_to_nms
from detect.advice.overlaps import overlapping_pairs
from detect.advice.suppression import least_suppressed
from detect.ops.nms import class_nms
from detect.ops.torchvision_import import import_torchvision


@given(crowded(), st.sampled_from([0.3, 0.5, 0.7]))
def test_the_best_order_loses_as_many(rows, threshold):
    import_torchvision()
    from torchvision.ops import nms

    boxes = crowd_of(rows[:5]).boxes
    lost = lost_to_nms(overlapping_pairs(boxes, np.zeros(len(boxes), int)), threshold)
    orders = itertools.permutations(range(len(boxes)))
    kept = [nms(torch.from_numpy(boxes), torch.tensor(order).double(), threshold).tolist() for order in orders]
    assert lost.num_lost == len(boxes) - max(map(len, kept))
    assert all(set(range(len(boxes))) - set(lost.contested.tolist()) <= set(each) for each in kept)


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
    lost = lost_to_nms(overlapping_pairs(boxes, groups), 0.5)
    assert lost.num_lost > 5
    for seed in range(20):
        scores = torch.from_numpy(np.random.default_rng(seed).random(400))
        kept = class_nms(torch.from_numpy(boxes), scores, classes=torch.from_numpy(groups), iou_threshold=0.5)
        assert 400 - len(kept) >= lost.num_lost
        removed = np.setdiff1d(np.arange(400), kept.numpy())
        assert set(removed.tolist()) <= set(lost.contested.tolist())


def test_out_of_time_the_bound_is_lower(monkeypatch):
    boxes, images, _ = crowd(1)
    pairs = overlapping_pairs(boxes, images).above(0.3)
    exact = least_suppressed(pairs)
    monkeypatch.setattr(suppression, "SECONDS", 0.0)
    assert least_suppressed(pairs) < exact


def test_a_higher_threshold_loses_no_more():
    boxes, images, _ = crowd(2)
    pairs = overlapping_pairs(boxes, images)
    lost = [least_suppressed(pairs.above(level / 10)) for level in range(3, 9)]
    assert lost == sorted(lost, reverse=True)
    assert lost[0] > lost[-1]


def test_nothing_is_lost_where_nothing_overlaps():
    boxes = np.array([[0.0, 0, 10, 10], [10, 0, 20, 10]])
    assert least_suppressed(overlapping_pairs(boxes, np.zeros(2, int))) == 0
    assert least_suppressed(overlapping_pairs(boxes[:0], np.zeros(0, int))) == 0
