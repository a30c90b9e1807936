"""What a box gains from a shape on a level, at its own position and in the mean over positions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from builders import instances_of
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import dblquad
from torchvision.ops import box_iou

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import level_hw
from detect.anchors.generator import AnchorGenerator
from detect.anchors.grid_convention import CONVENTIONS, STRIDE_MODES, Convention
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.instances import ResizedInstances
from detect.data import read_coco
from detect.errors import FitError
from detect.fitting.any_position import AnyPosition, boxes_on_grid
from detect.fitting.own_positions import OwnPositions
from detect.samples import SAMPLES, sample_annotations

EXTENT = st.floats(2, 200)


def cell(width: float, height: float, stride: int, objective: str = "iou") -> AnyPosition:
    return AnyPosition.of(ShapeHistogram.of(np.array([[width, height]], float)), (stride,), objective=objective)


def iou_at(cells: AnyPosition, shape: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """By the corners of the two boxes, with the anchor's centre at 0."""
    sides = []
    for extent, other, shift in zip(cells.extents[:, 0], shape, (u, v), strict=True):
        low, high = np.maximum(shift - extent / 2, -other / 2), np.minimum(shift + extent / 2, other / 2)
        sides.append(np.clip(high - low, 0, None))
    both = sides[0] * sides[1]
    return both / (cells.extents[:, 0].prod() + shape.prod() - both)


def test_own_position_by_hand():
    # stride 16, centres at 8, 24, ...: a box of 32 centred on 16 is 8 from the nearest along both axes
    boxes = OwnPositions.of(instances_of([(0, 0, 32, 32)]), (16, 32))
    # 32 x 32: overlap 24 x 24 = 576, union 2048 - 576; 48 x 48: ends at 0: overlap 32 x 32 = 1024, of 2304
    assert_allclose(boxes.utilities(0, np.array([[32.0, 32.0], [48.0, 48.0]])), [[576 / 1472], [1024 / 2304]])
    # stride 32: on its centre at 16
    assert_allclose(boxes.utilities(1, np.array([[32.0, 32.0], [48.0, 48.0]])), [[1.0], [1024 / 2304]])


def test_any_position_on_one_ramp_by_hand():
    # Box 10 x 10, anchor 10 x 100, stride 10. Along y the box stays within: overlap 10. Along x it is 10 - u, u in [0, 5]:
    # IoU = 10 (10 - u) / (1100 - 10 (10 - u)) = (10 - u) / (100 + u); its mean is (110 ln(105 / 100) - 5) / 5
    shape = np.array([[10.0, 100.0]])
    assert_allclose(cell(10, 10, 10).utilities(0, shape), [[22 * math.log(1.05) - 1]])
    # IoU >= .08: 10 - u >= 8 + .08 u, so u <= 2 / 1.08, of 5
    assert_allclose(cell(10, 10, 10, "recall@0.08").utilities(0, shape), [[2 / 1.08 / 5]], rtol=1e-6)


def test_recall_on_two_ramps_by_hand():
    # 10 x 10 on 10 x 10, stride 20: u, v in [0, 10]. IoU >= 1/3: (10 - u)(10 - v) >= 50: the area above a hyperbola:
    # integral over x = 10 - u from 5 to 10 of 10 - 50 / x = 50 - 50 ln 2, of 100
    gain = cell(10, 10, 20, f"recall@{1 / 3:.15f}").utilities(0, np.array([[10.0, 10.0]]))
    assert_allclose(gain, [[0.5 - 0.5 * math.log(2)]], rtol=1e-6)


def test_a_stride_of_nearly_nothing_is_iou_by_shape():
    # stride 1 against 1000 px: at most half a pixel of shift
    gain = cell(1000, 1000, 1).utilities(0, np.array([[1000.0, 500.0], [2000.0, 2000.0]]))
    assert_allclose(gain, [[0.5], [0.25]], rtol=1e-3)
    assert gain[1, 0] == pytest.approx(0.25)  # the box stays within: exactly


@given(
    EXTENT, EXTENT, EXTENT, EXTENT, st.sampled_from([4, 16, 64]), st.sampled_from(["iou", "recall@0.5", "recall@0.2"])
)
def test_the_mean_over_positions_lies_between_its_lower_and_upper_sums(w, h, width, height, stride, objective):
    cells, shape = cell(w, h, stride, objective), np.array([width, height])
    edges = np.linspace(0, stride / 2, 41)
    u, v = np.meshgrid(edges, edges)
    gains = cells.objective.of_iou(iou_at(cells, shape, u, v))  # falls with u and with v
    lower, upper = gains[1:, 1:].mean(), gains[:-1, :-1].mean()
    assert lower - 1e-9 <= cells.utilities(0, shape[None])[0, 0] <= upper + 1e-9


@pytest.mark.parametrize("shape", [(20.0, 12.0), (9.0, 40.0), (15.0, 15.0)])
def test_the_closed_form_is_scipys_integral(shape):
    cells, shape = cell(15, 15, 12), np.array(shape)
    integral = dblquad(lambda v, u: iou_at(cells, shape, np.array(u), np.array(v)), 0, 6, 0, 6, epsabs=1e-6)[0]
    assert_allclose(cells.utilities(0, shape[None]), [[integral / 36]], rtol=1e-5)


def test_any_position_is_the_mean_of_own_positions():
    spots = (np.arange(32) + 0.5) / 4  # one cell of stride 8, by quarters of a pixel
    instances = instances_of([(64 + x - 7, 64 + y - 5, 14, 10) for x in spots for y in spots], image_wh=(256, 256))
    shapes = np.array([[14.0, 10.0], [9.0, 12.0], [30.0, 8.0]])
    own = OwnPositions.of(instances, (8, 32)).utilities(0, shapes).mean(axis=1)
    assert_allclose(cell(14, 10, 8).utilities(0, shapes)[:, 0], own, atol=2e-4)


@pytest.mark.parametrize(("offset", "stride_mode"), list(itertools.product((0.0, 0.3, 0.5), STRIDE_MODES)))
@pytest.mark.parametrize("rule", ["none", "letterbox:109", "stretch:157x97"])  # as they are, and of odd sizes
@pytest.mark.parametrize("name", SAMPLES)
def test_gains_are_the_best_over_all_anchors_of_the_grid(name, rule, offset, stride_mode):
    instances = ResizedInstances.of(read_coco(sample_annotations(name)), rule)
    canvas = instances.canvas_wh[0]
    rows = np.flatnonzero((instances.canvas_wh == canvas).all(axis=1))[:40]
    few = instances.take(rows)
    convention = Convention(stride_mode=stride_mode, center_offset=offset)
    boxes = OwnPositions.of(few, (8, 32), convention=convention)
    hw = (int(canvas[1]), int(canvas[0]))
    for level, shape in ((0, (21.0, 13.0)), (1, (60.0, 75.0))):
        anchors = AnchorSet.of([[shape]], strides=[(8, 32)[level]], center_offset=offset)
        grid = AnchorGenerator(anchors, convention=convention)
        all_anchors = grid.generate(level_hw(grid, hw), hw, dtype=torch.float64).boxes
        dense = box_iou(torch.from_numpy(instances.boxes[rows]), all_anchors).max(dim=1).values.numpy()
        assert_allclose(np.sort(boxes.utilities(level, np.array([shape]))[0]), np.sort(dense), atol=1e-9)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_each_framework_lays_anchors_as_a_fit_for_it_assumes(convention):
    random = np.random.default_rng(0)
    width, height = 211, 97
    corners = random.uniform(0, 0.7, (60, 2)) * [width, height]
    boxes = [(*corner, *extent) for corner, extent in zip(corners, random.uniform(3, 60, (60, 2)), strict=True)]
    instances = instances_of(boxes, image_wh=(width, height))
    fitted = OwnPositions.of(instances, (16, 64), convention=convention)
    grid = AnchorGenerator.of_sizes(
        [[24], [70]], [1.0], (16, 64), convention=convention
    )  # square and even: rounded or not
    all_anchors = grid.generate(level_hw(grid, (height, width)), (height, width), dtype=torch.float64)
    for level, of_level in enumerate(torch.split(all_anchors.boxes, all_anchors.num_per_level)):
        dense = box_iou(torch.from_numpy(instances.boxes), of_level).max(dim=1).values.numpy()
        shape = np.array([[(24.0, 24.0), (70.0, 70.0)][level]])
        assert_allclose(np.sort(fitted.utilities(level, shape)[0]), np.sort(dense), atol=1e-9)


def test_the_order_of_the_data_changes_nothing():
    boxes = [(3.0, 5.0, 10.0, 12.0), (20.0, 7.5, 10.0, 12.0), (1.0, 30.0, 25.0, 8.0)]
    shapes = np.array([[10.0, 10.0], [20.0, 9.0]])
    one, other = (OwnPositions.of(instances_of(each), (4, 16)).utilities(1, shapes) for each in (boxes, boxes[::-1]))
    assert_array_equal(one, other)


def test_a_blend_is_a_blend():
    shapes = np.array([[10.0, 12.0], [18.0, 9.0]])
    blend, iou, recall = (
        cell(14, 10, 8, text).utilities(0, shapes) for text in ("0.7*iou+0.3*recall@0.6", "iou", "recall@0.6")
    )
    assert_allclose(blend, 0.7 * iou + 0.3 * recall)


def test_few_boxes_stay_where_they_are_and_many_are_counted(nuclei):
    own = boxes_on_grid(nuclei, (4, 8), few_boxes=len(nuclei))
    counted = boxes_on_grid(nuclei, (4, 8), few_boxes=len(nuclei) - 1)
    assert isinstance(own, OwnPositions)
    assert isinstance(counted, AnyPosition)
    assert_allclose(counted.weights.sum(), 1)
    shape = np.array([[16.0, 16.0]])
    means = [(each.weights * each.utilities(1, shape)).sum() for each in (own, counted)]
    assert_allclose(means[0], means[1], atol=0.02)


def test_all_that_is_said_of_the_grid_reaches_the_boxes():
    instances = instances_of([(3.0, 5.0, 10.0, 12.0), (40.0, 70.5, 10.0, 12.0)], image_wh=(61, 91))
    ratio = Convention(stride_mode="ratio")
    for how in ({"convention": ratio}, {"convention": "mmdet"}, {"objective": "recall@0.4"}):
        one, other = boxes_on_grid(instances, (4, 16), **how), OwnPositions.of(instances, (4, 16), **how)
        assert_array_equal(one.far, other.far)
        assert (one.center_offset, one.objective) == (other.center_offset, other.objective)
    plain = boxes_on_grid(instances, (4, 16))
    assert (plain.far != boxes_on_grid(instances, (4, 16), convention=ratio).far).any()


def test_a_level_is_for_boxes_of_up_to_so_many_of_its_strides():
    # 16 x 4 and 20 x 20 on strides 4, 8: sizes 8 and 20, limits 8 and, as the coarsest, none
    instances = instances_of([(0.0, 0.0, 16.0, 4.0), (0.0, 0.0, 20.0, 20.0)])
    shapes = np.array([[16.0, 4.0], [20.0, 20.0]])
    for made in (OwnPositions.of, lambda boxes, *args, **how: AnyPosition.of(boxes.histogram, *args, **how)):
        plain, limited = made(instances, (4, 8)), made(instances, (4, 8), max_strides=2)
        order = np.argsort(plain.extents[0])
        fine = limited.utilities(0, shapes)[:, order]
        assert_array_equal(fine[:, 0], plain.utilities(0, shapes)[:, order[0]])
        assert_array_equal(fine[:, 1], 0)
        assert_array_equal(limited.utilities(1, shapes), plain.utilities(1, shapes))
    with pytest.raises(ValueError, match="positive limit of sizes in strides, got 0"):
        OwnPositions.of(instances, (4, 8), max_strides=0)


def test_cells_that_a_limit_may_cut_count_as_error(nuclei):
    # cells of a 4th octave: 16 x 16 and 40 x 40, and the limit is 16 on the finer level
    histogram = ShapeHistogram.of(np.array([[16.0, 16.0], [40.0, 40.0], [40.0, 40.0]]), cells_per_octave=4)
    plain, limited = (AnyPosition.of(histogram, (4, 8), max_strides=limit) for limit in (None, 4))
    assert_allclose(limited.error - plain.error, 1 / 3)
    joined = boxes_on_grid(nuclei, (4, 8), few_boxes=0, max_strides=4)
    every = AnyPosition.of(ShapeHistogram.of(nuclei.shapes, cells_per_octave=1024), (4, 8), max_strides=4)
    for shape in np.array([[[12.0, 12.0]], [[20.0, 9.0]]]):
        means = [(each.weights * each.utilities(0, shape)).sum() for each in (every, joined)]
        assert abs(means[0] - means[1]) <= joined.error


def test_fine_cells_are_joined_until_few_are_left(monkeypatch, nuclei):
    monkeypatch.setattr("detect.fitting.any_position.MAX_CELLS", 20)
    counted = boxes_on_grid(nuclei, (4, 8), few_boxes=0)
    assert len(counted.weights) <= 20 or len(counted.weights) < len(nuclei.histogram)
    assert counted.error > nuclei.histogram.iou_error_bound
    every = AnyPosition.of(ShapeHistogram.of(nuclei.shapes, cells_per_octave=1024), (4, 8))
    for shape in np.array([[[12.0, 12.0]], [[20.0, 9.0]]]):
        means = [(each.weights * each.utilities(1, shape)).sum() for each in (every, counted)]
        assert abs(means[0] - means[1]) <= counted.error


def test_the_error_of_joined_cells_by_hand(monkeypatch):
    # two boxes in neighbouring cells of a 32nd octave, a 64th from their joint mean on either side, of the same height
    monkeypatch.setattr("detect.fitting.any_position.MAX_CELLS", 1)
    height = 16 * 2 ** (1 / 64)
    instances = instances_of([(0, 0, 16 * 2 ** (1 / 64), height), (0, 0, 16 * 2 ** (3 / 64), height)])
    cells = boxes_on_grid(instances, (4,), few_boxes=0)
    assert_allclose(cells.extents, [[16 * 2 ** (2 / 64)], [height]])
    assert_allclose(cells.error, math.log(2) / 64, rtol=1e-6)
    blend = boxes_on_grid(instances, (4,), few_boxes=0, objective="0.25*iou+0.75*recall@0.5")
    assert_allclose(blend.error, math.log(2) / 256, rtol=1e-6)


def test_what_cannot_be_fitted_says_so():
    with pytest.raises(FitError, match="no boxes"):
        AnyPosition.of(ShapeHistogram.empty(), (8,))
    with pytest.raises(FitError, match="no boxes"):
        OwnPositions.of(instances_of([]), (8,))
    for strides in ((), (16, 8), (8, 8), (0, 8)):
        with pytest.raises(ValueError, match="fine to coarse"):
            OwnPositions.of(instances_of([(0, 0, 8, 8)]), strides)
    with pytest.raises(ValueError, match="objective"):
        OwnPositions.of(instances_of([(0, 0, 8, 8)]), (8,), objective="ap")
    with pytest.raises(ValueError, match="convention 'ceil' is not one of exact"):
        OwnPositions.of(instances_of([(0, 0, 8, 8)]), (8,), convention="ceil")
