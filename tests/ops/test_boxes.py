"""Areas and overlaps: by hand, by counting cells, and against torchvision and pycocotools."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder
from torchvision.ops import box_iou

from detect.ops.boxes import (
    MAX_LOG_SCALE,
    BoxCoder,
    box_area,
    intersection_area,
    matched_iou,
    pairwise_ioa,
    pairwise_iou,
)

DEGENERATE = [
    [3.0, 3, 3, 3],  # a point
    [3.0, 0, 3, 9],  # no width
    [0.0, 3, 9, 3],  # no height
    [9.0, 0, 0, 9],  # turned over in x
    [9.0, 9, 0, 0],  # in both: the product of its sides is positive
]
cells = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6), st.integers(0, 6))
tables = st.lists(cells, max_size=5).map(lambda rows: torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))


def random_boxes(seed: int, count: int = 50, dtype: torch.dtype = torch.float32) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(count, 2, generator=random) * 500, torch.rand(count, 2, generator=random) * 200 + 1
    return torch.cat([corner, corner + size], dim=1).to(dtype)


def covered_cells(box: Tensor) -> set[tuple[int, int]]:
    x0, y0, x1, y1 = (int(value) for value in box)
    return {(x, y) for x in range(x0, x1) for y in range(y0, y1)}


def test_overlap_by_hand():
    box, other = torch.tensor([[0.0, 0, 4, 3]]), torch.tensor([[2.0, 1, 6, 9]])
    # 4x3 = 12 and 4x8 = 32 share 2x2 = 4; the union is 12 + 32 - 4 = 40
    assert_close(box_area(other), torch.tensor([32.0]))
    assert_close(intersection_area(box, other), torch.tensor([4.0]))
    assert_close(pairwise_iou(box, other), torch.tensor([[4 / 40]]))
    assert_close(matched_iou(box, other), torch.tensor([4 / 40]))
    assert_close(pairwise_ioa(box, other), torch.tensor([[4 / 12]]))
    assert_close(pairwise_ioa(other, box), torch.tensor([[4 / 32]]))


def test_a_box_too_small_for_its_area_to_be_a_number_has_no_overlap():
    speck = torch.tensor([[0.0, 0, 1e-30, 1e-30]])
    assert_close(pairwise_iou(speck, speck), torch.zeros(1, 1))


@given(tables, tables)
def test_overlaps_are_counts_of_cells(boxes, others):
    iou, ioa = pairwise_iou(boxes, others), pairwise_ioa(boxes, others)
    for row, box in enumerate(boxes):
        for column, other in enumerate(others):
            ours, theirs = covered_cells(box), covered_cells(other)
            shared = len(ours & theirs)
            assert_close(iou[row, column].item(), shared / max(1, len(ours | theirs)))
            assert_close(ioa[row, column].item(), shared / max(1, len(ours)))


@given(tables)
def test_row_by_row_is_the_diagonal_of_all_pairs(boxes):
    others = boxes.flip(0)
    assert_close(matched_iou(boxes, others), pairwise_iou(boxes, others).diagonal(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchvision_finds_the_same_to_the_last_bit(dtype):
    boxes, others = random_boxes(0, 200, dtype), random_boxes(1, 300, dtype)
    assert_close(pairwise_iou(boxes, others), box_iou(boxes, others), rtol=0, atol=0)


def test_pycocotools_finds_the_same_with_and_without_crowds():
    boxes, others = random_boxes(2, 20, torch.float64), random_boxes(3, 30, torch.float64)
    ours, theirs = (torch.cat([table[:, :2], table[:, 2:] - table[:, :2]], dim=1).numpy() for table in (boxes, others))
    for overlap, crowd in ((pairwise_iou, 0), (pairwise_ioa, 1)):
        expected = mask.iou(ours, theirs, [crowd] * 30)
        np.testing.assert_allclose(overlap(boxes, others).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_holds_boxes_whose_area_it_cannot(dtype):
    box, other = torch.tensor([[0.0, 0, 512, 512]], dtype=dtype), torch.tensor([[0.0, 0, 1024, 512]], dtype=dtype)
    assert_close(box_area(box), torch.tensor([512.0**2]))
    assert_close(pairwise_iou(box, other), torch.tensor([[0.5]]))


def test_no_boxes_are_ordinary():
    none, boxes = torch.zeros(0, 4), random_boxes(0, 3)
    assert box_area(none).shape == (0,)
    assert matched_iou(none, none).shape == (0,)
    for overlap in (pairwise_iou, pairwise_ioa):
        assert overlap(none, boxes).shape == (0, 3)
        assert overlap(boxes, none).shape == (3, 0)
        assert overlap(none, none).shape == (0, 0)


def test_boxes_are_left_as_they_were():
    for boxes in (torch.tensor([[9.0, 9, 0, 0]]), torch.tensor(DEGENERATE), torch.tensor(DEGENERATE).T.contiguous().T):
        before = boxes.clone()
        for overlap in (pairwise_iou, pairwise_ioa, matched_iou):
            overlap(boxes, boxes)
        assert_close(boxes, before, rtol=0, atol=0)


def test_slopes_are_those_of_the_values():
    boxes, others = (
        random_boxes(4, 4, torch.float64).requires_grad_(),
        random_boxes(5, 4, torch.float64).requires_grad_(),
    )
    for overlap in (matched_iou, pairwise_iou, pairwise_ioa):
        assert torch.autograd.gradcheck(overlap, (boxes, others))


def test_slopes_of_boxes_without_area_are_finite():
    boxes = torch.tensor(DEGENERATE, requires_grad=True)
    others = torch.tensor([*DEGENERATE, [0, 0, 9, 9]], requires_grad=True)
    (pairwise_iou(boxes, others).sum() + pairwise_ioa(boxes, others).sum()).backward()
    for table in (boxes, others):
        assert table.grad is not None
        assert table.grad.isfinite().all()


@pytest.mark.usefixtures("unchecked")
def test_boxes_of_other_numbers_are_not_compared_row_by_row():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 3.0]]).repeat(5, 1)
    for one, other in ((boxes, boxes[:1]), (boxes[:1], boxes), (boxes[0], boxes)):
        with pytest.raises(ValueError, match=r"boxes are compared row by row, got \(.*\) and \(.*\)"):
            matched_iou(one, other)


extents = st.floats(0.5, 500)
places = st.floats(-200, 1000)


def test_offsets_by_hand():
    anchor, box = torch.tensor([[10.0, 10.0, 30.0, 50.0]]), torch.tensor([[20.0, 20.0, 60.0, 40.0]])
    # centres (20, 30) and (40, 30); sizes (20, 40) and (40, 20): dx = 20 / 20, dy = 0, dw = ln 2, dh = -ln 2
    assert_close(BoxCoder().encode(box, anchor), torch.tensor([[1.0, 0.0, math.log(2), -math.log(2)]]))
    weighted = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    assert_close(weighted.encode(box, anchor), torch.tensor([[10.0, 0.0, 5 * math.log(2), -5 * math.log(2)]]))


@given(st.tuples(places, places, extents, extents), st.tuples(places, places, extents, extents))
def test_decoding_undoes_encoding(box_xywh, anchor_xywh):
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0), max_log_scale=20)
    box, anchor = (torch.tensor([[x, y, x + w, y + h]], dtype=torch.float64) for x, y, w, h in (box_xywh, anchor_xywh))
    assert_close(coder.decode(coder.encode(box, anchor), anchor), box, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_it_is_torchvisions_coder(weights):
    ours, theirs = BoxCoder(weights), TorchvisionBoxCoder(weights)
    truth, anchors = random_boxes(0), random_boxes(1)
    assert_close(ours.encode(truth, anchors), theirs.encode_single(truth, anchors))
    deltas = torch.randn(50, 4, generator=torch.Generator().manual_seed(2)) * 5  # some are beyond the clamp
    assert_close(ours.decode(deltas, anchors), theirs.decode_single(deltas, anchors))


def test_large_scales_are_cut_above_and_in_mmdetections_way_below():
    anchor = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    huge = torch.tensor([[0.0, 0.0, 50.0, -50.0]])
    assert_close(BoxCoder().decode(huge, anchor), torch.tensor([[-492.0, 8.0, 508.0, 8.0]]))  # 16 px become 1000
    below = BoxCoder(clamp_below=True).decode(huge, anchor)
    assert_close(below[0, 3] - below[0, 1], torch.tensor(16 * math.exp(-MAX_LOG_SCALE)), rtol=1e-4, atol=0)


def test_leading_axes_broadcast_and_halves_are_computed_in_single():
    anchors, deltas = random_boxes(0), torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(1)) * 0.3
    decoded = BoxCoder().decode(deltas, anchors)
    assert decoded.shape == (2, 50, 4)
    assert_close(decoded[1], BoxCoder().decode(deltas[1], anchors))
    half = BoxCoder().decode(deltas.half(), anchors)
    assert half.dtype == torch.float32
    assert_close(half, BoxCoder().decode(deltas.half().float(), anchors))
    assert BoxCoder().encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


def test_decoding_is_differentiable():
    anchors = random_boxes(0, 5, torch.float64)
    deltas = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: BoxCoder().decode(values, anchors), deltas)
