"""Backbones: the sizes and channels that they promise, for any image."""

from __future__ import annotations

import copy

import pytest
import torch
from builders import random_images
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from detect.detectors.backbones import Normalise, build_backbone
from detect.errors import ConfigError

EXTERNAL = ["timm:resnet18", "torchvision:resnet18"]


@given(height=st.integers(1, 90), width=st.integers(1, 90))
def test_maps_of_the_tiny_network_cover_images_of_any_size(height, width):
    backbone = build_backbone("tiny", strides=(2, 8, 32), in_channels=1, seed=0)
    maps = backbone(torch.zeros(1, 1, height, width))
    assert [cells.shape[1:] for cells in maps] == [
        (channels, -(-height // stride), -(-width // stride)) for channels, stride in ((16, 2), (48, 8), (96, 32))
    ]


def test_the_tiny_network_is_the_recipe_s():
    backbone = build_backbone("tiny", strides=(2, 4, 8, 16, 32))
    assert backbone.channels == (16, 32, 48, 64, 96)
    stem = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    assert (stem.kernel_size, stem.stride, stem.in_channels) == ((5, 5), (2, 2), 3)


@pytest.mark.parametrize("name", ["tiny", *EXTERNAL])
def test_no_layer_is_without_use(name):
    backbone = build_backbone(name, strides=(4, 8), in_channels=1, seed=0)
    sum(cells.sum() for cells in backbone(torch.ones(2, 1, 32, 32))).backward()
    assert backbone.strides == (4, 8)
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize("name", ["tiny", *EXTERNAL])
def test_a_seed_gives_the_weights_and_leaves_the_global_generator_alone(name):
    before = torch.random.get_rng_state()
    first, again, other = (build_backbone(name, strides=(4,), seed=seed).state_dict() for seed in (3, 3, 4))
    assert_close(torch.random.get_rng_state(), before, rtol=0, atol=0)
    assert_close(first, again, rtol=0, atol=0)
    assert any((first[key] != other[key]).any() for key in first)


def test_without_a_seed_weights_differ():
    first, second = (next(build_backbone("tiny", strides=(4,)).parameters()) for _ in range(2))
    assert (first != second).any()


@pytest.mark.parametrize("name", ["tiny", *EXTERNAL])
def test_a_copy_computes_the_same(name):
    """Averages of weights and exports are made from copies."""
    backbone = build_backbone(name, strides=(4, 8), in_channels=1, seed=0)
    twin = copy.deepcopy(backbone).eval()
    images = random_images(1, 1, 32, 40)
    assert_close(twin(images), backbone.eval()(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("large", {}, "no backbone 'large'"),
        ("tiny:2", {}, "no backbone 'tiny:2'"),
        ("timm", {}, "no backbone 'timm'"),
        ("tiny", {"strides": (4, 6)}, r"has maps of strides \[2, 4, 8, 16, 32\], not of 6"),
        ("tiny", {"strides": (1, 2)}, "not of 1"),
        ("tiny", {"strides": ()}, "need strides"),
        ("tiny", {"in_channels": 0}, "need strides and channels from 1"),
        ("tiny", {"pretrained": True}, "no pretrained weights"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(name, **{"strides": (4,), **options})


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="reads images of 1 channels, got 3"):
        build_backbone("tiny", strides=(4,), in_channels=1)(torch.zeros(1, 3, 8, 8))


def test_coarser_strides_than_the_network_s_leave_its_coarsest():
    assert build_backbone("tiny", strides=(64, 128)).strides == (32,)


def test_normalised_channels_have_their_own_mean_and_deviation():
    normalise = Normalise(2, mean=(0.5, 1.0), std=(2.0, 4.0))
    assert_close(normalise(torch.ones(1, 2, 1, 1)).flatten(), torch.tensor([0.25, 0.0]))  # .5 / 2 and 0 / 4
    assert list(normalise.state_dict()) == ["mean", "std"]


@pytest.mark.parametrize(("mean", "std"), [((0.0, 0.0), (1.0,)), ((0.0,), (0.0,)), ((0.0,), (1.0, float("nan"), 1.0))])
def test_wrong_means_and_deviations_are_named(mean, std):
    with pytest.raises(ConfigError, match="one for each of 3 channels"):
        Normalise(3, mean=mean, std=std)


def test_the_former_name_of_the_tiny_network_is_accepted():
    old, new = (build_backbone(name, strides=(4,), in_channels=1, seed=0) for name in ("small", "tiny"))
    assert old.name == new.name == "tiny"
    assert_close(old.state_dict(), new.state_dict(), rtol=0, atol=0)
