"""Anchors for levels from a dataset: numbers, layouts, weights, what is proved."""

from __future__ import annotations

import numpy as np
import pytest
from builders import instances_of, part_of
from numpy.testing import assert_allclose

from detect.anchors.assign import assign
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import area_ranges, instance_weights
from detect.anchors.metrics import anchor_metrics
from detect.errors import FitError
from detect.fitting.fit_levels import Numbers, fit_levels
from detect.fitting.objective import Objective

STRIDES = (4, 8, 16)


def test_the_score_is_what_coverage_measures_and_no_more_than_the_bound(nuclei):
    fit = fit_levels(nuclei, STRIDES, per_level=2, certify=0.02)
    assert [len(level.shapes) for level in fit.anchors.levels] == [2, 2, 2]
    scores, measured = fit.anchors.scores, anchor_metrics(nuclei, fit.anchors).grid_average_iou
    assert_allclose(scores["grid_average_iou"], measured)
    assert measured <= fit.anchors.proofs["grid_average_iou"].upper_bound <= measured * 1.02
    assert (fit.anchors.resize, fit.anchors.name, str(fit.numbers)) == ("none", "fitted", "2 shapes on each level")


def test_a_number_in_all_goes_to_the_levels_where_shapes_are_worth_their_cost(nuclei):
    priced = fit_levels(nuclei, STRIDES, num_anchors=6)
    free = fit_levels(nuclei, STRIDES, num_anchors=6, penalty=0.0)
    (only,) = free.anchors.levels  # the finest grid is the best for every shape, if it costs nothing
    assert (only.name, len(only.shapes)) == ("P2", 6)
    assert len(priced.anchors.levels) > 1
    assert priced.free.score < free.free.score
    # a level of half the stride has 4 times the cells: 0.01 is shared as 16, 4 and 1 of 21
    cost = sum(0.01 * {4: 16, 8: 4, 16: 1}[level.stride] / 21 * len(level.shapes) for level in priced.anchors.levels)
    assert_allclose(priced.free.cost, cost)
    assert_allclose(priced.anchors.scores["grid_average_iou_less_cost"], priced.free.score - cost)


def test_a_level_for_which_all_instances_are_too_large_gets_no_shapes():
    large = part_of("bccd", "stretch:2560x1920", step=12)
    assert 4 * 16 < large.shapes.prod(axis=1).min() ** 0.5 < 4 * 32
    options = {"max_per_level": 2, "penalty": 1e-4, "max_strides": 4}
    fit = fit_levels(large, (8, 16, 32, 64), **options)
    assert [level.stride for level in fit.anchors.levels] == [32, 64]
    assert fit.anchors.levels == fit_levels(large, (32, 64), **options).anchors.levels


def test_each_level_may_have_its_own_exact_number(nuclei):
    numbers = (2, 3, 1)
    fit = fit_levels(nuclei, STRIDES, per_level=numbers, certify=0.02)
    assert [len(level.shapes) for level in fit.anchors.levels] == list(numbers)
    assert str(fit.numbers) == "2, 3, 1 shapes on the levels"
    alike = fit_levels(nuclei, STRIDES, per_level=2)
    assert fit.free.score == pytest.approx(alike.free.score, abs=0.01)
    assert fit.free.score <= fit.free.proof.upper_bound <= fit.free.score * 1.02


@pytest.mark.parametrize(("count", "max_strides"), [(1, None), (3, None), (40, 4.0)])
def test_exact_numbers_are_there_on_levels_that_no_box_uses_and_for_few_boxes(nuclei, count, max_strides):
    few = nuclei.take(np.arange(count))
    numbers = (9, 4, 9, 6)
    fit = fit_levels(few, (4, 8, 64, 256), per_level=numbers, max_strides=max_strides)
    assert [len(set(level.shapes)) for level in fit.anchors.levels] == list(numbers)
    assert_allclose(fit.free.score, next(iter(fit.anchors.scores.values())))
    if max_strides is None:
        assert_allclose(fit.free.score, anchor_metrics(few, fit.anchors).grid_average_iou)
    coarsest = np.array(fit.anchors.levels[-1].shapes)
    assert coarsest.prod(axis=1).max() >= (4 * 256) ** 2  # no box needs them: the usual sizes


def test_a_level_without_boxes_has_a_layout_too(nuclei):
    fit = fit_levels(nuclei, (8, 512), per_level=2, layout="grid", scales=2, ratios=1, max_strides=100.0)
    assert [len(set(level.shapes)) for level in fit.anchors.levels] == [2, 2]


def test_numbers_are_as_many_as_levels(nuclei):
    with pytest.raises(FitError, match="3 levels need 3 numbers of shapes, got 2, 3 shapes on the levels"):
        fit_levels(nuclei, STRIDES, per_level=(2, 3))


def test_levels_by_size_spare_large_instances_the_fine_grid():
    bccd = part_of("bccd", "letterbox:320", step=12)
    strides, category = (8, 16, 32), bccd.dataset.instances.category_ids
    plain = fit_levels(bccd, strides, per_level=3)
    limited = fit_levels(bccd, strides, per_level=3, max_strides=4, certify=0.02)
    proof = limited.anchors.proofs["grid_average_iou_up_to_4_strides"]
    assert limited.anchors.scores["grid_average_iou_up_to_4_strides"] == proof.score <= proof.upper_bound
    assert proof.score < plain.free.score
    red, platelets = 2, 3
    shares = []
    for fit in (plain, limited):
        positives = assign(bccd, AnchorGenerator(fit.anchors)).positives.sum(axis=1)
        shares.append(positives[category == platelets].mean() / positives[category == red].mean())
    assert shares[0] < 0.1  # of platelets few anchors are positive for each that a red cell has: they are outvoted
    assert shares[1] > 0.4
    with pytest.raises(FitError, match="max_strides is above 0, got -1"):
        fit_levels(bccd, strides, per_level=3, max_strides=-1)


def test_a_dear_shape_is_left_out(nuclei):
    few = fit_levels(nuclei, STRIDES, max_per_level=4, penalty=0.1).anchors
    many = fit_levels(nuclei, STRIDES, max_per_level=4, penalty=0.001).anchors
    assert few.num_anchors < many.num_anchors <= 12
    assert max(len(level.shapes) for level in many.levels) <= 4


def test_a_layout_tells_each_narrower_one_and_their_price(nuclei):
    fit = fit_levels(nuclei, STRIDES, per_level=2, layout="grid", scales=2, ratios=1)
    assert [each.layout for each in fit.layouts] == ["octaves", "grid"]
    octaves, grid = fit.layouts
    assert octaves.default_score <= octaves.score <= grid.score <= fit.free.score
    assert fit.anchors.levels == grid.anchors.levels
    assert_allclose(fit.anchors.scores["grid_average_iou"], grid.score)


def test_weights_turn_the_fit_to_what_counts(nuclei):
    small = area_ranges(nuclei)[0].rows
    alike = fit_levels(nuclei, STRIDES, per_level=1)
    weights = instance_weights(nuclei, factors={"small": 20.0})
    turned = fit_levels(nuclei, STRIDES, per_level=1, weights=weights)
    reached = [anchor_metrics(nuclei, each.anchors).grid_best_iou for each in (alike, turned)]
    assert reached[1][small].mean() > reached[0][small].mean()
    assert_allclose(turned.anchors.scores["weighted_grid_average_iou"], np.average(reached[1], weights=weights))


def test_of_weight_nothing_is_as_not_being_there(nuclei):
    small = area_ranges(nuclei)[0].rows
    weights = instance_weights(nuclei, factors={"medium": 0.0, "large": 0.0})
    fit = fit_levels(nuclei, STRIDES, per_level=1, weights=weights)
    assert_allclose(fit.free.score, anchor_metrics(nuclei, fit.anchors).grid_best_iou[small].mean())


def test_of_many_boxes_the_score_is_one_over_positions(nuclei):
    many = nuclei.take(np.tile(np.arange(len(nuclei)), 20))
    fit = fit_levels(many, STRIDES, per_level=1, weights=np.tile(np.linspace(1, 2, len(nuclei)), 20))
    (name,) = fit.anchors.scores
    assert name == "expected_weighted_grid_average_iou"
    assert_allclose(fit.free.score, anchor_metrics(nuclei, fit.anchors).grid_average_iou, atol=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": Objective()}, "an objective by shape"),
        ({"layout": "circle"}, "layout 'circle' is not one of free, octaves, grid, level-grids"),
        (
            {"layout": "grid"},
            "layout grid needs scales \\* ratios = 9 shapes on each level, got 2 shapes on each level",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(nuclei, options, message):
    with pytest.raises(FitError, match=message):
        fit_levels(nuclei, STRIDES, per_level=2, **options)


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"num_anchors": 3, "per_level": 3},
        {"max_per_level": 0},
        {"per_level": (3, 0)},
        {"num_anchors": 3, "penalty": -0.1},
    ],
)
def test_numbers_are_one_of_three_and_a_price(numbers):
    with pytest.raises(FitError, match="give one of num_anchors, per_level and max_per_level"):
        Numbers(**numbers)


def test_numbers_in_words():
    assert str(Numbers(num_anchors=9)) == "at most 9 shapes on any of the levels"
    assert str(Numbers(num_anchors=9, penalty=0.0)) == "9 shapes on any of the levels"
    assert str(Numbers(max_per_level=3)) == "at most 3 shapes on each level"


def test_without_boxes_it_is_said_why():
    with pytest.raises(FitError, match="no usable boxes; 0 entries are invalid"):
        fit_levels(instances_of([]), STRIDES, num_anchors=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_level": 1, "objective": "recall@0.5"}, "no anchor on strides 8, 16, 32 reaches any box"),
        ({"num_anchors": 2, "penalty": 2.0}, "no anchor on strides 8, 16, 32 is worth its cost for any box"),
        ({"max_per_level": 2, "penalty": 2.0, "certify": 0.02}, r"the largest box is 0.2 x 0.2 px after the resize"),
    ],
)
def test_boxes_that_no_anchor_gains_anything_for_are_refused(options, message):
    # less than a pixel in size, and farther than that from every centre
    instances = instances_of([[0.1, 0.1, 0.2, 0.2], [7.9, 7.9, 0.2, 0.1]])
    with pytest.raises(FitError, match=message):
        fit_levels(instances, (8, 16, 32), **options)
