"""Where each framework puts its anchors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchors
from torchvision.models.detection.image_list import ImageList

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.generator import MAX_CACHED, AnchorGenerator, check_strides

TORCHVISION_SIZES = [(x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512)]
SIZES = [tuple(x * 2 ** (third / 3) for third in range(3)) for x in (32.0, 64.0, 128.0, 256.0, 512.0)]
# every level is half of the one before, rounded up
HW_800_1344 = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]


@pytest.mark.parametrize(
    ("image_hw", "level_hw"),
    [
        ((800, 1344), HW_800_1344),
        ((608, 416), [(76, 52), (38, 26), (19, 13), (10, 7), (5, 4)]),
        ((97, 61), [(13, 8), (7, 4), (4, 2), (2, 1), (1, 1)]),
    ],
)
@pytest.mark.parametrize("sizes", [TORCHVISION_SIZES, [(11, 17.5), (21,), (63,), (99.9, 7, 3), (300,)]])
@pytest.mark.parametrize("ratios", [(0.5, 1.0, 2.0), (0.3, 3.1)])
def test_torchvisions_convention_is_torchvisions_generator(image_hw, level_hw, sizes, ratios):
    generator = TorchvisionAnchors(tuple(map(tuple, sizes)), (ratios,) * 5)
    maps = [torch.zeros(1, 1, *hw) for hw in level_hw]
    expected = generator(ImageList(torch.zeros(1, 3, *image_hw), [image_hw]), maps)[0]
    placed = AnchorGenerator.of_sizes(sizes, ratios).generate(level_hw, image_hw)
    assert_close(placed.boxes, expected, rtol=0, atol=0)
    assert sum(placed.num_per_level) == len(expected)
    assert AnchorGenerator.of_sizes(sizes, ratios).num_anchors == generator.num_anchors_per_location()


def test_torchvisions_rounding_and_strides_by_hand():
    placed = AnchorGenerator.of_sizes(TORCHVISION_SIZES).generate(HW_800_1344, (800, 1344))
    # 32 at ratio 1/2 is 45.25 x 22.63: halves 22.6 and 11.3 round to 23 and 11
    assert placed.boxes[0].tolist() == [-23, -11, 23, 11]
    # P6: 800 / 13 = 61.5, 1344 / 21 = 64; P7: 800 / 7 = 114.3, 1344 / 11 = 122.2, cut
    assert [level.stride_xy for level in placed.level_grids[3:]] == [(64, 61), (122, 114)]
    last = placed.boxes[-1]
    assert ((last[0] + last[2]) / 2, (last[1] + last[3]) / 2) == (1220, 684)
    assert len(placed.boxes) == 201_600


def test_detectron2s_order_by_hand():
    boxes = AnchorGenerator.of_sizes(SIZES, convention="detectron2").generate(HW_800_1344).boxes
    # sizes outer, ratios inner: the second anchor is size 32 at ratio 1, the fourth 40.3 at ratio 1/2
    expected = [[-22.627417, -11.313708, 22.627417, 11.313708], [-16, -16, 16, 16], [-11.313708, -22.627417, 11.313708]]
    assert_close(boxes[0], torch.tensor(expected[0]))
    assert_close(boxes[1], torch.tensor(expected[1], dtype=torch.float32))
    assert_close(boxes[2, :3], torch.tensor(expected[2]))
    assert_close(boxes[3, 2] - boxes[3, 0], torch.tensor(40.317474 * 2**0.5))
    assert_close(boxes[9], boxes[0] + torch.tensor([8.0, 0.0, 8.0, 0.0]))  # the next cell to the right
    last = boxes[-1]
    assert ((last[0] + last[2]) / 2, (last[1] + last[3]) / 2) == (1280, 768)  # true strides, not 1220, 684


def test_mmdetections_order_by_hand():
    boxes = AnchorGenerator.of_sizes(SIZES, convention="mmdet").generate(HW_800_1344).boxes
    # ratios outer, sizes inner: the fourth anchor is size 32 at ratio 1
    assert_close(boxes[3], torch.tensor([-16.0, -16.0, 16.0, 16.0]))
    assert_close(boxes[0], torch.tensor([-22.627417, -11.313708, 22.627417, 11.313708]))
    detectron2 = AnchorGenerator.of_sizes(SIZES, convention="detectron2").generate(HW_800_1344).boxes
    by_cell = detectron2.view(-1, 3, 3, 4).transpose(1, 2).reshape(-1, 4)
    assert_close(boxes, by_cell, rtol=0, atol=0)


def test_effdets_centres_and_strides_by_hand():
    grid = AnchorGenerator.of_sizes([(32.0,), (64.0,)], (1.0,), strides=(8, 16), convention="effdet")
    boxes = grid.generate([(2, 2), (1, 1)], (18, 15)).boxes
    # 18 / 2 = 9 rows of pixels and 15 / 2 = 7.5 columns to a cell of the first level, 18 and 15 of the second
    assert_close(boxes[3], torch.tensor([11.25 - 16, 13.5 - 16, 11.25 + 16, 13.5 + 16]))
    assert_close(boxes[4], torch.tensor([7.5 - 32, 9.0 - 32, 7.5 + 32, 9.0 + 32]))


def test_anchors_of_a_set_keep_their_levels_order_and_place_in_the_cell():
    anchors = AnchorSet.of([[(10, 20), (30, 20)], [(60, 60)]], strides=(8, 16))
    placed = AnchorGenerator(anchors).generate([(1, 2), (1, 1)])
    expected = [[-1, -6, 9, 14], [-11, -6, 19, 14], [7, -6, 17, 14], [-3, -6, 27, 14], [-22, -22, 38, 38]]
    assert_close(placed.boxes, torch.tensor(expected, dtype=torch.float32))
    assert placed.num_per_level == [4, 1]
    coarse = AnchorGenerator(anchors).select_levels([1]).generate([(1, 1)])
    assert_close(coarse.boxes, placed.boxes[4:])


def test_the_same_size_is_generated_once_and_the_oldest_is_let_go():
    grid = AnchorGenerator(AnchorSet.of([[(10, 20)]], strides=(8,)))
    first = grid.generate([(1, 1)])
    assert grid.generate([(1, 1)]) is first
    assert grid.generate([(1, 1)], dtype=torch.float64).boxes.dtype == torch.float64
    others = [grid.generate([(1, width)]) for width in range(2, MAX_CACHED + 2)]
    assert all(grid.generate([(1, each.level_grids[0].width)]) is each for each in others)
    assert grid.generate([(1, 1)]) is not first


def test_anchors_generated_in_inference_serve_training_too():
    grid = AnchorGenerator(AnchorSet.of([[(10, 20)]], strides=(8,)))
    with torch.inference_mode():
        grid.generate([(2, 2)])
    weight = torch.ones(4, requires_grad=True)
    (grid.generate([(2, 2)]).boxes * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.usefixtures("unchecked")
def test_feature_maps_in_place_of_their_sizes_are_named():
    grid = AnchorGenerator(AnchorSet.of([[(10, 20)]], strides=(8,)))
    with pytest.raises(ValueError, match="of each feature map, not the maps"):
        grid.generate([torch.zeros(1, 256, 4, 4)])


def test_mistakes_are_named():
    grid = AnchorGenerator.of_sizes(TORCHVISION_SIZES)
    with pytest.raises(ValueError, match=r"2 feature levels for anchors on 5 \(P3, P4, P5, P6, P7\)"):
        grid.generate([(4, 4), (2, 2)], (32, 32))
    with pytest.raises(ValueError, match="image_hw is missing"):
        grid.generate(HW_800_1344)
    with pytest.raises(ValueError, match="convention 'keras'"):
        AnchorGenerator.of_sizes(SIZES, convention="keras")
    with pytest.raises(ValueError, match="1 levels of sizes for 5 strides"):
        AnchorGenerator.of_sizes([(32,)])
    with pytest.raises(ValueError, match="convention 'ceil'"):
        AnchorGenerator(AnchorSet.of([[(10, 20)]], strides=(8,)), convention="ceil")


LEVELS = AnchorSet.of([[(8, 8)], [(16, 16)], [(64, 64)]], strides=(8, 16, 64)).levels


@given(st.integers(1, 700), st.integers(1, 700), st.lists(st.booleans(), min_size=6, max_size=6))
def test_maps_rounded_up_or_down_fit_their_strides(height, width, up):
    rounding = iter(up)
    level_hw = [
        tuple(-(-size // level.stride) if next(rounding) else size // level.stride for size in (height, width))
        for level in LEVELS
    ]
    check_strides(LEVELS, level_hw, (height, width))
    check_strides(LEVELS, level_hw)


@pytest.mark.parametrize(
    ("level_hw", "image_hw", "message"),
    [
        (
            [(8, 8), (4, 4), (2, 1)],
            (64, 64),
            "level P6: stride 64 contradicts a feature map of 2 x 1 cells on an input",
        ),
        ([(8, 8), (4, 8), (1, 1)], (64, 64), r"level P4: stride 16 .* which is at stride 16 x 8"),  # not square
        ([(16, 16), (8, 8), (2, 2)], (64, 64), r"level P3: stride 8 .* 64 x 64, which is at stride 4 x 4"),
        ([(4, 4), (8, 8), (1, 1)], (64, 64), r"level P3: stride 8 .* 64 x 64, which is at stride 16 x 16"),
        ([(4, 4), (8, 8), (1, 1)], None, r"level P4: stride 16 .* 8 x 8 cells beside .* fine to coarse"),
        ([(8, 8), (4, 4), (4, 4)], None, r"level P6: stride 64 .* 4 x 4 cells beside .* of 8 x 8, 4 x 4"),
        ([(8, 8), (4, 8), (1, 1)], None, r"level P4: stride 16 .* 4 x 8 cells"),
    ],
)
def test_a_map_that_contradicts_a_stride_is_named_with_its_level(level_hw, image_hw, message):
    generator = AnchorGenerator(AnchorSet(LEVELS))
    with pytest.raises(ValueError, match=message):
        generator.generate(level_hw, image_hw)


@pytest.mark.usefixtures("unchecked")
def test_levels_from_coarse_to_fine_and_strides_of_two_axes_are_refused():
    with pytest.raises(ValueError, match="levels go from fine to coarse, got strides 64, 16, 8"):
        AnchorGenerator(AnchorSet(LEVELS[::-1]))
    with pytest.raises(ValueError, match=r"one stride for both axes, a whole number of pixels, got \(8, 16\)"):
        AnchorGenerator.of_sizes([(32.0,)], strides=[(8, 16)])
