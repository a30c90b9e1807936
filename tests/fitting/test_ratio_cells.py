"""Fits and proofs by side ratio, YOLOv5's and YOLOv7's rule of matching."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from builders import fine_histogram, random_shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors.metrics import anchor_metrics
from detect.errors import FitError
from detect.fitting.fit import fit_anchors
from detect.fitting.fit_levels import fit_levels
from detect.fitting.objective import Objective
from detect.fitting.ratio_cells import RatioCells
from detect.fitting.search import optimal_anchors

YOLOV5 = "0.8*ratio+0.2*recall@0.25"
seeds = st.integers(0, 10_000)


def side_ratios(boxes: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """As YOLOv5's metric computes them, for each box and shape."""
    ratio = boxes[:, None] / shapes
    return np.minimum(ratio, 1 / ratio).min(axis=2)


def test_one_shape_by_hand():
    # 10, 20, 40 wide, all 10 tall: at 20 the ratios are 1/2, 1, 1/2 for any height from 10 to 20 but 1 at 10 alone
    boxes = np.array([[10.0, 10.0], [20.0, 10.0], [40.0, 10.0]])
    best = optimal_anchors(fine_histogram(boxes), 1, objective="ratio", certify=0.001)
    assert_allclose(best.shapes, [[20, 10]], rtol=1e-6)
    assert_allclose(best.score, 2 / 3)
    assert 2 / 3 <= best.upper_bound <= 2 / 3 * 1.001 + 1e-9


@settings(max_examples=8)
@given(seeds)
def test_hardly_a_choice_of_the_plane_is_better_and_none_exceeds_the_bound(seed):
    # along size and along aspect a sum of ratios is convex between boxes, so a best shape has some box's size and aspect
    boxes = random_shapes(seed, 3 + seed % 5)
    sizes, aspects = np.sqrt(boxes.prod(axis=1)), np.sqrt(boxes[:, 0] / boxes[:, 1])
    shapes = np.array([(size * aspect, size / aspect) for size in sizes for aspect in aspects])
    ratios = side_ratios(boxes, shapes).T
    k = 2 + seed % 2
    exhaustive = max(ratios[list(rows)].max(axis=0).mean() for rows in itertools.combinations(range(len(shapes)), k))
    best = optimal_anchors(fine_histogram(boxes), k, objective="ratio", certify=0.005)
    assert 0.98 * exhaustive <= best.score <= exhaustive + 1e-9  # of 80 such fits, 78 reach it
    assert exhaustive <= best.upper_bound + 1e-9
    assert_allclose(side_ratios(boxes, best.shapes).max(axis=1).mean(), best.score)


@given(seeds)
def test_medians_of_sizes_and_aspects_never_lower_the_score(seed):
    boxes = random_shapes(seed, 50)
    cells = RatioCells.of(fine_histogram(boxes), objective="ratio", fixed=[(20.0, 20.0)])
    start = boxes[:3]
    settled = cells.settled(start, max_updates=20)
    with_fixed = [np.concatenate([cells.fixed, shapes]) for shapes in (start, settled)]
    before, after = (side_ratios(boxes, shapes).max(axis=1).mean() for shapes in with_fixed)
    assert after >= before - 1e-12
    assert settled.shape == start.shape


def test_weights_and_fixed_shapes_take_part():
    boxes = np.array([[10.0, 10.0], [40.0, 40.0], [400.0, 400.0]])
    options = {"objective": "ratio", "certify": 0.001}
    best = optimal_anchors(fine_histogram(boxes), 2, weights=[1.0, 5.0, 1.0], fixed=[(10.0, 10.0)], **options)
    # of weight 7: the fixed shape gives the first 1, the free one is at the heavy box and gives the last 1/10
    assert_allclose(best.shapes, [[10, 10], [40, 40]], rtol=1e-6)
    assert_allclose(best.score, (1 + 5 + 0.1) / 7)
    assert best.score <= best.upper_bound <= best.score * 1.001 + 1e-9


def test_a_fit_scores_what_the_metrics_say_and_beats_a_fit_by_iou(bccd):
    fitted, by_iou = (fit_anchors(bccd, k=5, objective=objective) for objective in ("ratio", "iou"))
    metrics, others = anchor_metrics(bccd, fitted), anchor_metrics(bccd, by_iou)
    plain = side_ratios(bccd.shapes, fitted.shapes).max(axis=1)
    assert_allclose(metrics.average_side_ratio, plain.mean())
    assert_allclose(metrics.ratio_recall, (plain > 0.25).mean())
    assert_allclose(
        fitted.scores["average_side_ratio"], plain.mean(), atol=1e-4
    )  # cells of several boxes stand for them
    assert metrics.average_side_ratio > others.average_side_ratio
    assert metrics.average_iou < others.average_iou


@pytest.mark.parametrize("seed", [0, 1])
def test_the_blend_bounds_yolov5s_fitness_and_keeps_its_recall(seed):
    boxes = random_shapes(seed, 300, spread=1.4)
    found = {
        text: optimal_anchors(fine_histogram(boxes), 3, objective=text, certify=None) for text in ("ratio", YOLOV5)
    }
    best = {text: side_ratios(boxes, each.shapes).max(axis=1) for text, each in found.items()}
    for each in best.values():
        fitness = (each * (each > 0.25)).mean()
        blend = Objective.parse(YOLOV5).of_iou(each).mean()
        assert 0.8 * (fitness + 0.25) - 0.2 * (each <= 0.25).mean() <= blend <= 0.8 * (fitness + 0.25) + 1e-12
    assert (best[YOLOV5] > 0.25).mean() >= (best["ratio"] > 0.25).mean()


def test_it_is_by_shape_whatever_the_levels(nuclei):
    assert Objective.parse("ratio", on_grid=True) == Objective(of_sides=True)
    assert Objective.parse("shape:ratio") == Objective(of_sides=True)
    with pytest.raises(FitError, match="a side ratio depends on shapes alone"):
        Objective.parse("grid:ratio")
    with pytest.raises(FitError, match="levels are fitted on the grid; for an objective by shape use fit_anchors"):
        fit_levels(nuclei, (8, 16), per_level=1, objective="ratio")


def test_names_of_scores():
    assert Objective.parse("ratio").score_name(weighted=True) == "weighted_average_side_ratio"
    assert Objective.parse(YOLOV5).score_name() == "side_ratio_objective"
    assert Objective.parse("0*ratio+1*recall@0.25").score_name() == "side_ratio_recall_at_0.25"
