from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors.histogram import ShapeHistogram
from detect.anchors.shape_bound import Offers, _bound_block, highest_offer
from detect.anchors.shape_gain import ShapeGain
from detect.anchors.shape_points import ShapePoints
from detect.ops.box_arrays import shape_iou

GAINS = [ShapeGain.parse(text) for text in ("iou", "recall@0.5", "0.6*iou+0.4*recall@0.7")]
seeds = st.integers(0, 10_000)


def random_boxes(seed: int, num_boxes: int, spread: float = 0.7) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(3, spread, (num_boxes, 2)))


def exact_points(boxes: np.ndarray) -> ShapePoints:
    return ShapePoints.of(ShapeHistogram.of(boxes, cells_per_octave=1024))


def grid_over(boxes: np.ndarray, steps: int) -> np.ndarray:
    axes = [np.linspace(*np.log([boxes[:, axis].min(), boxes[:, axis].max()]), steps) for axis in range(2)]
    return np.exp(np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2))


def test_one_box_offers_its_weight_above_its_multiplier_at_itself():
    # weight 1, multiplier .25: the highest offer is 1 - .25, at the box
    offers = Offers(exact_points(np.array([[20.0, 30.0]])), np.array([0.25]), ShapeGain())
    peak = highest_offer(offers)
    assert_allclose([peak.found, peak.bound], 0.75, atol=1e-6)


def test_two_boxes_offer_their_sum_at_one_of_them_by_hand():
    # weights 1/2; the boxes are 10x10 and 20x10, IoU .5: at either (1 + .5) / 2, multipliers 0
    offers = Offers(exact_points(np.array([[10.0, 10.0], [20.0, 10.0]])), np.zeros(2), ShapeGain())
    assert_allclose(highest_offer(offers, tolerance=1e-5).bound, 0.75, rtol=2e-5)
    assert_allclose(offers.at(np.log([[10.0, 10.0], [20.0, 10.0]])), [0.75, 0.75])


@pytest.mark.parametrize("gain", GAINS)
@settings(max_examples=25)
@given(seed=seeds)
def test_no_shape_of_a_fine_grid_offers_more_than_the_bound(gain, seed):
    boxes = random_boxes(seed, 1 + seed % 20)
    points = exact_points(boxes)
    multipliers = np.random.default_rng(seed).random(len(points)) * 0.8
    peak = highest_offer(Offers(points, multipliers, gain), tolerance=0.01, max_pairs=10**5)
    grid = grid_over(boxes, 60)
    overlap = np.minimum(grid[:, None], points.shapes).prod(axis=2)
    gains = gain.of_iou(overlap / (grid.prod(axis=1)[:, None] + points.shapes.prod(axis=1) - overlap))
    values = (points.weights * np.maximum(gains - multipliers, 0)).sum(axis=1)
    assert values.max() <= peak.bound + 1e-9
    assert peak.found <= peak.bound


@settings(max_examples=200)
@given(seed=seeds, spread=st.floats(0.01, 0.12))
def test_one_square_alone_is_bounded(seed, spread):
    boxes = random_boxes(seed, 2 + seed % 3, spread)
    points = exact_points(boxes)
    offers = Offers(points, np.random.default_rng(seed).random(len(points)), GAINS[seed % 3])
    grid = np.log(grid_over(boxes, 9))
    assert offers.at(grid).max() <= highest_offer(offers, max_pairs=0).bound + 1e-9


@settings(max_examples=300)
@given(seed=seeds)
def test_no_shape_within_a_square_of_any_size_and_place_offers_more(seed):
    random = np.random.default_rng(seed)
    points = exact_points(np.exp(random.normal(3, 0.4, (1 + seed % 5, 2))))
    offers = Offers(points, random.random(len(points)) * 0.6, GAINS[seed % 3])
    half = 10 ** random.uniform(-3, -0.3, 2)
    near = np.array([random.choice(offers.x), random.choice(offers.y)])  # where boxes have their kinks
    center = near + random.uniform(-3, 3, 2) * half
    within = center + half * np.stack(np.meshgrid(*[np.linspace(-1, 1, 21)] * 2), axis=-1).reshape(-1, 2)
    upper, value = _bound_block(offers, center[None], half)
    assert offers.at(within).max() <= upper[0] + 1e-12
    assert_allclose(value, offers.at(center[None]))


@given(seed=seeds)
def test_the_bound_is_as_tight_as_asked_for(seed):
    boxes = random_boxes(seed, 30)
    points = exact_points(boxes)
    multipliers = np.random.default_rng(seed).random(len(points)) * 0.6
    peak = highest_offer(Offers(points, multipliers, ShapeGain()), tolerance=0.003)
    assert peak.bound <= 1.003 * peak.found + 1e-12


@pytest.mark.parametrize("gain", GAINS)
@given(seed=seeds)
def test_what_holds_for_joined_points_holds_for_every_box_in_them(gain, seed):
    boxes = random_boxes(seed, 60, spread=0.4)
    points = ShapePoints.of(ShapeHistogram.of(boxes, cells_per_octave=8))
    joined = points.coarsened(2 + seed % 3)
    multiplier = 0.1 + 0.8 * (seed % 7) / 7  # the same for all, so that boxes need not be assigned to their points
    shapes = random_boxes(seed + 1, 20, spread=0.4)
    each = np.stack([np.maximum(gain.of_iou(shape_iou(boxes, shape)) - multiplier, 0).mean() for shape in shapes])
    for stage in (points, joined):
        offers = Offers(stage, np.full(len(stage), multiplier), gain)
        assert (each <= offers.at(np.log(shapes)) + 1e-9).all()
        assert each.max() <= highest_offer(offers, tolerance=0.01, max_pairs=10**6).bound + 1e-9


def test_it_stops_with_what_is_proved_when_evaluations_run_out():
    points = exact_points(random_boxes(0, 200))
    offers = Offers(points, np.full(len(points), 0.3), ShapeGain())
    short, long = highest_offer(offers, max_pairs=10), highest_offer(offers)
    assert short.bound > long.bound >= long.found >= short.found


def test_rivals_offer_more_than_what_is_known():
    points = exact_points(random_boxes(0, 200))
    offers = Offers(points, np.full(len(points), 0.3), ShapeGain())
    known = np.array([[3.5, 3.5]])
    rivals = highest_offer(offers, known=known).rivals
    assert len(rivals)
    assert (offers.at(rivals) > offers.at(known)).all()


def test_points_that_are_joined_keep_mean_weight_and_spread():
    boxes = random_boxes(1, 500, spread=0.3)
    points = ShapePoints.of(ShapeHistogram.of(boxes, cells_per_octave=8)).coarsened(2)
    assert_allclose(points.weights.sum(), 1)
    assert_allclose((points.weights[:, None] * points.log_wh).sum(axis=0), np.log(boxes).mean(axis=0), atol=1e-8)
    assert (points.radius >= 0).all()
    assert (points.variance >= 0).all()


def test_each_histogram_has_its_weight():
    one, other = (ShapeHistogram.of(random_boxes(seed, 20)) for seed in (0, 1))
    both = ShapePoints.of([one, other], [3.0, 0.0])
    assert_allclose(both.shapes, ShapePoints.of(one).shapes)


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
        ShapePoints.of(histogram, weights)
    with pytest.raises(ValueError, match="need one weight for each of 2 histograms, got 1"):
        ShapePoints.of([histogram, histogram], [1.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("giou", "objective 'giou' is not iou"),
        ("recall@1.5", "0 < threshold <= 1"),
        ("0.5*iou+0.6*recall@0.5", "add up to 1.1, not 1"),
    ],
)
def test_an_objective_that_does_not_parse_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        ShapeGain.parse(text)
