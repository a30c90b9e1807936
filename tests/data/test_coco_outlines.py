"""Boxes of segmentations: against pycocotools, by hand, and nothing that breaks its decoder."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose
from pycocotools import mask as coco_mask

from detect.data.coco_entries import Box
from detect.data.coco_outlines import outline_box


def run_lengths(pixels: np.ndarray) -> list[int]:
    """Lengths of runs of 0 and 1 down the columns, from a run of 0."""
    flat = pixels.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return [0, *lengths] if flat[0] else lengths


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)))
def test_masks_have_the_box_of_their_pixels(pixels):
    rows, columns = np.nonzero(pixels)
    compressed = coco_mask.encode(np.asfortranarray(pixels))
    counts = compressed["counts"]
    for runs in (counts, counts.decode(), run_lengths(pixels)):
        box = outline_box({"size": list(pixels.shape), "counts": runs})
        if len(rows):
            low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
            assert box == Box(*low, high[0] - low[0], high[1] - low[1])
        else:
            assert box is None


@given(arrays(float, st.tuples(st.integers(3, 9), st.just(2)), elements=st.floats(0, 100)))
def test_a_polygon_has_the_box_of_its_points(points):
    box = outline_box([points.reshape(-1).tolist()])
    assert_allclose([box.x, box.y], points.min(axis=0))
    assert_allclose([box.x + box.width, box.y + box.height], points.max(axis=0))


def test_several_polygons_have_one_box():
    assert outline_box([[1, 2, 3, 2, 3, 5], [7, 1, 9, 1, 9, 4]]) == Box(1, 1, 8, 4)
    assert outline_box([1, 2, 3, 2, 3, 5]) == Box(1, 2, 2, 3)  # one polygon that is not in a list


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[]],
        "polygon",
        7,
        {},
        [[1]],
        [[1, 2, 3]],
        [["a", "b", "c", "d"]],
        [[1, 2, float("nan"), 4, 5, 6]],
        [None],
        [{"x": 1}],
        {"size": [2, 2]},
        {"size": None, "counts": "0"},
        {"size": [2], "counts": [4]},
        {"size": [2, 2], "counts": [1, 2]},  # of another size
        {"size": [2, 2], "counts": [-1, 5]},
        {"size": [0, 2], "counts": []},
        {"size": [2**20, 2**20], "counts": "0"},
        {"size": [2, 2], "counts": "o"},  # breaks off within a number
        {"size": [2, 2], "counts": "\u00e4"},
        {"size": [2, 2], "counts": 4},
        {"size": [2, 2], "counts": [10**400]},
    ],
)
def test_what_has_no_outline(segmentation):
    assert outline_box(segmentation) is None


@given(st.text(alphabet=st.characters(min_codepoint=48, max_codepoint=111), max_size=30), st.integers(1, 50))
def test_any_run_lengths_give_a_box_or_none(counts, side):
    box = outline_box({"size": [side, side], "counts": counts})
    assert box is None or (box.width > 0 and box.height > 0)
