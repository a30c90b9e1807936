"""Fits that start from given anchors end no lower than these, by the objective."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import part_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.known import load_anchors
from detect.anchors.metrics import anchor_metrics
from detect.errors import FitError
from detect.fitting.fit import fit_anchors
from detect.fitting.fit_levels import fit_levels
from detect.fitting.search import optimal_anchors
from detect.ops.box_arrays import best_shape_iou

OBJECTIVES = ("iou", "recall@0.5", "ratio", "0.8*ratio+0.2*recall@0.25")
STRIDES = (8, 16, 32)
YOLO = load_anchors("yolov3-coco")


@settings(max_examples=6)
@given(seed=st.integers(0, 10_000), objective=st.sampled_from(OBJECTIVES))
def test_no_start_by_shape_is_better_than_what_the_fit_makes_of_it(seed, objective):
    random = np.random.default_rng(seed)
    boxes = np.exp(random.normal(3, 0.7, (int(random.integers(5, 40)), 2)))
    k = int(random.integers(1, 4))
    start = boxes[random.choice(len(boxes), k, replace=False)] if seed % 2 else np.exp(random.normal(3, 1, (k, 2)))
    histogram = ShapeHistogram.of(boxes, cells_per_octave=1024)
    best = optimal_anchors(histogram, k, objective=objective, start=start, certify=0.5)
    assert best.start_score <= best.score <= best.upper_bound + 1e-9
    again = optimal_anchors(histogram, k, objective=objective, start=best.shapes, certify=None)
    assert best.score - 1e-12 <= again.start_score <= again.score


def test_a_start_on_the_optimum_leads_to_it_where_the_search_alone_does_not():
    # four boxes and two shapes by side ratio: the search alone ends 1 % below what an exhaustive search finds
    boxes = np.exp(np.random.default_rng(36).normal(3, 0.7, (4, 2)))
    sizes, aspects = np.sqrt(boxes.prod(axis=1)), np.sqrt(boxes[:, 0] / boxes[:, 1])
    shapes = np.array([(size * aspect, size / aspect) for size in sizes for aspect in aspects])
    ratio = boxes[:, None] / shapes
    ratios = np.minimum(ratio, 1 / ratio).min(axis=2)
    pairs = [(a, b) for a in range(len(shapes)) for b in range(a)]
    pair = max(pairs, key=lambda rows: ratios[:, rows].max(axis=1).mean())
    histogram = ShapeHistogram.of(boxes, cells_per_octave=1024)
    alone = optimal_anchors(histogram, 2, objective="ratio", certify=None)
    started = optimal_anchors(histogram, 2, objective="ratio", start=shapes[list(pair)], certify=None)
    assert_allclose(started.score, ratios[:, pair].max(axis=1).mean())
    assert started.score >= alone.score
    assert alone.start_score is None


def test_a_dataset_takes_as_many_shapes_as_the_start_and_scores_both(nuclei):
    fit = fit_anchors(nuclei, start=YOLO)
    assert fit.num_anchors == 9
    before, after = fit.scores["start_average_iou"], fit.scores["average_iou"]
    assert_allclose(before, anchor_metrics(nuclei, YOLO).average_iou, atol=1e-4)
    assert after > before + 0.05
    assert after >= fit_anchors(nuclei, k=9).scores["average_iou"] - 1e-9
    more = fit_anchors(nuclei, k=11, start=YOLO.shapes)
    assert more.num_anchors == 11
    assert more.scores["average_iou"] > after


def test_fixed_shapes_of_the_start_stay(nuclei):
    start = np.array([[12.0, 12.0], [20.0, 20.0], [40.0, 40.0]])
    fit = fit_anchors(nuclei, start=start, fixed=[(12.0, 12.0)])
    assert fit.num_anchors == 3
    assert [12.0, 12.0] in fit.shapes.tolist()
    assert fit.scores["average_iou"] >= fit.scores["start_average_iou"]
    assert_allclose(fit.scores["start_average_iou"], best_shape_iou(nuclei.shapes, start)[0].mean(), atol=1e-6)


@pytest.mark.parametrize("numbers", [{"per_level": (3, 4, 3)}, {"num_anchors": 9}, {"max_per_level": 3}])
def test_no_start_on_levels_is_better_than_what_the_fit_makes_of_it(nuclei, numbers):
    fit = fit_levels(nuclei, STRIDES, start=YOLO, **numbers)
    (name,) = (name for name in fit.anchors.scores if not name.startswith("start_"))
    before, after = fit.anchors.scores[f"start_{name}"], fit.anchors.scores[name]
    assert after > before
    if "per_level" in numbers:
        assert_allclose(before, anchor_metrics(nuclei, YOLO).grid_average_iou)
        assert [len(level.shapes) for level in fit.anchors.levels] == list(np.broadcast_to(numbers["per_level"], 3))
    again = fit_levels(nuclei, STRIDES, start=fit.anchors, **numbers).anchors.scores
    assert again[name] >= again[f"start_{name}"] >= after - 1e-12


def test_a_layout_that_the_start_has_is_no_worse_than_it():
    nuclei = part_of("nuclei", "none", step=4)
    options = {"per_level": 2, "scales": 2, "ratios": 1}
    octaves, grid = (fit_levels(nuclei, (8, 16), layout=layout, **options).anchors for layout in ("octaves", "grid"))
    for start, layout in ((octaves, "octaves"), (octaves, "grid"), (grid, "grid"), (grid, "octaves")):
        scores = fit_levels(nuclei, (8, 16), layout=layout, start=start, **options).anchors.scores
        assert scores["start_grid_average_iou"] == start.scores["grid_average_iou"]  # told, whoever is better
        if (start, layout) != (grid, "octaves"):
            assert scores["grid_average_iou"] >= scores["start_grid_average_iou"] - 1e-6  # shapes are rounded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_level": 2}, "the start yolov3-coco has 3, 3, 3 shapes, more than the 2, 2, 2 to be fitted"),
        ({"per_level": (3, 3, 2)}, "has 3, 3, 3 shapes, more than the 3, 3, 2 to be fitted"),
        ({"num_anchors": 8}, "has 9 shapes, more than the 8 to be fitted"),
        (
            {"per_level": 3, "start": AnchorSet.of([[(9, 9)]], strides=[4])},
            "has anchors on stride 4, the fit on 8, 16, 32",
        ),
    ],
)
def test_a_start_beyond_the_limits_is_refused(nuclei, options, message):
    with pytest.raises(FitError, match=message):
        fit_levels(nuclei, STRIDES, **{"start": YOLO, **options})


def test_a_start_by_shape_has_no_more_shapes_than_k(nuclei):
    with pytest.raises(FitError, match="the start has 9 shapes, more than the 4 to be fitted"):
        fit_anchors(nuclei, k=4, start=YOLO)
    with pytest.raises(FitError, match="a start and weights need the method optimal, and k"):
        fit_anchors(nuclei, method="kmeans", start=replace(YOLO, name="own"))
