"""Norms as factors and shifts, and layers with the norms behind them."""

from __future__ import annotations

import pytest
import torch
from planted import shipped_retinanet
from torch import nn
from torch.testing import assert_close

from detect.inspection.folding import FoldedNorms, fixed_norm
from detect.inspection.operations import rewritten


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", ["group_norm", "batch_norm"])
def test_a_factor_and_a_shift_are_the_norm_with_its_statistics(name, affine):
    random = torch.Generator().manual_seed(0)
    cells = torch.randn(3, 6, 5, 4, generator=random)
    module = nn.GroupNorm(3, 6, affine=affine) if name == "group_norm" else nn.BatchNorm2d(6, affine=affine)
    with torch.no_grad():
        for each in (*module.parameters(), *module.buffers()):
            if each.dtype.is_floating_point:
                each.copy_(torch.rand(each.shape, generator=random) + (0.5 if each is not module.weight else -0.5))
    module.eval()
    if name == "group_norm":
        arguments = (3, module.weight, module.bias, module.eps)
    else:
        arguments = (module.running_mean, module.running_var, module.weight, module.bias, False, 0.1, module.eps)
    factor, shift = fixed_norm(name, cells, *arguments)
    assert_close(factor * cells + shift, module(cells))


class Seen(FoldedNorms):
    def __init__(self, module):
        super().__init__(module)
        self.found = {}

    def layer_output(self, layer):
        self.found[layer.call] = layer
        return layer.size * layer.apply(layer.cells, layer.weight) + layer.shift


def test_every_layer_of_a_detector_is_seen_with_its_norm_and_the_output_stays():
    detector, images = shipped_retinanet(), torch.rand(2, 1, 40, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for norm in detector.modules():
            if isinstance(norm, nn.GroupNorm):
                norm.weight[::3] *= -1  # a factor below 0 goes into the weight
        before = detector(images)
        rules = Seen(detector)
        with rewritten(detector, rules):
            assert_close(detector(images), before, rtol=1e-3, atol=1e-4)
    counts = {name: sum(each.name == name for each in rules.found.values()) for name in rules.names.values()}
    convolutions = [f"{name}.weight" for name, each in detector.named_modules() if isinstance(each, nn.Conv2d)]
    assert {name: count for name, count in counts.items() if count} == {
        name: 3 if name.startswith("head.") else 1 for name in convolutions
    }
    assert all((each.size > 0).all() for each in rules.found.values())
    towers = [each for each in rules.found.values() if "tower" in each.name]
    assert all(each.size.shape == (2, 64, 1, 1) for each in towers)  # each image has statistics of its own
