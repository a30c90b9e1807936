"""Distributions: every box is counted once, at its place."""

from __future__ import annotations

import numpy as np
from builders import instances_of
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pages import boxes_in_files, many_boxes

from detect.anchors.distributions import ShapeCells, boxes_per_image, center_counts, size_histogram


def test_images_without_boxes_count_as_zero():
    some = boxes_in_files([[1, 1, 9, 9]] * 3, files=["a", "b", "c", "d"])
    assert_array_equal(boxes_per_image(some.dataset), [1, 1, 1, 0])


def test_centres_are_counted_in_rows_down_and_columns_across():
    # 640 x 480: the centre (500, 150) is at (.781, .3125), in the last of four columns and the second row; the box's corners
    # (400, 50) and (600, 250) are in the third column, first row and in the last column, third row
    counts = center_counts(boxes_in_files([[400, 50, 200, 200]]).dataset, 4)
    assert_array_equal(np.argwhere(counts), [[1, 3]])


def test_sizes_are_counted_between_their_edges():
    # square roots of areas 8, 16 and sqrt(8 * 32) = 16; an edge belongs to the bar above it
    edges, counts = size_histogram(instances_of([[0, 0, 8, 8], [0, 0, 16, 16], [0, 0, 8, 32]]), per_octave=1)
    assert_allclose(edges, [8, 16, 32])
    assert_array_equal(counts, [1, 2])


def test_no_boxes_make_empty_histograms():
    none = instances_of([])
    edges, counts = size_histogram(none, per_octave=4)
    assert (len(edges), counts.tolist()) == (2, [0])
    assert center_counts(none.dataset, 3).sum() == 0


def test_every_box_is_counted_once():
    some = many_boxes(3000, num_images=70)
    assert boxes_per_image(some.dataset).sum() == 3000
    assert center_counts(some.dataset, 16).sum() == 3000
    assert size_histogram(some, per_octave=4)[1].sum() == 3000


@given(
    st.lists(st.tuples(st.floats(0.1, 4000), st.floats(0.1, 4000), st.floats(0, 1)), min_size=1, max_size=40),
    st.integers(3, 8),
)
def test_cells_hold_every_value_once_and_have_their_shapes_between_their_edges(rows, per_octave):
    shapes, values = np.array([row[:2] for row in rows]), np.array([row[2] for row in rows])
    cells = ShapeCells.of(shapes, per_octave)
    sums = cells.sums(values)
    assert_allclose(np.nansum(sums), values.sum(), atol=1e-9)
    down, across = np.divmod(cells.flat, len(cells.x) - 1)
    for edges, at, side in ((cells.x, across, shapes[:, 0]), (cells.y, down, shapes[:, 1])):
        assert (edges[at] <= side * (1 + 1e-9)).all()
        assert (side <= edges[at + 1] * (1 + 1e-9)).all()
