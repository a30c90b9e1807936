from __future__ import annotations

import itertools

import numpy as np
import pytest
from builders import fine_histogram, random_shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from detect.anchors.histogram import ShapeHistogram
from detect.errors import FitError
from detect.fitting.clustering import IoUKMeans
from detect.fitting.search import optimal_anchors
from detect.ops.box_arrays import best_shape_iou

seeds = st.integers(0, 10_000)


def grid_iou(boxes: np.ndarray, steps: int) -> np.ndarray:
    """IoU of each shape of a grid with each box."""
    axes = [np.exp(np.linspace(*np.log([boxes[:, axis].min(), boxes[:, axis].max()]), steps)) for axis in range(2)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    overlap = np.minimum(grid[:, None], boxes).prod(axis=2)
    return overlap / (grid.prod(axis=1)[:, None] + boxes.prod(axis=1) - overlap)


def test_a_shape_for_each_box_reaches_one():
    best = optimal_anchors(fine_histogram(np.array([[10.0, 20.0], [30.0, 20.0]])), 2)
    assert_allclose(best.shapes, [[10, 20], [30, 20]], rtol=1e-9)
    assert_allclose([best.score, best.upper_bound, best.gap], [1, 1, 0], atol=1e-9)


def test_one_shape_for_widths_in_a_row_is_the_middle_one_by_hand():
    # 10, 20, 40 wide, all 10 tall: at 20 the IoUs are 1/2, 1, 1/2; at 10 they are 1, 1/2, 1/4
    best = optimal_anchors(fine_histogram(np.array([[10.0, 10.0], [20.0, 10.0], [40.0, 10.0]])), 1, certify=0.001)
    assert_allclose(best.shapes, [[20, 10]], rtol=1e-9)
    assert_allclose(best.score, 2 / 3)
    assert 2 / 3 <= best.upper_bound <= 2 / 3 * 1.001 + 1e-9


@settings(max_examples=8)
@given(seeds)
def test_an_exhaustive_search_finds_no_better_pair_and_none_above_the_bound(seed):
    boxes = random_shapes(seed, 3 + seed % 8)
    best = optimal_anchors(fine_histogram(boxes), 2, certify=0.005)
    iou = grid_iou(boxes, 24)
    exhaustive = max(np.maximum(iou[row], iou[row:]).mean(axis=1).max() for row in range(len(iou)))
    assert exhaustive <= best.score + 1e-9
    assert best.score <= best.upper_bound <= 1.005 * best.score + 1e-9


@settings(max_examples=8)
@given(seeds, st.integers(1, 5))
def test_no_run_of_k_means_is_better_or_above_the_bound(seed, k):
    boxes = random_shapes(seed, 12 + seed % 30).round() + 1
    best = optimal_anchors(fine_histogram(boxes), k, certify=0.05)
    kmeans = IoUKMeans(k, random_state=seed).fit(boxes).score(boxes)
    assert best.score >= kmeans - 1e-6
    assert best.upper_bound >= kmeans


@pytest.mark.parametrize(("sample", "k"), [("nuclei", 1), ("nuclei", 3), ("nuclei", 9), ("bccd", 3)])
def test_on_the_samples_it_is_no_worse_than_k_means_and_proved(sample, k, request):
    shapes = request.getfixturevalue(sample).shapes
    best = optimal_anchors(fine_histogram(shapes), k)
    kmeans = IoUKMeans(k).fit(shapes).score(shapes)
    average = best_shape_iou(shapes, best.shapes)[0].mean()
    assert_allclose(best.score, average, atol=1e-4)
    assert average >= kmeans - 1e-6
    assert average <= best.upper_bound
    assert best.gap <= 0.02


def test_a_coarse_histogram_bounds_what_its_boxes_can_reach(nuclei):
    fine = optimal_anchors(fine_histogram(nuclei.shapes), 4, certify=None)
    for cells_per_octave in (4, 8, 16):
        coarse = optimal_anchors(
            ShapeHistogram.of(nuclei.shapes, cells_per_octave=cells_per_octave), 4, certify=0.0, rounds=6
        )
        assert coarse.upper_bound >= fine.score
        assert coarse.upper_bound >= coarse.score


def test_order_and_split_of_the_boxes_change_nothing(nuclei):
    whole = optimal_anchors(ShapeHistogram.of(nuclei.shapes), 5)
    rows = np.random.default_rng(0).permutation(len(nuclei))
    parts = [ShapeHistogram.of(nuclei.shapes[part]) for part in np.array_split(rows, 7)]
    merged = optimal_anchors(sum(parts, ShapeHistogram.empty()), 5)
    assert_array_equal(merged.shapes, whole.shapes)
    assert (merged.score, merged.upper_bound) == (whole.score, whole.upper_bound)


def test_a_weight_of_w_is_w_copies():
    boxes, counts = random_shapes(2, 20), np.random.default_rng(2).integers(1, 5, 20)
    histogram = fine_histogram(boxes)
    rows = [int(np.flatnonzero((np.abs(boxes - shape) < 1e-6).all(axis=1))[0]) for shape in histogram.shapes]
    weighted = optimal_anchors(histogram, 3, weights=counts[rows].astype(float), certify=None)
    copied = optimal_anchors(fine_histogram(np.repeat(boxes, counts, axis=0)), 3, certify=None)
    assert_allclose(weighted.shapes, copied.shapes, rtol=1e-6)
    assert_allclose(weighted.score, copied.score)


def test_a_rare_category_is_served_when_it_weighs_more():
    common, rare = fine_histogram(random_shapes(0, 300, 0.4)), fine_histogram(random_shapes(1, 5, 0.1) * [40.0, 1.0])
    plain = optimal_anchors([common, rare], 2, certify=None)
    balanced = optimal_anchors([common, rare], 2, weights=[1.0, 60.0], certify=None)
    reached = [best_shape_iou(rare.shapes, best.shapes)[0].mean() for best in (plain, balanced)]
    assert reached[0] < 0.5 < reached[1]


def test_fixed_anchors_stay_and_the_rest_is_the_best_beside_them():
    boxes = random_shapes(3, 8)
    best = optimal_anchors(fine_histogram(boxes), 2, fixed=[(30.0, 10.0)], certify=0.005)
    assert [30.0, 10.0] in best.shapes.tolist()
    assert len(best.shapes) == 2
    fixed = best_shape_iou(boxes, np.array([[30.0, 10.0]]))[0]
    exhaustive = np.maximum(grid_iou(boxes, 200), fixed).mean(axis=1).max()
    assert exhaustive <= best.score + 1e-9
    assert best.gap <= 0.005
    free = optimal_anchors(fine_histogram(boxes), 2, certify=None)
    assert best.score <= free.score + 1e-9


def test_boxes_that_share_a_cell_stay_below_the_bound_of_fixed_anchors_by_hand():
    # 33 and 60 wide in one cell of an octave, of mean sqrt(33 * 60); a fixed 10 x 10 has more of the two than of their mean
    histogram = ShapeHistogram.of(np.array([[33.0, 10.0], [60.0, 10.0]]), cells_per_octave=1)
    best = optimal_anchors(histogram, 1, fixed=[(10.0, 10.0)])
    assert_allclose(best.score, 10 / np.sqrt(33 * 60), rtol=1e-6)
    assert best.score < (10 / 33 + 10 / 60) / 2 <= best.upper_bound


def test_when_all_are_fixed_their_score_is_the_bound():
    boxes = random_shapes(3, 8)
    best = optimal_anchors(fine_histogram(boxes), 1, fixed=[(30.0, 10.0)])
    assert_allclose(best.score, best_shape_iou(boxes, np.array([[30.0, 10.0]]))[0].mean())
    assert_allclose(best.gap, 0, atol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_recall_agrees_with_an_exhaustive_search(seed):
    boxes = random_shapes(seed, 4 + seed)
    best = optimal_anchors(fine_histogram(boxes), 2, objective="recall@0.6")
    reached = np.unique(grid_iou(boxes, 150) >= 0.6, axis=0)
    exhaustive = max((one | other).mean() for one, other in itertools.product(reached, reached))
    assert_allclose(best.score, (best_shape_iou(boxes, best.shapes)[0] >= 0.6).mean())
    assert exhaustive <= best.score + 1e-9
    assert best.score <= best.upper_bound


def test_without_a_proof_there_is_no_bound():
    best = optimal_anchors(fine_histogram(random_shapes(0, 5)), 2, certify=None)
    assert (best.upper_bound, best.gap) == (None, None)


def test_fewer_shapes_than_asked_for_are_refused():
    with pytest.raises(FitError, match="3 clusters need 3 distinct shapes, got 2"):
        optimal_anchors(fine_histogram(np.array([[10.0, 20.0], [30.0, 20.0]])), 3)
    with pytest.raises(FitError, match="no boxes"):
        optimal_anchors(ShapeHistogram.empty(), 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, r"need k >= 1 and no more fixed anchors than k, got k=0 and 0 fixed"),
        ({"k": 1, "fixed": [(1.0, 2.0), (3.0, 4.0)]}, r"got k=1 and 2 fixed"),
        ({"k": 1, "fixed": [(0.0, 2.0)]}, r"fixed anchors must have positive, finite widths and heights"),
        ({"k": 1, "certify": -0.1}, r"need certify >= 0, got certify=-0.1"),
        ({"k": 1, "rounds": 0}, r"need rounds >= 1, got rounds=0"),
        ({"k": 1, "objective": "ap"}, r"objective 'ap' is not iou"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        optimal_anchors(fine_histogram(random_shapes(0, 5)), **settings)
