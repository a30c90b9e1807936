"""Soft suppression by hand, and as the paper's algorithm in a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from builders import random_boxes
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from detect.ops.boxes import pairwise_iou
from detect.ops.soft_nms import soft_nms


def plain_loop(
    boxes: Tensor, scores: Tensor, classes: Tensor, *, decay: str, lowest: float, iou_threshold: float, sigma: float
) -> list[tuple[int, float]]:
    """Figure 2 of Bodla et al. 2017, one pair at a time, in each class."""
    iou, labels = pairwise_iou(boxes, boxes).tolist(), classes.tolist()
    left = {index: score for index, score in enumerate(scores.tolist()) if score > lowest}
    taken = []
    while left:
        best = min(left, key=lambda index: (-left[index], index))
        taken.append((best, left.pop(best)))
        for index in list(left):
            if labels[index] != labels[best]:
                continue
            overlap = iou[best][index]
            if decay == "gaussian":
                left[index] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= iou_threshold:
                left[index] *= 1 - overlap
            if left[index] <= lowest:
                del left[index]
    return taken


# 0 and 1: IoU 50 / 100; 1 and 2: they share rows 2.5 to 5, 25 of 50 + 50 - 25 = 75; 0 and 2: 50 / 100; 3 meets none
FOUR = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [0.0, 2.5, 10.0, 7.5], [20.0, 0.0, 30.0, 10.0]])
SCORES = torch.tensor([[0.8, 0.6, 0.7, 0.1]])


@pytest.mark.parametrize(
    ("options", "places", "expected"),
    [
        # 0 halves 1 and 2, to .3 and .35; then 2 leaves 2/3 of .3, as IoU 1/3 is at least .3
        ({"decay": "linear", "iou_threshold": 0.3}, [0, 2, 1, 3], [0.8, 0.35, 0.2, 0.1]),
        # from .4 on the IoU of 1/3 costs nothing
        ({"decay": "linear", "iou_threshold": 0.4}, [0, 2, 1, 3], [0.8, 0.35, 0.3, 0.1]),
        # an IoU equal to the threshold lowers a score, as in the paper
        ({"decay": "linear", "iou_threshold": 0.5}, [0, 2, 1, 3], [0.8, 0.35, 0.3, 0.1]),
        ({"decay": "linear", "iou_threshold": 0.51}, [0, 2, 1, 3], [0.8, 0.7, 0.6, 0.1]),
        # .2 is not above .2, and .1 never was
        ({"decay": "linear", "iou_threshold": 0.3, "lowest": 0.2}, [0, 2], [0.8, 0.35]),
        # exp(-1/4 / .5) from 0, then exp(-1/9 / .5) from 2
        ({"decay": "gaussian"}, [0, 2, 1, 3], [0.8, 0.7 * math.exp(-0.5), 0.6 * math.exp(-0.5 - 2 / 9), 0.1]),
        ({"decay": "gaussian", "sigma": 0.25}, [0, 2, 1, 3], [0.8, 0.7 / math.e, 0.6 * math.exp(-1 - 4 / 9), 0.1]),
    ],
)
def test_four_boxes_by_hand(options, places, expected):
    found, scores = soft_nms(FOUR[None], SCORES, torch.zeros(1, 4, dtype=torch.int64), num_rounds=4, **options)
    assert found[0, : len(places)].tolist() == places
    assert_close(scores, torch.tensor([expected + [0.0] * (4 - len(expected))]))


def test_a_box_that_is_removed_decays_no_other():
    # 1 falls to .4 * .5, under its own threshold of .3, so 2 only loses to 0, and not to 1
    lowest = torch.tensor([[0.05, 0.3, 0.05, 0.05]])
    scores = torch.tensor([[0.8, 0.4, 0.2, 0.1]])
    places, found = soft_nms(
        FOUR[None], scores, torch.zeros(1, 4, dtype=torch.int64), decay="linear", iou_threshold=0.3, lowest=lowest,
        num_rounds=4,
    )  # fmt: skip
    assert places[0, :2].tolist() == [0, 2]
    assert_close(found, torch.tensor([[0.8, 0.1, 0.1, 0.0]]))


@given(
    st.integers(0, 30),
    st.integers(0, 1000),
    st.sampled_from(["linear", "gaussian"]),
    st.sampled_from([0.0, 0.05, 0.3]),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_it_is_the_papers_loop(num, seed, decay, lowest, iou_threshold):
    random = torch.Generator().manual_seed(seed)
    boxes = random_boxes(2 * num, seed=seed).double().reshape(2, num, 4)
    scores = torch.rand(2, num, generator=random, dtype=torch.float64).round(decimals=1)  # many are equal
    classes = torch.randint(3, (2, num), generator=random)
    options = {"decay": decay, "lowest": lowest, "iou_threshold": iou_threshold, "sigma": 0.5}
    places, found = soft_nms(boxes, scores, classes, num_rounds=num, **options)
    for image in range(2):
        expected = plain_loop(boxes[image], scores[image], classes[image], **options)
        assert places[image, found[image] > 0].tolist() == [place for place, _ in expected]
        assert_close(found[image, found[image] > 0], torch.tensor([score for _, score in expected]).double())


def test_fewer_rounds_take_the_first_of_the_same():
    boxes, scores = random_boxes(40, seed=0)[None], torch.rand(1, 40, generator=torch.Generator().manual_seed(0))
    classes = torch.zeros(1, 40, dtype=torch.int64)
    all_places, all_scores = soft_nms(boxes, scores, classes, decay="gaussian", num_rounds=40)
    places, found = soft_nms(boxes, scores, classes, decay="gaussian", num_rounds=7)
    assert_close(places, all_places[:, :7])
    assert_close(found, all_scores[:, :7])


def test_no_boxes_and_boxes_without_extent():
    none = torch.zeros(1, 0, dtype=torch.int64)
    places, found = soft_nms(torch.zeros(1, 0, 4), torch.zeros(1, 0), none, decay="linear", num_rounds=0)
    assert places.shape == found.shape == (1, 0)
    lines = torch.tensor([[[5.0, 5.0, 5.0, 9.0], [5.0, 5.0, 5.0, 9.0]]])
    scores, classes = torch.tensor([[0.5, 0.9]]), torch.zeros(1, 2, dtype=torch.int64)
    places, found = soft_nms(lines, scores, classes, decay="linear", iou_threshold=0.1, num_rounds=2)
    assert places.tolist() == [[1, 0]]
    assert_close(found, torch.tensor([[0.9, 0.5]]))


def test_inputs_are_left_as_they_were_and_an_unknown_decay_is_refused():
    boxes, scores, classes = FOUR[None].clone(), SCORES.clone(), torch.zeros(1, 4, dtype=torch.int64)
    soft_nms(boxes, scores, classes, decay="linear", num_rounds=4)
    assert_close((boxes[0], scores), (FOUR, SCORES), rtol=0, atol=0)
    with pytest.raises(ValueError, match="decay is one of linear, gaussian, got 'hard'"):
        soft_nms(boxes, scores, classes, decay="hard", num_rounds=4)
