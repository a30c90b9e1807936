from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.placed import placed_iou_by_level
from detect.anchors.pyramid import levels_of_shapes, place_shapes, strides_of
from detect.errors import FitError


def test_shapes_go_to_the_level_of_their_size_and_never_by_rank():
    # 4 strides in size: 32 px to stride 8, 64 to 16; smaller than all: the finest. A thin one by its short side:
    # 400 x 30 has size 109.5, which alone would be stride 16; the short side, 2 strides, allows 15
    shapes = np.array([[20.0, 20.0], [32.0, 32.0], [63.0, 63.0], [64.0, 64.0], [600.0, 600.0], [400.0, 30.0]])
    assert_array_equal(levels_of_shapes(shapes, (8, 16, 32)), [0, 0, 0, 1, 2, 0])
    all_small = place_shapes(np.array([[9.0, 9.0], [10.0, 10.0], [11.0, 11.0]]), (8, 16, 32))
    assert [(level.name, len(level.shapes)) for level in all_small.levels] == [("P3", 3)]


def test_by_size_covers_more_on_the_grid_than_by_rank(nuclei):
    shapes = np.array([[9.0, 9.0], [11.0, 12.0], [13.0, 17.0], [17.0, 13.0], [22.0, 22.0], [46.0, 51.0]])
    by_size = place_shapes(shapes, (4, 8, 16))
    by_rank = AnchorSet.of([[tuple(s) for s in pair] for pair in np.split(shapes, 3)], strides=(4, 8, 16))
    best = [placed_iou_by_level(nuclei.boxes, nuclei.canvas_wh, each).max(axis=1) for each in (by_size, by_rank)]
    assert (best[0] >= 0.5).mean() > (best[1] >= 0.5).mean() + 0.05


@pytest.mark.parametrize(
    ("levels", "strides"), [("p3-p7", (8, 16, 32, 64, 128)), ("P4, p2", (4, 16)), ("14,7", (7, 14)), ("p0", (1,))]
)
def test_levels_and_strides_are_read(levels, strides):
    assert strides_of(levels) == strides


@pytest.mark.parametrize("levels", ["", "p7-p3", "p3,p3", "p21", "p3-", "8;16", "0", "x", "p3-p99"])
def test_other_levels_are_refused_by_name(levels):
    with pytest.raises(FitError, match="levels"):
        strides_of(levels)
