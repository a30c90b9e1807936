from __future__ import annotations

import numpy as np
import pytest
from builders import fine_histogram, random_shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors.histogram import ShapeHistogram
from detect.fitting.certificate import bound_squares, highest_reduced_utility
from detect.fitting.objective import Objective
from detect.fitting.ratio_cells import RatioCells
from detect.fitting.shape_cells import ShapeCells

KINDS = {
    ShapeCells: ("iou", "recall@0.5", "0.6*iou+0.4*recall@0.7"),
    RatioCells: ("ratio", "0.8*ratio+0.2*recall@0.25", "0*ratio+1*recall@0.5"),
}
CASES = [(kind, Objective.parse(text)) for kind, texts in KINDS.items() for text in texts]
seeds = st.integers(0, 10_000)


def exact_cells(
    boxes: np.ndarray, kind: type[ShapeCells] = ShapeCells, objective: Objective = CASES[0][1]
) -> ShapeCells:
    return kind.of(fine_histogram(boxes), objective=objective)


def random_duals(cells: ShapeCells, seed: int, highest: float = 0.8) -> np.ndarray:
    return cells.weights * np.random.default_rng(seed).random(len(cells)) * highest


def similarities(kind: type[ShapeCells], boxes: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """IoU, or YOLOv5's ratio of sides, of each box and shape from its definition."""
    if kind is RatioCells:
        ratio = boxes[:, None] / shapes
        return np.minimum(ratio, 1 / ratio).min(axis=2)
    overlap = np.minimum(boxes[:, None], shapes).prod(axis=2)
    return overlap / (boxes.prod(axis=1)[:, None] + shapes.prod(axis=1) - overlap)


def values_of(cells: ShapeCells, duals: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """The sum of reduced utilities of each shape; for points of single boxes."""
    utilities = cells.objective.of_iou(similarities(type(cells), cells.extents.T, shapes).T)
    return np.maximum(cells.weights * utilities - duals, 0).sum(axis=1)


def grid_over(boxes: np.ndarray, steps: int) -> np.ndarray:
    axes = [np.linspace(*np.log([boxes[:, axis].min(), boxes[:, axis].max()]), steps) for axis in range(2)]
    return np.exp(np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2))


def test_one_box_gives_its_weight_above_its_dual_at_itself():
    # weight 1, dual .25: the highest reduced utility is 1 - .25, at the box
    peak = highest_reduced_utility(exact_cells(np.array([[20.0, 30.0]])), 0, np.array([0.25]))
    assert_allclose([peak.found, peak.bound], 0.75, atol=1e-6)


def test_two_boxes_give_their_sum_at_one_of_them_by_hand():
    # weights 1/2; the boxes are 10x10 and 20x10, IoU .5: at either (1 + .5) / 2, duals 0
    cells = exact_cells(np.array([[10.0, 10.0], [20.0, 10.0]]))
    assert_allclose(highest_reduced_utility(cells, 0, np.zeros(2), tolerance=1e-5).bound, 0.75, rtol=2e-5)
    shapes = np.array([[10.0, 10.0], [20.0, 10.0]])
    assert_allclose(cells.reduced_utilities(0, np.zeros(2), shapes).sum(axis=1), [0.75, 0.75])


@pytest.mark.parametrize(("kind", "objective"), CASES)
@given(seed=seeds)
def test_no_shape_of_a_fine_grid_exceeds_the_bound(kind, objective, seed):
    boxes = random_shapes(seed, 1 + seed % 20)
    cells = exact_cells(boxes, kind, objective)
    duals = random_duals(cells, seed)
    peak = highest_reduced_utility(cells, 0, duals, tolerance=0.005, max_pairs=10**5)
    assert values_of(cells, duals, grid_over(boxes, 60)).max() <= peak.bound + 1e-9
    assert peak.found <= peak.bound


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds)
def test_the_bound_is_as_tight_as_asked_for(kind, seed):
    cells = exact_cells(random_shapes(seed, 30), kind, Objective.parse(KINDS[kind][0]))
    peak = highest_reduced_utility(cells, 0, random_duals(cells, seed, highest=0.6), tolerance=0.001)
    assert peak.bound <= peak.found + 0.001 + 1e-12


@pytest.mark.parametrize(("kind", "objective"), CASES)
@settings(max_examples=100)
@given(seed=seeds)
def test_no_shape_within_a_square_of_any_size_and_place_exceeds_its_bound(kind, objective, seed):
    random = np.random.default_rng(seed)
    cells = exact_cells(random_shapes(seed, 1 + seed % 5, spread=0.4), kind, objective)
    duals = random_duals(cells, seed, highest=0.6)
    half = 10 ** random.uniform(-3, -0.3, 2)
    near = np.log([random.choice(cells.extents[0]), random.choice(cells.extents[1])])  # where boxes have their kinks
    center = near + random.uniform(-3, 3, 2) * half
    within = center + half * np.stack(np.meshgrid(*[np.linspace(-1, 1, 21)] * 2), axis=-1).reshape(-1, 2)
    upper, value, _ = bound_squares(cells, 0, duals, center[None], half)
    assert values_of(cells, duals, np.exp(within)).max() <= upper[0] + 1e-12
    assert_allclose(value, values_of(cells, duals, np.exp(center[None])), atol=1e-15)


@pytest.mark.parametrize(("kind", "objective"), CASES)
@given(seed=seeds)
def test_what_holds_for_joined_points_holds_for_every_box_in_them(kind, objective, seed):
    boxes, shapes = random_shapes(seed, 60, spread=0.4), random_shapes(seed + 1, 20, spread=0.4)
    cells = kind.of(ShapeHistogram.of(boxes, cells_per_octave=8), objective=objective)
    dual = 0.1 + 0.8 * (seed % 7) / 7  # the same for all, so that boxes need not be assigned to their points
    each = np.maximum(objective.of_iou(similarities(kind, boxes, shapes)) - dual, 0).mean(axis=0)
    for stage in (cells, cells.coarsened(2 + seed % 3)):
        duals = stage.weights * dual
        assert (each <= stage.reduced_utilities(0, duals, shapes).sum(axis=1) + 1e-9).all()
        peak = highest_reduced_utility(stage, 0, duals, tolerance=0.005, max_pairs=10**6)
        assert each.max() <= peak.bound + 1e-9


def test_the_bound_of_a_square_closes_in_with_its_area():
    # halving the side of a square takes three quarters of the excess, where no box has a kink in it
    boxes = random_shapes(0, 60, spread=0.3)
    cells = exact_cells(boxes[(np.abs(np.log(boxes) - 3) > 0.03).all(axis=1)])
    duals, center = cells.weights * 0.2, np.array([[3.0, 3.0]])
    excess = []
    for side in (0.02, 0.01):
        upper, value, _ = bound_squares(cells, 0, duals, center, np.array([side, side]))
        corner = center + np.array([[-side, -side], [side, side], [-side, side], [side, -side]])
        excess.append(float(upper[0] - max(value[0], values_of(cells, duals, np.exp(corner)).max())))
    assert 0 <= excess[1] < 0.35 * excess[0]


def test_it_stops_with_what_is_proved_when_evaluations_run_out():
    cells = exact_cells(random_shapes(0, 200))
    short, long = (highest_reduced_utility(cells, 0, cells.weights * 0.3, max_pairs=pairs) for pairs in (10, 10**7))
    assert short.bound > long.bound >= long.found >= short.found


def test_it_stops_as_soon_as_the_bound_is_low_enough():
    cells = exact_cells(random_shapes(0, 200))
    duals = cells.weights * 0.3
    full = highest_reduced_utility(cells, 0, duals, tolerance=1e-5)
    early = highest_reduced_utility(cells, 0, duals, tolerance=1e-5, enough=1.2 * full.bound)
    assert full.bound < early.bound <= 1.2 * full.bound


def test_entering_columns_have_a_higher_reduced_utility_than_what_is_known():
    cells = exact_cells(random_shapes(0, 200))
    duals = cells.weights * 0.3
    known = float(values_of(cells, duals, np.exp([[3.5, 3.5]]))[0])
    entering = highest_reduced_utility(cells, 0, duals, known=known).entering
    assert len(entering)
    assert (values_of(cells, duals, entering) > known).all()


def test_fixed_anchors_are_a_floor_under_every_box():
    cells = ShapeCells.of(ShapeHistogram.of(np.array([[10.0, 10.0], [20.0, 10.0]])), fixed=[(10.0, 10.0)])
    assert_allclose(cells.floor, [0.5, 0.25], rtol=1e-6)


def test_points_that_are_joined_keep_mean_weight_and_spread():
    boxes = random_shapes(1, 500, spread=0.3)
    cells = ShapeCells.of(ShapeHistogram.of(boxes, cells_per_octave=8)).coarsened(2)
    assert_allclose(cells.weights.sum(), 1)
    assert_allclose((cells.weights * np.log(cells.extents)).sum(axis=1), np.log(boxes).mean(axis=0), atol=1e-8)
    assert (cells.radius >= 0).all()
    assert (cells.variance >= 0).all()


def test_each_histogram_has_its_weight():
    one, other = (ShapeHistogram.of(random_shapes(seed, 20)) for seed in (0, 1))
    both = ShapeCells.of([one, other], [3.0, 0.0])
    assert_allclose(both.extents, ShapeCells.of(one).extents)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "need one weight for each of 2 cells of the histogram, got 1"),
        ([1.0, -1.0], "weights must be finite and at least 0"),
        ([0.0, 0.0], "no box of positive weight"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weights, message):
    histogram = ShapeHistogram.of(np.array([[10.0, 10.0], [50.0, 10.0]]))
    with pytest.raises(ValueError, match=message):
        ShapeCells.of(histogram, weights)
    with pytest.raises(ValueError, match="need one weight for each of 2 histograms, got 1"):
        ShapeCells.of([histogram, histogram], [1.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("giou", "objective 'giou' is not iou"),
        ("recall@1.5", "0 < threshold <= 1"),
        ("0.5*iou+0.6*recall@0.5", "add up to 1.1, not 1"),
    ],
)
def test_a_utility_that_does_not_parse_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Objective.parse(text)
