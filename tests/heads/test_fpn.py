from __future__ import annotations

import copy
import math
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator
from torch.testing import assert_close
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detect.heads.fpn import FeaturePyramid


def random_maps(channels, sizes, batch=2, dtype=torch.float32):
    generator = Generator().manual_seed(0)
    return [
        torch.randn(batch, width, *hw, generator=generator, dtype=dtype)
        for width, hw in zip(channels, sizes, strict=True)
    ]


def plain_pyramid(extra, **options):
    """Two maps of one channel, where every convolution passes on what is at its centre; P6 changes the sign."""
    pyramid = FeaturePyramid((1, 1), 1, extra=extra, **options)
    with torch.no_grad():
        for name, parameter in pyramid.named_parameters():
            parameter.zero_()
            if name.endswith("weight"):
                parameter[0, 0, parameter.shape[2] // 2, parameter.shape[3] // 2] = (
                    -1.0 if name.startswith("extra.0") else 1.0
                )
    return pyramid


def test_a_level_is_its_map_and_the_nearest_cells_above_by_hand():
    # rows 0 1 2 of three take rows floor(0 * 2/3), floor(1 * 2/3), floor(2 * 2/3) = 0 0 1 of two; of 4 columns, 0 0 1 1
    fine, coarse = torch.zeros(1, 1, 3, 4), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    fine[0, 0, 2, 3] = 10.0
    p4, p5 = plain_pyramid(None)([fine, coarse])
    assert_close(p4[0, 0], torch.tensor([[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 4.0, 14.0]]))
    assert_close(p5, coarse)


@pytest.mark.parametrize(
    ("extra", "relu", "p7"), [("c5", True, 0.0), ("c5", False, -1.0), ("p5", True, 0.0), ("p5", False, -8.0)]
)
def test_p6_and_p7_of_each_framework_by_hand(extra, relu, p7):
    # c5 is 1 at (0, 0); the output convolution of P5 is given weight 8. Stride 2 keeps (0, 0); P6 changes the sign, so P7 is
    # nothing after a ReLU
    pyramid = plain_pyramid(extra, relu_before_p7=relu)
    with torch.no_grad():
        pyramid.output[1].weight.mul_(8.0)
    c5 = torch.zeros(1, 1, 3, 3)
    c5[0, 0, 0, 0] = 1.0
    levels = pyramid([torch.zeros(1, 1, 6, 6), c5])
    assert [tuple(level.shape[2:]) for level in levels] == [(6, 6), (3, 3), (2, 2), (1, 1)]
    assert levels[2][0, 0, 0, 0] == (-1.0 if extra == "c5" else -8.0)
    assert_close(levels[3], torch.full((1, 1, 1, 1), p7))


def test_maps_may_come_in_a_mapping_and_are_read_in_its_order():
    pyramid = FeaturePyramid((4, 6), 8)
    maps = random_maps((4, 6), [(9, 7), (5, 4)])
    for names in (("res4", "res5"), ("1", "0")):
        assert_close(pyramid(OrderedDict(zip(names, maps, strict=True))), pyramid(maps), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"maps of \(4, 6\) channels, fine to coarse, got \(6, 4\)"):
        pyramid({"coarse": maps[1], "fine": maps[0]})


def test_one_map_needs_no_list():
    pyramid = FeaturePyramid((4,), 8, extra="p5")
    (cells,) = random_maps((4,), [(9, 7)])
    assert_close(pyramid(cells), pyramid([cells]), rtol=0, atol=0)


def test_weights_start_kaiming_uniform_with_a_of_one():
    # within sqrt(6 / ((1 + 1) * fan_in)) = sqrt(3 / fan_in), evenly: of deviation 1 / sqrt(fan_in); biases 0
    pyramid = FeaturePyramid((64, 128), 64, generator=Generator().manual_seed(0))
    for name, parameter in pyramid.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            fan_in = parameter[0].numel()
            assert_close(parameter.abs().max().item(), math.sqrt(3 / fan_in), rtol=0.01, atol=0)
            assert_close(parameter.std().item(), 1 / math.sqrt(fan_in), rtol=0.02, atol=0)


def torchvisions_names(ours):
    names = {"lateral": "inner_blocks.{}.0", "output": "layer_blocks.{}.0", "extra": "extra_blocks.p{}"}
    group, index, kind = ours.split(".")
    return f"{names[group].format(int(index) + 6 if group == 'extra' else index)}.{kind}"


@pytest.mark.parametrize("extra", ["c5", "p5", None])
@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.integers(1, 21), st.integers(1, 21)), min_size=1, max_size=4),
    st.integers(1, 2),
    st.sampled_from([torch.channels_last, torch.contiguous_format]),
)
def test_levels_are_torchvisions_with_the_same_weights(extra, sizes, batch, memory_format):
    # sizes of any order: only the exact size of each level matters. P6 from P5 there means as many channels
    sizes, channels = sorted(sizes, reverse=True), [3, 6, 5, 7][: len(sizes)]
    top = None if extra is None else LastLevelP6P7(channels[-1] if extra == "c5" else 4, 4)
    theirs = FeaturePyramidNetwork(channels, 4, top).double()
    ours = FeaturePyramid(channels, 4, extra=extra).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(generator=Generator().manual_seed(parameter.numel()))
    theirs.load_state_dict({torchvisions_names(name): value for name, value in ours.state_dict().items()})
    maps = random_maps(channels, sizes, batch, torch.float64)
    expected = list(theirs(OrderedDict((str(level), cells) for level, cells in enumerate(maps))).values())
    assert_close(ours([cells.contiguous(memory_format=memory_format) for cells in maps]), expected)


def test_an_empty_batch_is_no_special_case():
    levels = FeaturePyramid((3, 4), 5)(random_maps((3, 4), [(7, 5), (4, 3)], batch=0))
    assert [tuple(level.shape) for level in levels] == [(0, 5, 7, 5), (0, 5, 4, 3), (0, 5, 2, 2), (0, 5, 1, 1)]


def test_inputs_are_not_written_to_and_gradients_reach_them_and_every_weight():
    for extra in ("c5", "p5", None):
        pyramid = FeaturePyramid((3, 4), 5, extra=extra)
        maps = [cells.requires_grad_() for cells in random_maps((3, 4), [(7, 5), (4, 3)])]
        before = copy.deepcopy(maps)
        sum(level.square().sum() for level in pyramid(maps)).backward()
        assert_close(maps, before, rtol=0, atol=0)
        assert all(tensor.grad.any() for tensor in (*maps, *pyramid.parameters()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), 4), r"got \(\) and out_channels=4"),
        (((3, 0), 4), r"got \(3, 0\) and"),
        (((3, 4), 0), "out_channels=0"),
    ],
)
def test_channels_that_build_no_pyramid_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeaturePyramid(*arguments)


def test_another_top_and_other_maps_are_refused():
    with pytest.raises(ValueError, match="'c5', 'p5' or None, got 'c6'"):
        FeaturePyramid((3, 4), 5, extra="c6")
    pyramid = FeaturePyramid((3, 4), 5)
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        pyramid(random_maps((3,), [(7, 5)]))
