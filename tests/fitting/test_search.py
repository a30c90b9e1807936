"""Shapes and levels fitted together, as they lie on the grid."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detect.anchors.anchor_set import Proof
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import anchor_metrics
from detect.data import read_coco
from detect.fitting.any_position import AnyPosition
from detect.fitting.candidates import Candidates, Limits, grid_candidates
from detect.fitting.fit import fit_anchors
from detect.fitting.grid_fit import GridFit, anchors_of, fit_on_grid, score_on_grid, shape_costs
from detect.fitting.own_positions import OwnPositions
from detect.fitting.search import neighbours, polish
from detect.samples import sample_annotations

STRIDES = (4, 8, 16)


@pytest.mark.parametrize("objective", ["iou", "recall@0.5"])
def test_it_beats_k_means_per_level_by_far_and_comes_with_a_bound(nuclei, objective):
    boxes = OwnPositions.of(nuclei, STRIDES, objective=objective)
    fit = fit_on_grid(boxes, per_level=2)
    assert fit.num_per_level == [2, 2, 2]
    kmeans = anchor_metrics(nuclei, fit_anchors(nuclei, per_level=2, strides=STRIDES))
    ours = anchor_metrics(nuclei, fit.anchors)  # another computation of the same score
    reached, before = (
        each.grid_average_iou if objective == "iou" else each.grid_recall(0.5) for each in (ours, kmeans)
    )
    assert_allclose(fit.score, reached)
    assert reached > before + 0.02
    assert fit.score <= fit.upper_bound
    assert fit.gap < (0.02 if objective == "iou" else 0.05)


def test_the_order_of_the_data_changes_nothing(nuclei):
    data = json.loads(sample_annotations("nuclei").read_text())
    data["annotations"].reverse()
    data["images"].reverse()
    reverse = ResizedInstances.of(read_coco(data), "none")
    fits = [fit_on_grid(OwnPositions.of(each, STRIDES), per_level=1) for each in (nuclei, reverse, nuclei)]
    assert fits[0].anchors.levels == fits[1].anchors.levels == fits[2].anchors.levels
    assert fits[0].score == fits[1].score == fits[2].score
    assert fits[0].upper_bound == fits[1].upper_bound == fits[2].upper_bound


def test_one_box_gets_itself():
    # at any position on a stride of 1 a 40 x 80 box is all but matched by itself
    boxes = AnyPosition.of(ShapeHistogram.of(np.array([[40.0, 80.0]])), (1,))
    fit = fit_on_grid(boxes, per_level=1)
    assert_allclose(fit.anchors.shapes, [[40, 80]], rtol=0.02)
    assert fit.score > 0.97
    assert fit.gap < 0.02


def test_three_are_chosen_where_nine_buy_nothing():
    shapes = np.array([[20.0, 20.0], [20.0, 60.0], [60.0, 20.0]])
    boxes = AnyPosition.of(ShapeHistogram.of(shapes), (2,))
    assert fit_on_grid(boxes, per_level=9, certify=None).num_per_level == [9]
    costs = shape_costs(np.array([[640, 640]]), (2,))
    fit = fit_on_grid(boxes, per_level=9, costs=costs)
    assert fit.num_per_level == [3]
    assert_allclose(fit.cost, 0.03)
    assert fit.score - fit.cost <= fit.upper_bound
    assert fit.gap < 0.02


def test_costs_move_shapes_to_coarse_levels(nuclei):
    boxes = OwnPositions.of(nuclei, STRIDES)
    costs = shape_costs(np.unique(nuclei.canvas_wh, axis=0), STRIDES, penalty=0.05)
    free, priced = (fit_on_grid(boxes, num_anchors=9, costs=each, certify=None) for each in (None, costs))
    cells = {level.stride: len(level.shapes) / level.stride**2 for level in free.anchors.levels}
    fewer = {level.stride: len(level.shapes) / level.stride**2 for level in priced.anchors.levels}
    assert sum(fewer.values()) < sum(cells.values())
    assert free.score - sum(costs) * 9 < priced.score - priced.cost


def test_the_gap_is_relative_to_what_is_left_after_costs_by_hand(nuclei):
    anchors = fit_anchors(nuclei, k=3, strides=STRIDES)
    assert GridFit(anchors, 0.6, 0.1, Proof(0.5, 0.55)).gap == pytest.approx(0.1)


def test_the_proof_stops_at_the_gap_asked_for_after_costs(monkeypatch):
    targets = []
    monkeypatch.setattr("detect.fitting.search.prove", lambda *_, target, rounds: targets.append(target) or 1.0)
    boxes = AnyPosition.of(ShapeHistogram.of(np.array([[20.0, 20.0], [60.0, 60.0]])), (4, 16))
    fit = fit_on_grid(boxes, per_level=1, costs=(0.1, 0.05), certify=0.5)
    assert fit.cost > 0
    assert_allclose(targets, [1.5 * (fit.score - fit.cost)])


def test_anchors_keep_their_levels_and_sides_by_hand():
    boxes = AnyPosition.of(ShapeHistogram.of(np.array([[20.0, 20.0]])), (4, 8, 16), convention="mmdet")
    anchors = anchors_of(boxes, np.array([[30.0, 20.0], [9.0, 5.0], [10.0, 12.0]]), np.array([2, 1, 2]))
    assert [(level.stride, level.shapes) for level in anchors.levels] == [(8, [(9, 5)]), (16, [(10, 12), (30, 20)])]
    assert anchors.center_offset == 0.0
    assert_allclose(
        score_on_grid(boxes, anchors),
        max(
            boxes.utilities(1, np.array([[9.0, 5.0]]))[0, 0],
            *boxes.utilities(2, np.array([[10.0, 12.0], [30.0, 20.0]]))[:, 0],
        ),
    )


def test_the_polish_follows_the_weights_to_the_heavier_box():
    # between 20 x 20 (nine of ten) and 40 x 40, nearer to the second: d/dW of 0.9 * 400 / W**2 + 0.1 * W**2 / 1600 at 30 is
    # -0.9 * 0.0296 + 0.1 * 0.0375 < 0; of equal weight it would grow. It is four tenths of a neper to 20
    shapes = np.array([[20.0, 20.0]] * 9 + [[40.0, 40.0]])
    boxes = AnyPosition.of(ShapeHistogram.of(shapes), (1,))
    polished = polish(boxes, Candidates.of(boxes, np.array([[30.0, 30.0]]), np.array([0])))
    assert_allclose(polished.shapes, [[20, 20]], rtol=0.03)
    assert_allclose(polished.utility, boxes.weights * boxes.utilities(0, polished.shapes))


def test_every_candidate_is_there_on_every_level():
    boxes = AnyPosition.of(ShapeHistogram.of(np.array([[20.0, 20.0]])), (4, 16))
    chosen = Candidates.of(boxes, np.array([[20.0, 20.0], [30.0, 50.0]]), np.array([0, 0]))
    for candidates, number in ((grid_candidates(boxes), 4), (neighbours(boxes, chosen), 50)):
        on_fine, on_coarse = (candidates.shapes[candidates.levels == level] for level in (0, 1))
        assert_array_equal(on_fine, on_coarse)
        assert len(np.unique(on_fine, axis=0)) == number


def test_what_shapes_are_worth_is_their_gain_without_their_price_by_hand():
    chosen = Candidates(np.ones((2, 2)), np.array([0, 1]), np.array([[0.3, 0.1], [0.2, 0.4]]))
    assert chosen.value(Limits.of(2, 1, None, [0.2, 0.05])) == pytest.approx(0.3 + 0.4 - 0.25)


def test_costs_by_hand():
    # 64 x 32 at stride 8: 32 cells; at 16: 8 cells
    assert_allclose(shape_costs(np.array([[64, 32]]), (8, 16), penalty=0.5), [0.4, 0.1])


def test_numbers_for_each_level_are_kept(nuclei):
    boxes = OwnPositions.of(nuclei, STRIDES)
    fit = fit_on_grid(boxes, per_level=[1, 0, 3], certify=None)
    assert [(level.stride, len(level.shapes)) for level in fit.anchors.levels] == [(4, 1), (16, 3)]
    assert_allclose(score_on_grid(boxes, fit.anchors), fit.score)
    assert fit.upper_bound is None
    assert fit.gap is None


def test_centres_on_corners_are_fitted_as_such(nuclei):
    boxes = OwnPositions.of(nuclei, STRIDES, convention="mmdet")
    fit = fit_on_grid(boxes, per_level=1, certify=None)
    assert fit.anchors.center_offset == 0.0
    assert_allclose(anchor_metrics(nuclei, fit.anchors).grid_average_iou, fit.score)


def test_candidates_stay_within_their_memory(nuclei, monkeypatch):
    boxes = OwnPositions.of(nuclei, STRIDES)
    fine = grid_candidates(boxes)
    monkeypatch.setattr(OwnPositions, "max_table", fine.utility.size // 2)
    coarse = grid_candidates(boxes)
    assert coarse.utility.size <= fine.utility.size // 2
    assert_array_equal(np.unique(coarse.levels), [0, 1, 2])


def test_wrong_arguments_are_named(nuclei):
    boxes = OwnPositions.of(nuclei, STRIDES)
    with pytest.raises(ValueError, match=r"certify=-1"):
        fit_on_grid(boxes, per_level=1, certify=-1)
    with pytest.raises(ValueError, match="per_level or num_anchors"):
        fit_on_grid(boxes)
