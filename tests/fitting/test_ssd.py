"""Fits in SSD's layout find planted shapes, keep the layout, and refuse anchors of another one."""

from __future__ import annotations

import numpy as np
import pytest
from builders import part_of
from numpy.testing import assert_allclose

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.known import load_anchors
from detect.errors import FitError
from detect.fitting.any_position import AnyPosition, boxes_on_grid
from detect.fitting.grid_fit import score_on_grid
from detect.fitting.ssd import fit_ssd

STRIDES = (8, 16, 32, 64, 100, 300)


def test_planted_squares_and_ratio_are_found():
    # on stride 1 position matters little: a square of 40, one of 90, and 40 * sqrt(2.25) by 40 / sqrt(2.25)
    boxes = np.array([[40.0, 40.0], [90.0, 90.0], [60.0, 40 / 1.5], [40 / 1.5, 60.0]])
    cells = AnyPosition.of(ShapeHistogram.of(boxes), (1,))
    fitted = fit_ssd(cells, AnchorSet.of([[(30, 30), (60, 60), (42, 21), (21, 42)]], strides=[1]))
    assert_allclose(fitted.levels[0].shapes, boxes, rtol=0.03)


def test_the_layout_is_kept_on_every_level_and_the_score_rises():
    instances, stock = part_of("bccd", "stretch:300x300", step=40), load_anchors("mmdet-ssd300")
    boxes = boxes_on_grid(instances, STRIDES, objective="0.5*iou+0.5*recall@0.5")
    for draft in (None, 100):
        fitted = fit_ssd(boxes, stock, draft=draft)
        assert score_on_grid(boxes, fitted) > score_on_grid(boxes, stock)
        for level in fitted.levels:
            (smaller, _), (larger, _), *pairs = level.shapes
            assert smaller < larger
            for w, h in pairs:
                assert w * h == pytest.approx(smaller**2, rel=1e-4)
            assert len(set(level.shapes)) == len(level.shapes)


def test_anchors_of_another_layout_or_other_levels_are_refused():
    boxes = boxes_on_grid(part_of("bccd", "stretch:300x300", step=60), STRIDES, objective="grid")
    with pytest.raises(FitError, match=r"the start lies on strides \[8, 16, 32\], not \[8, 16, 32, 64, 100, 300\]"):
        fit_ssd(boxes, load_anchors("yolov5"))
    free = AnchorSet.of([[(10, 12), (20, 22)]] * 6, strides=STRIDES)
    with pytest.raises(FitError, match="P3: expected two squares, and pairs of a ratio and its inverse"):
        fit_ssd(boxes, free)
