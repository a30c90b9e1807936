from __future__ import annotations

import math

import pytest
import torch
from torch import Generator
from torch.nn import functional
from torch.testing import assert_close

from detect.heads.heatmap import HeatmapHead, HeatmapOutput


def random_map(shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=dtype)


def small_head(**options):
    options = {"in_channels": 6, "num_types": 3, "generator": Generator().manual_seed(1)} | options
    return HeatmapHead(**options)


# by hand


def test_each_output_is_its_tower_and_its_last_convolution():
    head = small_head(orientation=True, num_convs=2)
    features = random_map((2, 6, 5, 7))

    def reference(tower, output):
        cells = features
        for layer in tower.convs:
            cells = functional.relu(functional.conv2d(cells, layer.weight, layer.bias, padding=1))
        return functional.conv2d(cells, output.weight, output.bias, padding=1)

    found = head(features)
    assert isinstance(found, HeatmapOutput)
    assert found.logits.shape == (2, 3, 5, 7)
    assert_close(found.logits, reference(head.heatmap_tower, head.heatmap_output))
    assert_close(found.orientations, reference(head.orientation_tower, head.orientation_output))


def test_the_heatmaps_start_at_the_prior_and_the_other_maps_at_zero():
    # ln(.1 / .9) = -2.197: CenterNet's -2.19
    head = HeatmapHead(64, 2, orientation=True, norm="group", generator=Generator().manual_seed(0))
    assert_close(head.heatmap_output.bias, torch.full((2,), -2.1972246))
    output = head(random_map((1, 64, 16, 16)))
    assert 0.07 < output.logits.sigmoid().mean() < 0.13
    assert output.orientations.abs().mean() < 0.3
    assert_close(small_head(prior=0.01).heatmap_output.bias, torch.full((3,), -math.log(99)))


# learning


# limits


def test_an_empty_batch_is_no_special_case():
    for options in ({}, {"orientation": True, "norm": "batch"}):
        assert small_head(**options).eval()(torch.zeros(0, 6, 4, 5)).logits.shape == (0, 3, 4, 5)


def test_inputs_are_not_written_to():
    features = random_map((2, 6, 4, 5)).contiguous(memory_format=torch.channels_last)
    before = features.clone()
    small_head(orientation=True, num_convs=0)(features)
    small_head(orientation=True)(features)
    assert_close(features, before, rtol=0, atol=0)


@pytest.mark.parametrize("norm", [None, "group", "batch"])
def test_gradients_reach_every_weight(norm):
    head = small_head(in_channels=32, orientation=True, norm=norm)
    sum(cells.square().sum() for cells in head(random_map((2, 32, 6, 6)))).backward()
    assert all(parameter.grad.any() for parameter in head.parameters())


def test_a_generator_decides_the_weights():
    first, second = (small_head(orientation=True).state_dict() for _ in range(2))
    assert_close(dict(first), dict(second), rtol=0, atol=0)


# refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_types": 0}, r"num_types.* from 1.*got 6, 0, 6, 1 and 0\.1"),
        ({"in_channels": 0}, "got 0, 3, 0"),
        ({"hidden_channels": 0}, "got 6, 3, 0"),
        ({"num_convs": -1}, "-1 and"),
        ({"prior": 1.0}, "and 1.0"),
        ({"norm": "layer"}, "'group' or 'batch', got 'layer'"),
        ({"norm": "group"}, "multiple of 32 channels, got 6"),
    ],
)
def test_arguments_that_build_no_head_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_head(**options)


def test_the_map_may_come_in_a_list_or_mapping_of_one():
    features = random_map((2, 6, 4, 5))
    head = small_head(orientation=True)
    for form in ([features], {"p2": features}):
        assert_close(tuple(head(form)), tuple(head(features)), rtol=0, atol=0)
    with pytest.raises(ValueError, match="the head reads one feature map, got 2: choose the level of its stride"):
        head({"p2": features, "p3": features})
    with pytest.raises(ValueError, match="maps of 6 channels, got 5"):
        head(torch.zeros(1, 5, 4, 4))
