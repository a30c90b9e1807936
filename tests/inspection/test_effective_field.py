"""Effective fields: by hand, uniform and Gaussian influence, and the square root law of Luo et al."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detect.inspection.effective_field import effective_fields, energy_widths, influence
from detect.inspection.models import NamedMaps, Tap
from detect.inspection.receptive_field import receptive_fields


def stack(depth: int, kernel: int = 3) -> NamedMaps:
    """Convolutions of equal weights."""
    layers = [nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False) for _ in range(depth)]
    for layer in layers:
        nn.init.constant_(layer.weight, 1 / kernel**2)
    return NamedMaps(nn.Sequential(*layers), [Tap(("",), "{}", "C")], in_channels=1)


def field_of(maps: NamedMaps) -> float:
    return effective_fields(maps, receptive_fields(maps)[0])["C0"][0]


def test_the_width_holds_the_energy_by_hand():
    energy = torch.tensor([[1.0, 2, 10, 2, 1]])
    assert [energy_widths(energy, (0.5, 2.5), share)[1] for share in (0.5, 0.7, 0.9, 1.0)] == [1, 3, 5, 5]


def test_without_influence_the_width_is_zero():
    assert energy_widths(torch.zeros(3, 3), (1.5, 1.5)) == (0, 0)


def test_equal_weights_of_one_layer_use_all_of_the_field():
    assert field_of(stack(1, kernel=9)) == 9


def test_the_effective_field_grows_with_the_root_of_the_depth():
    # Luo et al. 2016, section 2: sqrt(n), while the whole field grows with n
    few, many = field_of(stack(9)), field_of(stack(36))
    assert many / few == pytest.approx(2, abs=0.3)


def test_the_influence_is_the_squared_kernel():
    net = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    maps = NamedMaps(net, [Tap(("",), "{}", "C")], in_channels=1)
    found = influence(maps, "C0", torch.zeros(1, 1, 5, 5))
    own = net.weight.detach().double()[0, 0].square()
    torch.testing.assert_close(found[1:4, 1:4] / found.sum(), own / own.sum())


def test_weights_and_their_gradients_are_left_as_they_are():
    maps = stack(2)
    field_of(maps)
    assert all(each.grad is None and each.requires_grad for each in maps.parameters())
