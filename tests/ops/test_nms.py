from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from detect.ops import nms as module
from detect.ops.nms import class_nms, nms, nms_mask
from detect.ops.torchvision_import import import_torchvision


def some_boxes(num: int, *, seed: int = 0, side: float = 60.0, dtype: torch.dtype = torch.float32) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=random, dtype=dtype) * 300
    return torch.cat([corner, corner + 4 + torch.rand(num, 2, generator=random, dtype=dtype) * side], dim=1)


def some_scores(num: int, *, seed: int = 0, decimals: int = 6) -> Tensor:
    return torch.rand(num, generator=torch.Generator().manual_seed(seed)).round(decimals=decimals)


def plain_loop(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> list[int]:
    """The definition, one pair at a time, in Python's double precision."""
    rows, labels, values = boxes.tolist(), classes.tolist(), scores.tolist()
    kept: list[int] = []
    for index in sorted(range(len(rows)), key=lambda i: (-values[i], i)):
        if not any(labels[index] == labels[i] and plain_iou(rows[i], rows[index]) > threshold for i in kept):
            kept.append(index)
    return kept


def plain_iou(box: list[float], other: list[float]) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    if width <= 0:
        return 0.0
    height = min(box[3], other[3]) - max(box[1], other[1])
    if height <= 0:
        return 0.0
    both = width * height
    return both / ((box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1]) - both)


# 0 and 1: IoU 80 / 100; 1 and 2: they share x 6..10, 4 * 8 = 32, of 80 + 100 - 32 = 148: .216; 0 and 2: 40 / 160 = .25
THREE = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0], [6.0, 0.0, 16.0, 10.0]])


@pytest.mark.parametrize(
    ("scores", "threshold", "expected"),
    [
        ([0.9, 0.8, 0.7], 0.5, [0, 2]),
        ([0.7, 0.8, 0.9], 0.5, [2, 1]),
        ([0.9, 0.8, 0.7], 0.2, [0]),
        ([0.7, 0.9, 0.8], 0.22, [1, 2]),  # 0 falls to 1, and so may not take 2 with it
        ([0.7, 0.9, 0.8], 0.9, [1, 2, 0]),
    ],
)
def test_three_boxes_by_hand(scores, threshold, expected):
    assert nms(THREE, torch.tensor(scores), iou_threshold=threshold).tolist() == expected


def test_an_overlap_equal_to_the_threshold_is_allowed():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]])  # IoU 50 / 100
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, iou_threshold=0.5).tolist() == [0, 1]
    assert nms(boxes, scores, iou_threshold=math.nextafter(0.5, 0)).tolist() == [0]


@pytest.mark.parametrize(("height", "expected"), [(6.0, [0]), (7.0, [0, 1])])
def test_the_threshold_is_not_rounded_to_the_precision_of_the_boxes(height, expected):
    # 6 / 10 in single precision is .60000002 > .6, and 7 / 10 is .69999999, not > .7: as torchvision's kernel on a CPU
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, height]])
    classes = torch.zeros(2, dtype=torch.int64)
    assert class_nms(boxes, torch.tensor([0.9, 0.8]), classes=classes, iou_threshold=height / 10).tolist() == expected


def test_of_equal_scores_the_lower_index_stays():
    boxes = THREE[[1, 0, 2, 0]]
    assert nms(boxes, torch.full((4,), 0.5), iou_threshold=0.5).tolist() == [0, 2]
    assert nms(boxes, torch.tensor([0.5, 0.5, 0.6, 0.5]), iou_threshold=0.5).tolist() == [2, 0]


def test_a_chain_longer_than_a_block_keeps_every_second_box():
    # each box meets the next with IoU 6 / 14, the one after with 2 / 18
    left = torch.arange(301) * 4.0
    boxes = torch.stack([left, torch.zeros(301), left + 10, torch.ones(301)], dim=1)
    scores = torch.linspace(0.9, 0.1, 301)
    every_second = torch.arange(0, 301, 2)
    assert_close(nms(boxes, scores, iou_threshold=0.4), every_second)
    valid = torch.ones(1, 301, dtype=torch.bool)
    stays = nms_mask(boxes[None], torch.zeros(1, 301, dtype=torch.int64), valid=valid, iou_threshold=0.4)
    assert_close(stays[0].nonzero()[:, 0], every_second)


def test_5000_boxes_with_many_equal_scores_as_a_plain_loop():
    boxes = some_boxes(5000, dtype=torch.float64)
    scores = some_scores(5000, decimals=2)
    assert len(scores.unique()) < 110
    kept = nms(boxes, scores, iou_threshold=0.3)
    assert kept.tolist() == plain_loop(boxes, scores, torch.zeros(5000), 0.3)
    # whole pixels: intersection and union are exact in single precision too, so their quotient is above 1 / 4 or not
    whole = boxes.round()
    expected = plain_loop(whole, scores, torch.zeros(5000), 0.25)
    assert nms(whole.float(), scores, iou_threshold=0.25).tolist() == expected


def test_boxes_far_out_and_of_a_high_class_lose_no_digit():
    # an offset of 90 * 100,003 for the class would round these corners to whole pixels, and the IoU 1 / 2 to 1 or 0
    boxes = torch.tensor([[100_000.0, 0.0, 100_000.5, 1.0], [100_000.25, 0.0, 100_000.5, 1.0]])
    classes = torch.tensor([90, 90])
    assert class_nms(boxes, torch.tensor([0.9, 0.8]), classes=classes, iou_threshold=0.5).tolist() == [0, 1]
    assert class_nms(boxes, torch.tensor([0.9, 0.8]), classes=classes, iou_threshold=0.49).tolist() == [0]


@given(st.integers(1, 40), st.integers(0, 100), st.integers(1, 40), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_classes_and_blocks_of_any_size_are_a_plain_loop(rows, num, num_classes, threshold):
    boxes = some_boxes(num, seed=num, side=250, dtype=torch.float64)
    scores, classes = some_scores(num, seed=rows, decimals=1), torch.arange(num) % num_classes - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ROWS", rows)
        kept = class_nms(boxes, scores, classes=classes, iou_threshold=threshold)
    assert kept.tolist() == plain_loop(boxes, scores, classes, threshold)


@given(st.integers(0, 50), st.integers(0, 1000), st.sampled_from([0.0, 0.3, 0.6, 1.0]))
def test_the_mask_marks_what_the_indices_name(num, seed, threshold):
    boxes = some_boxes(2 * num, seed=seed, side=250).reshape(2, num, 4)
    classes = torch.arange(2 * num).reshape(2, num) % 3
    valid = torch.arange(2 * num).reshape(2, num) % 5 > 0
    stays = nms_mask(boxes, classes, valid=valid, iou_threshold=threshold)
    for image in range(2):
        rows = valid[image].nonzero()[:, 0]
        falling = torch.linspace(1, 0, len(rows))
        kept = rows[class_nms(boxes[image, rows], falling, classes=classes[image, rows], iou_threshold=threshold)]
        assert_close(stays[image].nonzero()[:, 0], kept.sort().values)


def test_torchvisions_kernel_gives_the_same_where_it_is_loaded():
    if not import_torchvision().extension._has_ops():
        pytest.skip("torchvision's compiled operators are missing")
    boxes, scores = some_boxes(3000), some_scores(3000, decimals=2)
    classes = torch.zeros(3000, dtype=torch.int64)
    for threshold in (0.0, 0.3, 0.5, 0.6, 0.7, 1.0):
        kernels = torch.ops.torchvision.nms(boxes, scores, threshold)
        assert_close(class_nms(boxes, scores, classes=classes, iou_threshold=threshold), kernels)
        assert_close(
            class_nms(boxes.round(), scores, classes=classes, iou_threshold=threshold),
            nms(boxes.round(), scores, iou_threshold=threshold),
        )


def test_torchvisions_kernel_is_used_where_it_is_loaded(monkeypatch):
    if not import_torchvision().extension._has_ops():
        pytest.skip("torchvision's compiled operators are missing")
    monkeypatch.setattr(module, "class_nms", None)  # so that calling it fails
    assert nms(THREE, torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.5).tolist() == [0, 2]


def test_a_kernel_is_used_where_one_is_loaded():
    if import_torchvision().extension._has_ops():
        pytest.skip("torchvision's compiled operators are loaded")
    scores = torch.tensor([0.9, 0.8, 0.7])
    with torch.library._scoped_library("torchvision", "IMPL") as library:
        library.impl("nms", lambda boxes, scores, iou_threshold: torch.tensor([7]), "CPU")
        assert nms(THREE, scores, iou_threshold=0.5).tolist() == [7]
        halves = nms(THREE.half(), scores.half(), iou_threshold=0.5)  # torchvision has no kernel for them on a CPU
        assert halves.tolist() == [0, 2]
        assert nms(THREE, scores.double(), iou_threshold=0.5).tolist() == [0, 2]
    assert nms(THREE, scores, iou_threshold=0.5).tolist() == [0, 2]


def test_no_boxes():
    boxes, scores, none = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    assert_close(nms(boxes, scores, iou_threshold=0.5), none)
    assert_close(class_nms(boxes, scores, classes=none, iou_threshold=0.5), none)
    assert nms_mask(boxes[None], none[None], valid=none[None].bool(), iou_threshold=0.5).shape == (1, 0)


def test_boxes_without_extent_neither_fall_nor_suppress():
    boxes = torch.tensor([[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 10.0, 10.0], [9.0, 9.0, 1.0, 1.0]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), iou_threshold=0.0).tolist() == [0, 1, 2, 3]


def test_halves_are_compared_in_single_precision():
    boxes = torch.tensor([[0.0, 0.0, 400.0, 400.0], [0.0, 0.0, 400.0, 300.0]])  # an area of 160,000 is no half
    assert nms(boxes.half(), torch.tensor([0.9, 0.8]).half(), iou_threshold=0.74).tolist() == [0]
    assert nms(boxes.half(), torch.tensor([0.9, 0.8]).half(), iou_threshold=0.76).tolist() == [0, 1]


def test_inputs_are_left_as_they_were_and_may_carry_gradients():
    boxes, scores = some_boxes(200).requires_grad_(), some_scores(200).requires_grad_()
    before = boxes.detach().clone(), scores.detach().clone()
    assert not nms(boxes, scores, iou_threshold=0.3).requires_grad
    assert_close((boxes.detach(), scores.detach()), before, rtol=0, atol=0)


@pytest.mark.parametrize("threshold", [-0.1, 1.01, math.nan])
def test_a_threshold_that_is_no_overlap_is_refused(threshold):
    none = torch.zeros(1, 0, dtype=torch.int64)
    for call in (
        lambda: nms(THREE, torch.ones(3), iou_threshold=threshold),
        lambda: class_nms(THREE, torch.ones(3), classes=torch.zeros(3, dtype=torch.int64), iou_threshold=threshold),
        lambda: nms_mask(torch.zeros(1, 0, 4), none, valid=none.bool(), iou_threshold=threshold),
    ):
        with pytest.raises(ValueError, match=r"need 0 <= iou_threshold <= 1, got iou_threshold="):
            call()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("count", [1, 4, 6])
def test_scores_and_classes_are_one_for_each_box(count):
    # of fewer scores the last boxes would be left out, of more classes the last be read by no one
    boxes, scores, classes = torch.rand(5, 4), torch.rand(5), torch.zeros(5, dtype=torch.int64)
    others, valid = torch.zeros(count, dtype=torch.int64), torch.ones(1, 5, dtype=torch.bool)
    for call, name in (
        (lambda: nms(boxes, torch.rand(count), iou_threshold=0.5), "scores"),
        (lambda: class_nms(boxes, torch.rand(count), classes=classes, iou_threshold=0.5), "scores"),
        (lambda: class_nms(boxes, scores, classes=others, iou_threshold=0.5), "classes"),
        (lambda: nms_mask(boxes[None], others[None], valid=valid, iou_threshold=0.5), "classes"),
        (lambda: nms_mask(boxes[None], classes[None], valid=others[None] > 0, iou_threshold=0.5), "valid"),
    ):
        with pytest.raises(ValueError, match=rf"need {name} of shape \(.*5,?\), one for each box, got \(.*{count},?\)"):
            call()
