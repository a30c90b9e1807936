from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from detect.anchors.histogram import ShapeHistogram
from detect.ops.box_arrays import best_shape_iou

shapes_2d = arrays(np.float64, st.tuples(st.integers(1, 60), st.just(2)), elements=st.floats(0.5, 2000))


def test_cells_by_hand():
    # two cells per octave: log2(8) * 2 = 6, log2(9) * 2 = 6.34, both in cell 6; log2(32) * 2 = 10; log2(1) = 0
    histogram = ShapeHistogram.of(np.array([[8.0, 32.0], [9.0, 32.0], [1.0, 1.0]]), cells_per_octave=2)
    assert_array_equal(histogram.cells, [[0, 0], [6, 10]])
    assert_array_equal(histogram.counts, [1, 2])
    # the geometric mean of 8 and 9 is sqrt(72)
    assert_allclose(histogram.shapes, [[1.0, 1.0], [math.sqrt(72), 32.0]], rtol=1e-9)


def test_counts_stand_for_copies():
    shapes = np.array([[8.0, 30.0], [9.0, 31.0], [70.0, 11.0]])
    counted = ShapeHistogram.of(shapes, counts=np.array([3, 1, 2]))
    assert counted == ShapeHistogram.of(np.repeat(shapes, [3, 1, 2], axis=0))


@given(shapes_2d, st.randoms(use_true_random=False))
def test_any_split_in_any_order_gives_the_same_histogram(shapes, random):
    whole = ShapeHistogram.of(shapes)
    rows = list(range(len(shapes)))
    random.shuffle(rows)
    cuts = sorted(random.choices(range(len(rows) + 1), k=6))
    parts = [rows[start:end] for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    merged = sum((ShapeHistogram.of(shapes[part]) for part in parts), ShapeHistogram.empty())
    assert merged == whole
    assert_array_equal(merged.shapes, whole.shapes)


@given(shapes_2d, shapes_2d.map(lambda anchors: anchors[:5]), st.sampled_from([1, 4, 32]))
def test_the_error_in_average_iou_is_within_the_bound(shapes, anchors, cells_per_octave):
    histogram = ShapeHistogram.of(shapes, cells_per_octave=cells_per_octave)
    exact = best_shape_iou(shapes, anchors)[0].mean()
    counted = np.average(best_shape_iou(histogram.shapes, anchors)[0], weights=histogram.counts)
    assert abs(counted - exact) <= histogram.iou_error_bound + 1e-12
    assert histogram.iou_error_bound <= math.log(2) / cells_per_octave * (1 + 1e-9)


def test_the_bound_is_nearly_reached_where_boxes_sit_on_both_edges_of_a_cell():
    # one cell per octave, half of the widths at its lower edge and half just under its upper one; heights all at an edge
    widths = np.array([1.0, 2 - 1e-9])
    shapes = np.stack([widths, np.ones(2)], axis=1)
    histogram = ShapeHistogram.of(shapes, cells_per_octave=1)
    # with a huge anchor of height 1 the IoU is w / W, in logs a straight line of slope IoU: convex, so the mean lies above
    exact = best_shape_iou(shapes, np.array([[2.0, 1.0]]))[0].mean()  # (1/2 + 1) / 2 = .75
    counted = best_shape_iou(histogram.shapes, np.array([[2.0, 1.0]]))[0].mean()  # sqrt(2) / 2 = .7071
    assert_allclose([exact, counted], [0.75, math.sqrt(0.5)], rtol=1e-6)
    assert histogram.iou_error_bound > abs(exact - counted)
    # the mean absolute deviation of two points at the ends of a cell of width ln 2 is half of it
    assert_allclose(histogram.iou_error_bound, math.log(2) / 2, rtol=1e-6)


def test_cells_of_one_box_cost_no_error():
    histogram = ShapeHistogram.of(np.array([[10.0, 20.0], [300.0, 400.0]]))
    assert_allclose(histogram.shapes, [[10.0, 20.0], [300.0, 400.0]], rtol=1e-11)
    assert histogram.iou_error_bound < 1e-10


def test_an_empty_histogram_adds_nothing():
    histogram = ShapeHistogram.of(np.array([[10.0, 20.0]]))
    assert ShapeHistogram.empty() + histogram == histogram
    assert len(ShapeHistogram.empty()) == 0
    assert ShapeHistogram.empty().num_boxes == 0
    assert ShapeHistogram.empty().iou_error_bound == 0.0


@pytest.mark.parametrize(
    ("shapes", "message"),
    [([[0.0, 1.0]], "positive and finite"), ([[np.nan, 1.0]], "positive and finite"), ([[1e30, 1.0]], r"2\*\*-60")],
)
def test_bad_extents_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message):
        ShapeHistogram.of(np.array(shapes))


def test_different_cells_do_not_add():
    with pytest.raises(ValueError, match="with 32 and 16 cells per octave"):
        ShapeHistogram.empty(cells_per_octave=32) + ShapeHistogram.empty(cells_per_octave=16)
    with pytest.raises(ValueError, match="cells_per_octave=0"):
        ShapeHistogram.empty(cells_per_octave=0)
