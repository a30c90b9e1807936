"""Figures of anchors: shapes among boxes, the map of IoU, recall curves, and the curve over k."""

from __future__ import annotations

import numpy as np
from builders import instances_of
from numpy.testing import assert_allclose
from pages import GROWING_BOXES, TWO_LEVELS, boxes_in_files, many_boxes

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.metrics import CURVE, AnchorMetrics, anchor_metrics
from detect.fitting.fit import KCurve
from detect.report.anchor_figures import (
    MAX_POINTS,
    boxes_and_shapes,
    cells_per_octave,
    iou_map,
    k_curve_panel,
    recall_by_size,
    shapes_to_scale,
)
from detect.report.plots import level_colors

ANCHORS = AnchorSet.of([[(32, 32)], [(128, 64)]], strides=(16, 32))


def score_of(boxes: list[list[float]], anchors: AnchorSet = ANCHORS) -> AnchorMetrics:
    return anchor_metrics(instances_of(boxes, image_wh=(640, 640)), anchors)


def test_a_cell_is_the_mean_of_the_iou_on_the_grid_of_its_boxes():
    # stride 16 has centres 8, 24, 40: the first box lies on a cell's anchor, the second is 8 px from two of them, where
    # 24 * 32 are shared: 768 / (2048 - 768)
    score = score_of([[8, 8, 32, 32], [16, 8, 32, 32], [140, 150, 100, 100]])
    cells = iou_map(score, level_colors([score])).figure.data[0]
    means, counts = np.array(cells.z), np.array(cells.customdata)
    assert sorted(counts[~np.isnan(counts)].tolist()) == [1, 2]
    twice = np.argwhere(counts == 2)[0]
    assert_allclose(means[tuple(twice)], (1 + 0.6) / 2)
    (x0, x1), (y0, y1) = cells.x[twice[1] : twice[1] + 2], cells.y[twice[0] : twice[0] + 2]
    assert x0 <= 32 < x1
    assert y0 <= 32 < y1
    assert np.isnan(means[np.isnan(counts)]).all()


def test_no_boxes_make_a_map_of_shapes_alone():
    chart = iou_map(score_of([]), {16: "red", 32: "blue"}).figure
    assert [(list(trace.x), list(trace.y)) for trace in chart.data[1:]] == [([32], [32]), ([128], [64])]
    assert "NaN" not in chart.to_json()


def test_cells_grow_finer_with_the_number_of_boxes_within_limits():
    counts = [cells_per_octave(count) for count in (0, 1, 100, 1000, 10_000, 10**5, 10**9)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (3, 8)


def test_recall_by_size_by_hand():
    # small: 20 x 20 halfway between centres at 24 and 40, so that 18 x 18 are shared: 324 / (1424 - 324), and by shape
    # 400 / 1024; large: 200 x 100, and the best of 128 x 64 lies within it: 8192 / 20000; medium: none
    panel = recall_by_size(score_of([[22, 22, 20, 20], [100, 100, 200, 100]]), 6)
    small, large = panel.figure.data
    assert_allclose(small.y, CURVE <= 324 / 1100)
    assert_allclose(large.y, CURVE <= 8192 / 20000)
    assert [key.label for key in panel.keys] == ["small, under 32 px: 1 box", "large, from 96 px: 1 box"]
    assert "Medium: none." in panel.caption


def test_the_knee_is_circled_and_named():
    figure = k_curve_panel(KCurve({1: 0.4, 2: 0.6, 3: 0.65}, 2)).figure
    assert (list(figure.data[1].x), list(figure.data[1].y)) == ([2], [0.6])
    assert figure.layout.annotations[-1].text == "knee: k = 2, average IoU 0.600"


def test_few_boxes_are_points_and_each_is_drawn() -> None:
    score = anchor_metrics(many_boxes(MAX_POINTS), TWO_LEVELS)
    chart = boxes_and_shapes(score, level_colors([score])).figure
    well, missed = chart.data[1:3]
    assert len(well.x) + len(missed.x) == MAX_POINTS
    assert len(missed.x) == (score.best_iou < 0.5).sum() > 0


def test_many_boxes_are_counted_in_cells_and_none_is_lost() -> None:
    score = anchor_metrics(many_boxes(MAX_POINTS + 1), TWO_LEVELS)
    panel = boxes_and_shapes(score, level_colors([score]))
    density = panel.figure.data[1]
    assert np.nansum(density.customdata) == MAX_POINTS + 1
    assert f"{MAX_POINTS + 1:,} boxes" in panel.caption
    row, column = np.unravel_index(np.nanargmax(density.customdata), density.customdata.shape)
    (x0, x1), (y0, y1) = density.x[column : column + 2], density.y[row : row + 2]
    width, height = score.instances.shapes.T
    inside = (x0 <= width) & (width < x1) & (y0 <= height) & (height < y1)
    assert inside.sum() == np.nanmax(density.customdata)


def test_shapes_stand_at_their_size_in_the_colour_of_their_level() -> None:
    score = anchor_metrics(boxes_in_files(GROWING_BOXES), TWO_LEVELS)
    colors = level_colors([score])
    markers = boxes_and_shapes(score, colors).figure.data[-2:]
    assert [list(trace.x) for trace in markers] == [[20, 30], [120]]
    assert [list(trace.y) for trace in markers] == [[20, 60], [90]]
    outlines = shapes_to_scale(score, colors).figure.data
    assert max(x for x in outlines[1].x if x is not None) == 60  # half of 120
    assert [trace.marker.color for trace in markers] == [trace.line.color for trace in outlines]
    assert len({trace.marker.color for trace in markers}) == 2
