from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.utils.flop_counter import FlopCounterMode

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import level_hw
from detect.anchors.generator import AnchorGenerator
from detect.anchors.head_cost import HeadSize, level_costs
from detect.heads.retinanet import RetinaNetHead


def test_operations_of_a_cell_by_hand():
    # two towers of one 3 x 3 convolution from 4 to 5 channels, then 5 to 3 * 2 and to 3 * 4: 9 * (40 + 5 * 18) products
    assert HeadSize(2, in_channels=4, num_convs=1, hidden_channels=5).flops_per_cell(3) == 2 * 9 * (40 + 90)


@pytest.mark.parametrize(("num_convs", "hidden", "norm"), [(4, None, None), (0, None, None), (2, 32, "group")])
def test_operations_are_those_that_torch_counts_for_the_head(num_convs, hidden, norm):
    anchors = AnchorSet.of([[(8, 8)] * 3, [(16, 16)], [(64, 64)] * 2], strides=(8, 16, 64))
    grid = AnchorGenerator(anchors)
    head = RetinaNetHead(16, grid.num_anchors, 5, num_convs=num_convs, hidden_channels=hidden, norm=norm)
    size = HeadSize(5, in_channels=16, num_convs=num_convs, hidden_channels=hidden)
    costs = level_costs(np.array([[131, 75]]), anchors, size)
    maps = [torch.zeros(1, 16, *hw) for hw in level_hw(grid, (75, 131))]
    for level, cost in enumerate(costs):
        with FlopCounterMode(display=False) as counter:
            output = head.select_levels([level])([maps[level]])
        assert counter.get_total_flops() == cost.flops
        assert output.logits.shape[1] == cost.anchors


def test_costs_are_means_over_images():
    anchors = AnchorSet.of([[(8, 8)], [(64, 64)]], strides=(8, 64))
    # 8 x 8 and 8 x 4 cells on the first level, 1 on the second
    fine, coarse = level_costs(np.array([[64, 64], [64, 32]]), anchors, HeadSize(1))
    assert (fine.cells, coarse.cells) == (48.0, 1.0)
    assert_allclose(fine.flops, 48 * HeadSize(1).flops_per_cell(1))


def test_no_images_and_wrong_numbers():
    anchors = AnchorSet.of([[(8, 8)]], strides=(8,))
    assert np.isnan(level_costs(np.zeros((0, 2), np.int64), anchors, HeadSize(1))[0].flops)
    for wrong in ({"num_classes": 0}, {"in_channels": 0}, {"num_convs": -1}, {"hidden_channels": 0}):
        with pytest.raises(ValueError, match="need channels and num_classes from 1"):
            HeadSize(**({"num_classes": 1} | wrong))
