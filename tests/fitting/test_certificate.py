"""The bound of a fit holds for every choice of shapes."""

from __future__ import annotations

import numpy as np
import pytest

from detect.anchors.anchor_set import Proof
from detect.anchors.histogram import ShapeHistogram
from detect.fitting.any_position import AnyPosition
from detect.fitting.candidates import Candidates, Limits, grid_candidates
from detect.fitting.certificate import Peak, prove
from detect.fitting.gains import Boxes, levels_by_size
from detect.fitting.grid_fit import fit_on_grid
from detect.fitting.objective import Objective
from detect.fitting.own_positions import OwnPositions
from detect.fitting.search import optimal_anchors

OBJECTIVES = ("iou", "recall@0.6")


def tiny(seed: int, objective: str, *, own: bool, count: int = 7) -> Boxes:
    random = np.random.default_rng(seed)
    shapes = np.exp(random.uniform(2, 3.5, (count, 2)))
    limit = 4.0 if seed % 2 else None  # of sizes, in strides
    if not own:
        return AnyPosition.of(ShapeHistogram.of(shapes), (4, 16), objective=objective, max_strides=limit)
    far = random.uniform(0, 1, (2, 2, count)) * np.array([2, 8])[:, None, None]
    return OwnPositions(
        extents=shapes.T.copy(),
        far=far,
        weights=np.full(count, 1 / count),
        served=levels_by_size(shapes.T, (4, 16), limit),
        strides=(4, 16),
        objective=Objective.parse(objective),
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_no_choice_from_an_exhaustive_search_beats_the_bound(objective, own, seed):
    boxes = tiny(seed, objective, own=own)
    fit = fit_on_grid(boxes, per_level=1, certify=0.0, rounds=3 if own else 1)
    axis = np.exp(np.linspace(1.8, 3.9, 24))
    shapes = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    gains = [boxes.weights * boxes.utilities(level, shapes) for level in (0, 1)]
    best = max(float(np.maximum(gains[0], each).sum(axis=1).max()) for each in gains[1])  # every pair
    assert best <= fit.upper_bound
    assert fit.score <= fit.upper_bound
    more = 0.02 if objective == "iou" or not own else 1 / 7  # of recall, one box
    assert best <= fit.score + more + 1e-9  # nor does it find much that the fit did not


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("limits", [{"per_level": 2}, {"num_anchors": 3}])
def test_a_thousand_random_restarts_do_not_beat_the_bound(objective, limits):
    boxes = tiny(11, objective, own=True, count=30)
    fit = fit_on_grid(boxes, certify=0.0, rounds=3, **limits)
    random = np.random.default_rng(0)
    count = 4 if "per_level" in limits else 3
    pool = 400
    levels = np.repeat([0, 1], pool // 2)
    shapes = boxes.extents.T[random.integers(0, 30, pool)] * np.exp(random.normal(0, 0.1, (pool, 2)))
    gains = Candidates.of(boxes, shapes, levels).utility
    best = 0.0
    for _ in range(1000):
        rows = random.integers(0, pool, count)
        if "per_level" in limits:
            rows = np.concatenate([random.integers(0, 200, 2), random.integers(200, 400, 2)])
        for place in range(count):  # each in turn to its best, the others held
            others = np.delete(gains[rows], place, axis=0).max(axis=0)
            half = slice(None) if "num_anchors" in limits else slice(*((0, 200), (200, 400))[place // 2])
            rows[place] = int(np.maximum(gains[half], others).sum(axis=1).argmax()) + (half.start or 0)
        best = max(best, float(gains[rows].max(axis=0).sum()))
    assert best <= fit.upper_bound
    assert best <= fit.score + 0.01


def test_costs_are_part_of_the_bound():
    boxes = tiny(4, "iou", own=True, count=12)
    fit = fit_on_grid(boxes, per_level=3, costs=(0.05, 0.01), certify=0.0, rounds=3)
    free = fit_on_grid(boxes, per_level=3, certify=0.0, rounds=3)
    assert fit.cost > 0
    assert fit.score - fit.cost <= fit.upper_bound <= free.upper_bound + 1e-9
    axis = np.exp(np.linspace(1.8, 3.9, 20))
    shapes = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    one = [boxes.weights * boxes.utilities(level, shapes) for level in (0, 1)]
    pairs = max(float(np.maximum(one[1], each).sum(axis=1).max()) for each in one[1]) - 0.02
    assert max(pairs, float(one[0].sum(axis=1).max()) - 0.05) <= fit.upper_bound


def test_rounds_end_at_the_target_what_the_error_of_a_histogram_adds_apart(monkeypatch):
    shapes = np.exp(np.random.default_rng(0).uniform(2, 3.5, (60, 2)))
    coarse = AnyPosition.of(ShapeHistogram.of(shapes, cells_per_octave=4), (4, 16))
    levels = []
    monkeypatch.setattr(
        "detect.fitting.certificate.highest_reduced_utility",
        lambda boxes, level, duals, **_: levels.append(level) or Peak(0.0, 0.0, np.array([[20.0, 20.0]])),
    )
    grid = grid_candidates(coarse)
    given = (coarse, grid.take([0]), grid, np.ones(len(grid)), Limits.of(2, 1, None, None))
    bound = prove(*given, target=1.0, rounds=3)
    assert levels == [0, 1]  # one round
    assert prove(*given, target=bound - 0.9 * coarse.error, rounds=3) == pytest.approx(bound)
    assert levels == [0, 1] * 2
    prove(*given, target=0.0, rounds=3)
    assert levels == [0, 1] * 5


def test_the_error_of_a_histogram_is_part_of_the_bound():
    shapes = np.exp(np.random.default_rng(0).uniform(2, 3.5, (25, 2)))
    coarse = ShapeHistogram.of(shapes, cells_per_octave=4)
    fit = fit_on_grid(AnyPosition.of(coarse, (4, 16)), per_level=2, certify=0.0, rounds=1)
    exact = AnyPosition.of(ShapeHistogram.of(shapes, cells_per_octave=256), (4, 16))
    ours = fit_on_grid(exact, per_level=2, certify=None)
    assert ours.score <= fit.upper_bound
    assert fit.upper_bound - fit.score >= coarse.iou_error_bound


@pytest.mark.parametrize(("seed", "per_level"), [(0, 6), (2, 9), (3, 9)])
def test_no_bound_of_recall_exceeds_1(seed, per_level):
    # after one round duals and entering columns alone give 1.12, 1.03 and 1.03
    fit = fit_on_grid(tiny(2 * seed, "recall@0.6", own=True, count=30), per_level=per_level, certify=0.02, rounds=1)
    assert fit.score <= fit.upper_bound <= 1


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_bound_by_shape_exceeds_1(objective):
    shapes = np.exp(np.random.default_rng(0).uniform(2, 3.5, (30, 2)))
    best = optimal_anchors(ShapeHistogram.of(shapes), 6, objective=objective, certify=0.0, rounds=1)
    assert best.score <= best.upper_bound <= 1


def test_a_bound_of_0_is_met_by_a_score_of_0():
    assert Proof(0.0, 0.0).gap == 0
    assert Proof(0.0, 0.1).gap == np.inf
