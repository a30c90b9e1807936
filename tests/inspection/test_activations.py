"""Maps and filters of small networks, and the similarity of maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import nn
from torch.testing import assert_close

from detect.errors import ConfigError
from detect.inspection.activations import (
    LevelMaps,
    channel_correlation,
    compare_levels,
    filter_banks,
    level_maps,
    linear_cka,
)
from detect.inspection.models import build_model, model_of


def random_maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_maps_are_those_of_the_network_and_have_its_strides():
    model, image = build_model("tiny"), torch.rand(3, 37, 90)
    levels = level_maps(model, image)
    with torch.no_grad():
        expected = model.module(image[None])
    assert [level.stride for level in levels] == [4, 8, 16, 32]
    for level, cells in zip(levels, expected, strict=True):
        assert_close(level.cells, cells[0], rtol=0, atol=0)


def test_layers_are_found_by_name_and_a_wrong_one_is_named():
    model = build_model("tiny")
    (level,) = level_maps(model, torch.rand(3, 32, 32), ["stem.0"])
    assert (level.name, level.stride, tuple(level.cells.shape)) == ("stem.0", 2, (16, 16, 16))
    with pytest.raises(ConfigError, match=r"no layer 'stem.9'"):
        level_maps(model, torch.rand(3, 32, 32), ["stem.9"])


def test_an_image_on_which_the_model_fails_is_a_clear_error():
    model = model_of("mine", nn.Conv2d(3, 2, 31))
    with pytest.raises(ConfigError, match=r"model 'mine': fails on an image of \(3, 9, 9\)"):
        level_maps(model, torch.rand(3, 9, 9))


def test_channels_are_ordered_by_how_much_they_vary():
    cells = torch.stack([torch.full((4, 5), 90.0), random_maps(4, 5), 3 * random_maps(4, 5, seed=1)])
    level = LevelMaps("C3", cells, 8)
    assert level.order.tolist() == [2, 1, 0]
    assert level.num_constant == 1
    around = cells.numpy() - cells.numpy().mean(axis=(1, 2), keepdims=True)
    assert_allclose(level.energy.numpy(), np.sqrt((around**2).mean(axis=0)), rtol=1e-5)


def test_filters_are_the_first_ones_and_others_that_have_more_than_one_cell():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 5, (1, 3)), nn.ReLU()
    )
    assert [bank.name for bank in filter_banks(module, 9)] == ["0", "1", "3"]
    assert [bank.name for bank in filter_banks(module, 2)] == ["0", "3"]
    assert [bank.name for bank in filter_banks(module, 1)] == ["0"]
    assert filter_banks(nn.ReLU(), 3) == []
    assert_close(filter_banks(module, 2)[1].weights, module[3].weight.detach(), rtol=0, atol=0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.integers(1, 9))
def test_similarity_is_one_for_rotated_and_scaled_channels(seed, channels):
    cells = random_maps(channels, 5, 6, seed=seed).double()
    rotation = torch.linalg.qr(random_maps(channels, channels, seed=seed + 1).double()).Q
    rotated = 7 * torch.einsum("de,ehw->dhw", rotation, cells) + 3
    assert_allclose(linear_cka(cells, rotated), 1, atol=1e-9)


def test_similarity_of_unrelated_maps_is_zero_on_average_although_channels_outnumber_cells():
    values = [linear_cka(random_maps(64, 4, 4, seed=2 * n), random_maps(64, 4, 4, seed=2 * n + 1)) for n in range(60)]
    assert abs(np.mean(values)) < 0.05  # the plain estimate is above .8


def test_similarity_is_the_unbiased_estimate_written_as_a_sum_over_distinct_cells():
    x, y = (random_maps(3, 2, 4, seed=seed).double() for seed in (0, 1))

    def hsic(first, second):
        k, l = ((f := cells.flatten(1).T) @ f.T for cells in (first, second))  # noqa: E741
        n, total = 8, 0.0
        for i in range(n):
            for j in range(n):
                for q in range(n):
                    for r in range(n):
                        if len({i, j, q, r}) == 4:  # Song et al. 2012, equation 4, before its terms are collected
                            total += float(k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]))
        return total / (n * (n - 1) * (n - 2) * (n - 3))

    assert_allclose(linear_cka(x, y), hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y)))


def test_similarity_takes_cells_evenly_from_large_maps_and_is_undefined_for_constant_or_tiny_ones():
    cells = random_maps(4, 80, 90)
    assert_allclose(linear_cka(cells, 2 * cells), 1)
    assert math.isnan(linear_cka(torch.zeros(2, 4, 4), random_maps(2, 4, 4)))
    assert math.isnan(linear_cka(random_maps(2, 1, 3), random_maps(2, 1, 3)))


def test_correlation_is_numpys_and_the_median_of_the_channels():
    x, y = random_maps(5, 3, 7), random_maps(5, 3, 7, seed=1)
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    assert_allclose(channel_correlation(x, y), np.median(expected), rtol=1e-5)
    assert math.isnan(channel_correlation(x, y[:4]))
    assert math.isnan(channel_correlation(torch.zeros(2, 3, 3), random_maps(2, 3, 3)))


def test_only_levels_of_the_same_name_and_size_are_compared():
    first = [LevelMaps("C3", random_maps(4, 8, 8), 8), LevelMaps("C4", random_maps(4, 4, 4), 16)]
    second = [LevelMaps("C4", random_maps(4, 5, 5), 16), LevelMaps("C3", random_maps(6, 8, 8, seed=1), 8)]
    (found,) = compare_levels(first, second)
    assert found.name == "C3"
    assert abs(found.similarity) < 0.5
    assert math.isnan(found.correlation)
    assert compare_levels(first, []) == []
