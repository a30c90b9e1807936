"""No shape offers more than its square's bound, nor than the whole plane's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors.histogram import ShapeHistogram
from detect.fitting.any_position import AnyPosition
from detect.fitting.certificate import bound_squares, highest_reduced_utility
from detect.fitting.gains import Boxes, levels_by_size
from detect.fitting.objective import Objective
from detect.fitting.own_positions import OwnPositions

OBJECTIVES = ("iou", "recall@0.5", "0.6*iou+0.4*recall@0.4")


def boxes_of(kind: str, seed: int, objective: str, count: int = 12) -> Boxes:
    random = np.random.default_rng(seed)
    shapes = np.exp(random.uniform(1, 4, (count, 2)))
    strides = (4, 16)
    limit = 4.0 if seed % 2 else None  # of sizes, in strides: on the finer level half of the boxes do not count
    if kind == "any":
        return AnyPosition.of(ShapeHistogram.of(shapes), strides, objective=objective, max_strides=limit)
    far = random.uniform(0, 1, (2, 2, count)) * np.array(strides)[:, None, None] / 2
    far[:, :, 0] = 0  # a box on a centre, where the middle piece of its overlap is none
    return OwnPositions(
        extents=shapes.T.copy(),
        far=far,
        weights=np.full(count, 1 / count),
        served=levels_by_size(shapes.T, strides, limit),
        strides=strides,
        objective=Objective.parse(objective),
    )


def one_box(width: float, height: float, far: float) -> OwnPositions:
    """On one level, ``far`` from the nearest centre along x."""
    return OwnPositions(
        extents=np.array([[width], [height]]),
        far=np.array([[[far], [0.0]]]),
        weights=np.ones(1),
        served=np.ones((1, 1), bool),
        strides=(8,),
        objective=Objective(),
    )


def offers(boxes: Boxes, level: int, multipliers: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    return np.maximum(boxes.weights * boxes.utilities(level, shapes) - multipliers, 0).sum(axis=1)


@pytest.mark.parametrize("kind", ["own", "any"])
@given(
    st.integers(0, 10**6),
    st.sampled_from(OBJECTIVES),
    st.sampled_from([0, 1]),
    st.tuples(st.floats(0.5, 5), st.floats(0.5, 5)),
    st.sampled_from([0.125, 0.03, 0.002]),
)
def test_no_shape_of_a_square_offers_more_than_its_bound(kind, seed, objective, level, middle, side):
    boxes = boxes_of(kind, seed, objective)
    random = np.random.default_rng(seed)
    multipliers = boxes.weights * random.uniform(0, 0.6, len(boxes.weights))
    center, half = np.array([middle]), np.array([side, side / 2])
    upper, value, _ = bound_squares(boxes, level, multipliers, center, half)
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1], [0, 1], [1, 0]])
    inside = np.concatenate([random.uniform(-1, 1, (60, 2)), corners])
    assert offers(boxes, level, multipliers, np.exp(center + inside * half)).max() <= upper[0] + 1e-12
    assert_allclose(value, offers(boxes, level, multipliers, np.exp(center)))


def test_the_bound_closes_in_on_the_value_with_the_squares_area():
    boxes = boxes_of("own", 3, "iou", count=200)
    multipliers = boxes.weights * 0.3
    peak = highest_reduced_utility(boxes, 0, multipliers, tolerance=1e-9)
    center = np.array([[2.5, 2.5]])
    excess = []
    for side in (0.02, 0.01, 0.005):
        upper, value, _ = bound_squares(boxes, 0, multipliers, center, np.array([side, side]))
        excess.append(float(upper[0] - value[0]))
    slope = excess[2] / 0.005  # what is left of first order: the slope of the sum itself
    assert excess[0] > excess[1] > excess[2] > 0
    assert slope < 0.5 * peak.found / 0.1


@pytest.mark.parametrize("kind", ["own", "any"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("level", [0, 1])
def test_the_peak_lies_above_a_dense_grid_of_shapes(kind, objective, level):
    boxes = boxes_of(kind, 1, objective)
    multipliers = boxes.weights * np.linspace(0, 0.5, len(boxes.weights))
    axis = np.exp(np.linspace(-1, 5.5, 90))
    dense = offers(boxes, level, multipliers, np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
    peak = highest_reduced_utility(boxes, level, multipliers, tolerance=0.002)
    assert dense.max() <= peak.bound
    assert peak.found <= peak.bound <= max(peak.found, dense.max()) + (0.002 if kind == "own" else 0.02)
    values = offers(boxes, level, multipliers, peak.entering)
    assert_allclose(values.max(), peak.found)
    assert (np.diff(values) <= 1e-12).all()


def test_one_box_by_hand():
    # one box of 10 x 20 on a centre, multiplier .4: the same shape offers 1 - .4
    boxes = one_box(10.0, 20.0, far=0.0)
    peak = highest_reduced_utility(boxes, 0, np.array([0.4]), tolerance=1e-4)
    assert 0.6 <= peak.bound <= 0.6002
    # 3 away along x: an anchor of width W covers 2 + W / 2 of the box's 10, up to all of it at W = 16: 10 of 16 is the best
    away = one_box(10.0, 20.0, far=3.0)
    widths = np.linspace(2, 20, 1801)
    overlap = np.clip(np.minimum(np.minimum(10, widths), 5 + widths / 2 - 3), 0, None)
    best = (overlap / (10 + widths - overlap)).max()
    assert best == pytest.approx(10 / 16)
    assert best - 0.4 <= highest_reduced_utility(away, 0, np.array([0.4]), tolerance=1e-4).bound <= best - 0.4 + 2e-4


def test_multipliers_above_all_gains_leave_no_offer():
    boxes = boxes_of("own", 0, "iou")
    peak = highest_reduced_utility(boxes, 0, boxes.weights * 1.01)
    assert peak.bound == 0.0
    assert peak.entering.shape == (0, 2)


def test_an_overlap_that_grows_ever_faster_stays_below_its_bound():
    # 10 x 100, 4 away along x; 6 x 5: the overlap (6 + 2) / 2 has a slope of 3/4 in ln W that rises, area counts for little
    boxes = one_box(10.0, 100.0, far=4.0)
    center, half = np.log([[6.0, 5.0]]), np.array([0.125, 0.001])
    upper = bound_squares(boxes, 0, np.zeros(1), center, half)[0]
    assert offers(boxes, 0, np.zeros(1), np.exp(center + half))[0] <= upper[0]


@pytest.mark.parametrize("extent", [2.5, 4.0])
@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.3])
def test_small_boxes_on_coarse_strides_gain_faster_than_areas(extent, threshold):
    histogram = ShapeHistogram.of(np.array([[extent, extent]]))
    boxes = AnyPosition.of(histogram, (16,), objective=f"recall@{threshold}")
    half = np.array([0.125, 0.125])
    for center in np.log([[[2.0, 2.0]], [[4.0, 4.0]], [[8.0, 8.0]], [[3.0, 9.0]]]):
        upper = bound_squares(boxes, 0, np.zeros(1), center, half)[0]
        inside = center + half * np.stack(np.meshgrid(*[np.linspace(-1, 1, 9)] * 2), axis=-1).reshape(-1, 2)
        assert offers(boxes, 0, np.zeros(1), np.exp(inside)).max() <= upper[0]
