from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import nn
from torch.testing import assert_close

from detect.inspection.random_weights import random_weights, rank_correlation


def network():
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 1, 3, padding=1)]
    return nn.Sequential(*layers).double()


def bits(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_every_weight_is_another_inside_and_every_bit_as_before_afterwards():
    module = network()
    before = bits(module)
    with random_weights(module):
        inside = bits(module)
        module(torch.rand(2, 1, 8, 8, dtype=torch.float64))  # in training mode: the running statistics move too
    for name in ("0.weight", "0.bias", "3.weight"):
        assert (inside[name] != before[name]).any()
    assert_close(bits(module), before, rtol=0, atol=0)


def test_weights_are_restored_after_an_error():
    module = network()
    before = bits(module)
    with pytest.raises(RuntimeError, match="no map"), random_weights(module):
        raise RuntimeError("no map")
    assert_close(bits(module), before, rtol=0, atol=0)


def test_the_seed_decides_and_the_global_generator_is_neither_used_nor_moved():
    module, state = network(), torch.random.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        torch.rand(3)
        with random_weights(module, seed=seed):
            drawn.append(module[0].weight.detach().clone())
        torch.random.set_rng_state(state)
    assert_close(drawn[0], drawn[1], rtol=0, atol=0)
    assert (drawn[0] != drawn[2]).any()


def test_weights_keep_their_scale_and_vectors_their_values():
    module = nn.Linear(200, 100)
    with torch.no_grad():
        module.weight.mul_(7).add_(1)
    scale, values = module.weight.detach().square().mean(), module.bias.detach().sort().values
    with random_weights(module):
        drawn = module.weight.detach()
        assert_close(drawn.square().mean(), scale, rtol=0.05, atol=0)
        assert abs(float(drawn.mean())) < 0.2  # around 0
        assert_close(module.bias.detach().sort().values, values, rtol=0, atol=0)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 9999))
def test_rank_correlation_is_scipys_of_absolute_values(seed):
    random = np.random.default_rng(seed)
    first, second = random.integers(-4, 5, (2, 6, 7)).astype(float)
    expected = scipy.stats.spearmanr(np.abs(first).ravel(), np.abs(second).ravel()).statistic
    assert_allclose(rank_correlation(torch.tensor(first), torch.tensor(second)), expected, atol=1e-9)


@pytest.mark.parametrize("bad", [torch.zeros(4, 4), torch.full((4, 4), -2.0), torch.full((4, 4), torch.nan)])
def test_constant_and_infinite_maps_have_no_correlation(bad):
    assert math.isnan(rank_correlation(torch.rand(4, 4), bad))


def test_a_shared_weight_is_drawn_and_restored():
    module = nn.ModuleDict({"first": nn.Linear(3, 3), "tied": nn.Linear(3, 3)})
    module["tied"].weight = module["first"].weight
    before = bits(module)
    with random_weights(module):
        assert (module["first"].weight != before["first.weight"]).any()
    assert_close(bits(module), before, rtol=0, atol=0)


def test_maps_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"different shapes: \(2, 2\) and \(2, 3\)"):
        rank_correlation(torch.rand(2, 2), torch.rand(2, 3))
