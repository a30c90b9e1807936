"""Sizes by ratios on each level, and what that costs against free shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import part_of
from numpy.testing import assert_allclose

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.generator import AnchorGenerator
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.known import load_anchors
from detect.anchors.metrics import anchor_metrics
from detect.fitting.any_position import AnyPosition
from detect.fitting.gains import Boxes
from detect.fitting.grid_fit import GridFit, fit_on_grid, score_on_grid
from detect.fitting.own_positions import OwnPositions
from detect.fitting.structured import LAYOUTS, StructuredFit, fit_layouts

STRIDES = (4, 8, 16)


@pytest.fixture(autouse=True, scope="module")
def coarse_search():
    """A hundredth instead of thousandths, which every promise has to hold for as well."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("detect.fitting.coordinate_search.SMALLEST_STEP", 0.02)
        yield


def fit_structured(boxes: Boxes, *, layout: str = "grid", **how: Any) -> StructuredFit:
    return fit_layouts(boxes, widest=layout, **how)[-1]


@pytest.fixture(scope="module")
def nuclei() -> OwnPositions:
    return OwnPositions.of(part_of("nuclei", "none", step=8), STRIDES)


@pytest.fixture(scope="module")
def two_free(nuclei) -> GridFit:
    return fit_on_grid(nuclei, per_level=2, certify=None)


@pytest.fixture(scope="module")
def two_ratios(nuclei, two_free) -> dict[str, StructuredFit]:
    """One size by two ratios in each layout."""
    return {fit.layout: fit for fit in fit_layouts(nuclei, scales=1, ratios=2, free=two_free)}


def plant(sizes: list[list[float]], ratios: list[float], strides: tuple[int, ...]) -> AnyPosition:
    shapes = [(size / ratio**0.5, size * ratio**0.5) for level in sizes for size in level for ratio in ratios]
    return AnyPosition.of(ShapeHistogram.of(np.array(shapes)), strides)


def test_a_planted_structure_is_found():
    boxes = plant([[16, 24], [64, 96]], [0.3, 1.5], (1, 4))
    fit = fit_structured(boxes, layout="grid", scales=2, ratios=2)
    assert_allclose(np.sort(fit.sizes, axis=1), [[16, 24], [64, 96]], rtol=0.06)
    assert_allclose(np.sort(fit.ratios, axis=1), [[0.3, 1.5]] * 2, rtol=0.06)
    assert abs(fit.penalty) < 0.01
    assert fit.score > fit.default_score + 0.1


@pytest.mark.parametrize(("objective", "scales", "ratios"), [("iou", 1, 3), ("recall@0.5", 2, 1)])
def test_each_layout_is_at_least_the_narrower_and_the_scaled_default(objective, scales, ratios):
    instances = part_of("nuclei", "none", step=16)
    boxes = OwnPositions.of(instances, STRIDES, objective=objective)
    free = fit_on_grid(boxes, per_level=scales * ratios, rounds=1)
    fits = fit_layouts(boxes, scales=scales, ratios=ratios, free=free)
    assert tuple(fit.layout for fit in fits) == LAYOUTS
    scores = [fits[0].default_score, *(fit.score for fit in fits), free.score]
    assert scores == sorted(scores)
    assert free.upper_bound >= free.score
    for fit in fits:
        score = anchor_metrics(instances, fit.anchors)
        assert_allclose(fit.score, score.grid_average_iou if objective == "iou" else score.grid_recall(0.5))
        assert_allclose(fit.penalty, free.score - fit.score)


def test_never_worse_than_the_frameworks_defaults_at_any_factor(nuclei):
    # 3 sizes x 3 ratios: RetinaNet's own, as torchvision, detectron2 and mmdetection ship them
    free = fit_on_grid(nuclei, per_level=1, certify=None)  # what it is compared with does not matter here
    fit = fit_structured(nuclei, layout="octaves", free=free)
    shipped = [level.shapes for level in load_anchors("retinanet").levels[:3]]  # on strides 8, 16 and 32
    for factor in np.exp(np.linspace(-3, 1, 80)):
        scaled = [[(w * factor, h * factor) for w, h in level] for level in shipped]
        score = score_on_grid(nuclei, AnchorSet.of(scaled, strides=STRIDES))
        assert score <= fit.default_score + 1e-3  # between two steps of the factor
        assert score <= fit.score
    assert fit.score > fit.default_score


def test_octaves_are_one_base_in_strides_and_one_list_of_ratios(nuclei, two_free):
    fit = fit_structured(nuclei, layout="octaves", scales=2, ratios=2, free=two_free)
    in_strides = np.array(fit.sizes) / np.array(STRIDES)[:, None]
    assert_allclose(in_strides, in_strides[:1].repeat(3, axis=0))
    assert_allclose(in_strides[0, 1] / in_strides[0, 0], 2**0.5)
    assert len(set(fit.ratios)) == 1


def test_sizes_share_their_ratios_and_levels_need_not(two_ratios):
    assert len(set(two_ratios["grid"].ratios)) == 1
    assert len(set(two_ratios["level-grids"].ratios)) > 1


def test_sizes_and_ratios_give_the_anchors_in_the_frameworks_order(two_ratios):
    fit = two_ratios["grid"]
    grid = AnchorGenerator.of_sizes(fit.sizes, fit.ratios[0], STRIDES, convention="torchvision")
    for ours, theirs in zip(fit.anchors.levels, grid.anchors.levels, strict=True):
        assert_allclose(ours.shapes, theirs.shapes, rtol=1e-5)


def test_twice_the_same_is_the_same(nuclei, two_ratios):
    again = fit_structured(nuclei, layout="octaves", scales=1, ratios=2)
    assert again.anchors.levels == two_ratios["octaves"].anchors.levels


def test_wrong_arguments_are_named(nuclei):
    with pytest.raises(ValueError, match="layout 'free' is not one of octaves, grid, level-grids"):
        fit_structured(nuclei, layout="free")
    with pytest.raises(ValueError, match="scales=0"):
        fit_structured(nuclei, scales=0)
