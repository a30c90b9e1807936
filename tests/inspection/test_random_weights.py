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

from detect.inspection.random_weights import (
    random_weights,
    rank_correlation,
    sanity_steps,
    similarity,
    weighted_layers,
)


def network():
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 1, 3, padding=1)
        ).double()


def bits(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def edges(image):
    """An edge detector, which has no weights to randomise."""
    return image.diff(dim=1, append=image[:, -1:]).abs() + image.diff(dim=0, append=image[-1:]).abs()


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


def test_only_the_chosen_layers_are_drawn_and_a_shared_weight_is_restored():
    module = nn.ModuleDict({"first": nn.Linear(3, 3), "last": nn.Linear(3, 3)})
    module["tied"] = nn.Linear(3, 3)
    module["tied"].weight = module["first"].weight
    before = bits(module)
    with random_weights(module, ["last", "tied"]):
        assert_close(module["first"].bias, before["first.bias"], rtol=0, atol=0)
        assert_close(module["first"].weight, module["tied"].weight, rtol=0, atol=0)
        assert (module["first"].weight != before["first.weight"]).any()
    assert_close(bits(module), before, rtol=0, atol=0)


def test_an_edge_detector_looks_the_same_with_random_weights():
    image = torch.rand(16, 16)
    (step,) = sanity_steps(network(), edges(image), lambda: edges(image))
    assert (step.num_random, step.correlation) == (3, 1.0)
    assert_allclose(step.ssim, 1.0)


def test_what_a_planted_network_looks_at_is_gone_with_random_weights():
    module = nn.Linear(256, 1, bias=False).double()
    with torch.no_grad():
        module.weight.zero_()
        module.weight.reshape(16, 16)[4:8, 3:9] = 5.0
    heatmap = module.weight.detach().reshape(16, 16).clone()
    (step,) = sanity_steps(module, heatmap, lambda: module.weight.detach().reshape(16, 16).clone())
    assert abs(step.correlation) < 0.2
    assert step.ssim < 0.5


def test_a_cascade_goes_from_the_last_layer_to_the_first():
    module, seen = network(), []
    before = bits(module)

    def attribute():
        seen.append({name for name, value in module.state_dict().items() if (value != before[name]).any()})
        return module[0].weight.detach().abs().sum(dim=(0, 1)) + module[3].weight.detach().abs().sum(dim=(0, 1))

    steps = sanity_steps(module, attribute(), attribute, num_steps=3)
    assert weighted_layers(module) == ["0", "1", "3"]
    assert [step.num_random for step in steps] == [1, 2, 3]
    assert seen[1:3] == [{"3.weight"}, {"3.weight"}]  # a bias of one number and the equal scales of the norm stay
    assert seen[3] == {"0.weight", "0.bias", "3.weight"}


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 9999))
def test_rank_correlation_is_scipys_of_absolute_values(seed):
    random = np.random.default_rng(seed)
    first, second = random.integers(-4, 5, (2, 6, 7)).astype(float)
    expected = scipy.stats.spearmanr(np.abs(first).ravel(), np.abs(second).ravel()).statistic
    assert_allclose(rank_correlation(torch.tensor(first), torch.tensor(second)), expected, atol=1e-9)


def test_similarity_is_the_mean_over_windows():
    random = np.random.default_rng(0)
    first, second = random.random((2, 9, 11))
    second[2:5] = first[2:5]
    x, y = (np.pad(each / each.max(), 3, mode="symmetric") for each in (first, second))
    values = []
    for row in range(9):
        for column in range(11):
            a, b = (each[row : row + 7, column : column + 7] for each in (x, y))
            covariance = ((a - a.mean()) * (b - b.mean())).mean()
            level = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
            values.append(level * (2 * covariance + 9e-4) / (a.var() + b.var() + 9e-4))
    assert_allclose(similarity(torch.tensor(first), torch.tensor(second)), np.mean(values))


@pytest.mark.parametrize("bad", [torch.zeros(4, 4), torch.full((4, 4), -2.0), torch.full((4, 4), torch.nan)])
def test_constant_and_infinite_maps_have_no_similarity(bad):
    assert math.isnan(rank_correlation(torch.rand(4, 4), bad))
    assert math.isnan(similarity(bad, torch.rand(4, 4)))


def test_errors():
    with pytest.raises(ValueError, match="need a layer with weights and a step, got 0 layers"):
        sanity_steps(nn.ReLU(), torch.rand(2, 2), lambda: torch.rand(2, 2))
    with pytest.raises(ValueError, match=r"different shapes: \(2, 2\) and \(2, 3\)"):
        sanity_steps(network(), torch.rand(2, 2), lambda: torch.rand(2, 3))
