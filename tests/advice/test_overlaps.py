"""Overlapping pairs are those of the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from detect.advice import overlaps
from detect.advice.overlaps import overlapping_pairs
from detect.ops.boxes import pairwise_iou


def boxes_in_groups(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes at whole pixels, so that many touch, some without extent, in groups in any order."""
    draws = np.random.default_rng(seed)
    corners = draws.integers(0, 30, (count, 2)).astype(float)
    return np.concatenate([corners, corners + draws.integers(0, 14, (count, 2))], axis=1), draws.integers(-3, 4, count)


@pytest.mark.parametrize("at_once", [7, 4_000_000])
@pytest.mark.parametrize("least", [0.0, 0.5])
def test_pairs_are_those_of_the_whole_matrix(monkeypatch, at_once, least):
    monkeypatch.setattr(overlaps, "PAIRS_AT_ONCE", at_once)
    boxes, groups = boxes_in_groups(0, 300)
    iou = np.triu(pairwise_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy(), 1)
    iou *= groups[:, None] == groups
    first, second = np.nonzero(iou > least)
    assert len(first) > 10
    found = overlapping_pairs(boxes, groups, above_iou=least)
    assert_array_equal(found.first, first)
    assert_array_equal(found.second, second)
    assert_allclose(found.iou, iou[first, second], rtol=1e-12)


def test_a_higher_threshold_keeps_some_of_the_pairs():
    boxes, groups = boxes_in_groups(1, 200)
    some, fewer = overlapping_pairs(boxes, groups).above(0.5), overlapping_pairs(boxes, groups, above_iou=0.5)
    assert_array_equal(some.first, fewer.first)
    assert_array_equal(some.second, fewer.second)
    assert (some.iou > 0.5).all()


def test_no_boxes_have_no_pairs():
    found = overlapping_pairs(np.zeros((0, 4)), np.zeros(0, int))
    assert (len(found.first), len(found.second), len(found.iou)) == (0, 0, 0)
