"""The IoU on the grid equals the best over all anchors of the grid, in every convention."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torchvision.ops import box_iou

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import level_hw
from detect.anchors.generator import AnchorGenerator
from detect.anchors.grid_convention import CONVENTIONS, STRIDE_MODES, Convention
from detect.anchors.grid_iou import best_grid_anchors, grid_iou_by_level
from detect.anchors.instances import ResizedInstances
from detect.data import read_coco
from detect.samples import SAMPLES, sample_annotations

SIZES = [(20.0, 27.3), (45.0,), (99.0,), (160.0,), (300.0,)]


def by_level(boxes: np.ndarray, canvas_wh: np.ndarray, grid: AnchorGenerator) -> np.ndarray:
    return grid_iou_by_level(boxes, canvas_wh, grid.anchors, convention=grid.convention)


def dense(boxes: np.ndarray, canvas_wh: tuple[int, int], grid: AnchorGenerator) -> np.ndarray:
    """The best of all anchors of each level, by torchvision."""
    hw = (canvas_wh[1], canvas_wh[0])
    placed = grid.generate(level_hw(grid, hw), hw)
    levels = torch.split(placed.boxes.double(), placed.num_per_level)
    return torch.stack([box_iou(torch.from_numpy(boxes), level).max(dim=1).values for level in levels], dim=1).numpy()


def test_one_box_between_four_cells_by_hand():
    # stride 16, centres at 8, 24, ...: a 32 px box centred on 16 is 8 px from each of the four nearest
    anchors = AnchorSet.of([[(32, 32)]], strides=[16])
    box, canvas = np.array([[0.0, 0.0, 32.0, 32.0]]), np.array([[64, 64]])
    # overlap 24 x 24 = 576; union 2 * 1024 - 576 = 1472
    assert_allclose(grid_iou_by_level(box, canvas, anchors), [[576 / 1472]])
    # on the corner of the cell there is a centre at 16: a perfect match
    on_corners = AnchorSet.of([[(32, 32)]], strides=[16], center_offset=0.0)
    assert_allclose(grid_iou_by_level(box, canvas, on_corners), [[1.0]])


def test_the_best_anchor_by_hand():
    # centres 8, 24, 40, 56 and 16, 48; the box (20, 0, 30, 12) is centred on (25, 6): next to (24, 8) of the first level
    anchors = AnchorSet.of([[(16, 16), (16, 12)], [(64, 64)]], strides=[16, 32])
    boxes, canvas = np.array([[20.0, 0.0, 30.0, 12.0], [0.0, 0.0, 60.0, 50.0]]), np.array([[64, 64], [64, 64]])
    # the second is centred on (30, 25), next to (16, 16) of the second level
    assert_allclose(best_grid_anchors(boxes, canvas, anchors), [[16, 2, 32, 14], [-16, -16, 48, 48]])
    assert best_grid_anchors(boxes[:0], canvas[:0], anchors).shape == (0, 4)


def test_a_canvas_that_is_no_multiple_of_the_stride_gets_a_last_cell():
    # 40 / 16 = 2.5: three cells, the last centred on 40
    anchors = AnchorSet.of([[(8, 8)]], strides=[16])
    box, canvas = np.array([[36.0, 4.0, 44.0, 12.0]]), np.array([[40, 16]])
    assert_allclose(grid_iou_by_level(box, canvas, anchors), [[1.0]])


def test_floored_strides_by_hand():
    # 100 px at stride 16: 7 cells of 14 (cut from 14.28) px; the last centre is at 84 from the corner, not at 96
    anchors = AnchorSet.of([[(10, 10)]], strides=[16], center_offset=0.0)
    box, canvas = np.array([[85.0, 65.0, 95.0, 75.0]]), np.array([[100, 100]])
    # centre (90, 70): 6 px from 84 and none from 70: 40 / (200 - 40)
    assert_allclose(grid_iou_by_level(box, canvas, anchors, convention=Convention(stride_mode="floor")), [[40 / 160]])
    # by ratio the centres are 14.2857 apart: 85.714 and 71.429: overlap 5.714 x 8.571
    overlap = (10 - (90 - 6 * 100 / 7)) * (10 - (5 * 100 / 7 - 70))
    assert_allclose(
        grid_iou_by_level(box, canvas, anchors, convention=Convention(stride_mode="ratio")),
        [[overlap / (200 - overlap)]],
    )
    # exactly: 96 and 64: overlap 4 x 4
    assert_allclose(grid_iou_by_level(box, canvas, anchors), [[16 / 184]])


def test_rounded_corners_by_hand():
    # 45.25 x 22.63: halves 22.6 and 11.3 round to 23 and 11: 46 x 22
    anchors = AnchorSet.of([[(45.2548, 22.6274)]], strides=[8], center_offset=0.0)
    box, canvas = np.array([[9.0, 21.0, 55.0, 43.0]]), np.array([[64, 64]])
    assert_allclose(grid_iou_by_level(box, canvas, anchors, convention=Convention(round_corners=True)), [[1.0]])
    assert grid_iou_by_level(box, canvas, anchors)[0, 0] < 0.96


def test_an_anchor_rounded_to_nothing_covers_nothing():
    anchors = AnchorSet.of([[(0.4, 30.0)]], strides=[8])
    assert_array_equal(
        grid_iou_by_level(
            np.array([[0.0, 0, 8, 8]]), np.array([[64, 64]]), anchors, convention=Convention(round_corners=True)
        ),
        0,
    )


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("resize", ["letterbox:109", "stretch:157x97", "shortest:96:131"])
def test_every_sample_in_every_convention_on_odd_sizes(sample, convention, resize):
    instances = ResizedInstances.of(read_coco(sample_annotations(sample)), resize)
    grid = AnchorGenerator.of_sizes(SIZES, convention=convention)
    ours = by_level(instances.boxes, instances.canvas_wh, grid)
    for canvas in np.unique(instances.canvas_wh, axis=0):
        rows = np.flatnonzero((instances.canvas_wh == canvas).all(axis=1))
        # the grid's anchors are in single precision
        assert_allclose(ours[rows], dense(instances.boxes[rows], tuple(canvas.tolist()), grid), rtol=2e-5, atol=2e-6)


sides = st.floats(0.5, 200)


@given(
    st.lists(st.tuples(st.floats(-0.2, 1.2), st.floats(-0.2, 1.2), sides, sides), min_size=1, max_size=12),
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.lists(st.tuples(sides, sides), min_size=2, max_size=4),
    st.sampled_from(list(itertools.product(STRIDE_MODES, (False, True), (0.0, 0.3, 0.5, 1.0)))),
)
def test_any_boxes_on_any_grid(places, canvas_wh, shapes, how):
    stride_mode, round_corners, offset = how
    convention = Convention(stride_mode=stride_mode, round_corners=round_corners)
    x, y, w, h = np.array(places).T
    x, y = x * canvas_wh[0], y * canvas_wh[1]
    boxes = np.stack([x, y, x + w, y + h], axis=1)
    anchors = AnchorSet.of([shapes[:1], shapes[1:]], strides=(7, 32), center_offset=offset)
    grid = AnchorGenerator(anchors, convention=convention)
    canvases = np.tile(canvas_wh, (len(boxes), 1))
    ours = by_level(boxes, canvases, grid)
    assert_allclose(ours, dense(boxes, canvas_wh, grid), rtol=1e-4, atol=1e-5)
    # and the anchor that is named is one that has the best IoU
    named = best_grid_anchors(boxes, canvases, anchors, convention=convention)
    iou = box_iou(torch.from_numpy(boxes), torch.from_numpy(named)).diagonal().numpy()
    assert_allclose(iou, ours.max(axis=1), atol=1e-9)


def test_no_boxes_and_an_unknown_convention():
    anchors = AnchorSet.of([[(8, 8)], [(16, 16)]], strides=(8, 16))
    assert grid_iou_by_level(np.zeros((0, 4)), np.zeros((0, 2), np.int64), anchors).shape == (0, 2)
    with pytest.raises(
        ValueError, match="convention 'ceil' is not one of exact, torchvision, detectron2, mmdet, effdet"
    ):
        grid_iou_by_level(np.zeros((0, 4)), np.zeros((0, 2), np.int64), anchors, convention="ceil")
