from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.pyramid import levels_of_shapes, place_shapes, placed_iou, strides_of
from detect.errors import FitError
from detect.interop.torchvision import import_torchvision

import_torchvision()
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402
from torchvision.ops import box_iou  # noqa: E402


def test_one_box_between_four_cells_by_hand():
    # stride 16, centres at 8, 24, ...: a 32 px box centred on 16 is 8 px from each of the four nearest
    anchors = AnchorSet.of([[(32, 32)]], strides=[16])
    box, canvas = np.array([[0.0, 0.0, 32.0, 32.0]]), np.array([[64, 64]])
    # overlap 24 x 24 = 576; union 2 * 1024 - 576 = 1472
    assert_allclose(placed_iou(box, canvas, anchors), [576 / 1472])
    # on the corner of the cell there is a centre at 16: a perfect match
    assert_allclose(placed_iou(box, canvas, AnchorSet.of([[(32, 32)]], strides=[16], center_offset=0.0)), [1.0])


@pytest.mark.parametrize("offset", [0.0, 0.5])
@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=12),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
)
def test_placed_iou_is_the_best_over_all_anchors_of_torchvisions_generator(offset, corners, canvas_in_32):
    width, height = 32 * canvas_in_32[0], 32 * canvas_in_32[1]
    x0, y0, w, h = np.array(corners).T
    boxes = np.stack([x0 * width, y0 * height, x0 * width + 1 + w * width, y0 * height + 1 + h * height], axis=1)
    shapes, strides = [[(13.0, 21.0), (40.0, 16.0)], [(70.0, 55.0)]], [8, 32]
    # as their cells, shifted by the offset, for torchvision to lay out
    generator = AnchorGenerator(((1.0, 2.0), (1.0,)), ((1.0,), (1.0,)))
    generator.cell_anchors = [
        torch.tensor(
            [[s * offset - w / 2, s * offset - h / 2, s * offset + w / 2, s * offset + h / 2] for w, h in level]
        )
        for s, level in zip(strides, shapes, strict=True)
    ]
    image = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    maps = [torch.zeros(1, 1, height // stride, width // stride, dtype=torch.float64) for stride in strides]
    expected = box_iou(torch.from_numpy(boxes), generator(image, maps)[0]).max(dim=1).values.numpy()
    anchors = AnchorSet.of(shapes, strides=strides, center_offset=offset)
    ours = placed_iou(boxes, np.tile([[width, height]], (len(boxes), 1)), anchors)
    assert_allclose(ours, expected, rtol=1e-6, atol=1e-7)


def test_a_canvas_that_is_no_multiple_of_the_stride_gets_a_last_cell():
    # 40 / 16 = 2.5: three cells, the last centred on 40
    anchors = AnchorSet.of([[(8, 8)]], strides=[16])
    assert_allclose(placed_iou(np.array([[36.0, 4.0, 44.0, 12.0]]), np.array([[40, 16]]), anchors), [1.0])


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
    recalls = [(placed_iou(nuclei.boxes, nuclei.canvas_wh, each) >= 0.5).mean() for each in (by_size, by_rank)]
    assert recalls[0] > recalls[1] + 0.05


@pytest.mark.parametrize(
    ("levels", "strides"), [("p3-p7", (8, 16, 32, 64, 128)), ("P4, p2", (4, 16)), ("14,7", (7, 14)), ("p0", (1,))]
)
def test_levels_and_strides_are_read(levels, strides):
    assert strides_of(levels) == strides


@pytest.mark.parametrize("levels", ["", "p7-p3", "p3,p3", "p21", "p3-", "8;16", "0", "x", "p3-p99"])
def test_other_levels_are_refused_by_name(levels):
    with pytest.raises(FitError, match="levels"):
        strides_of(levels)
