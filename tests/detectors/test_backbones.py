"""Backbones: the sizes and channels that they promise, for any image."""

from __future__ import annotations

import copy

import pytest
import torch
from builders import random_images
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from detect.detectors.backbones import Backbone, Normalise, PyramidLevels, build_backbone
from detect.errors import ConfigError
from detect.heads.fpn import FeaturePyramid

OWN = (4, 8, 16)
EXTERNAL = ["timm:resnet18", "torchvision:resnet18"]


@given(height=st.integers(1, 90), width=st.integers(1, 90))
def test_maps_of_the_tiny_network_cover_images_of_any_size(height, width):
    backbone = build_backbone("tiny", strides=(2, 8, 32), in_channels=1, seed=0)
    maps = backbone(torch.zeros(1, 1, height, width))
    assert [cells.shape[1:] for cells in maps] == [
        (channels, -(-height // stride), -(-width // stride)) for channels, stride in ((16, 2), (48, 8), (96, 32))
    ]


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
        ("tiny", {"pretrained": True}, "'tiny' has no pretrained weights: lite0 has"),
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


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone("tiny", strides=OWN, in_channels=1, seed=0)


@given(strides=st.sets(st.sampled_from((4, 8, 16, 32, 64, 128, 256)), min_size=1))
def test_every_choice_of_levels_has_its_sizes_and_trains_all_its_weights(strides, backbone):
    pyramid = PyramidLevels(backbone, sorted(strides), channels=4)
    levels = pyramid([torch.ones(1, channels, 64 // s, 96 // s) for channels, s in zip((32, 48, 64), OWN, strict=True)])
    assert [level.shape[-2:] for level in levels] == [(-(-64 // s), -(-96 // s)) for s in sorted(strides)]
    sum(level.square().sum() for level in levels).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


def test_with_p6_and_p7_it_is_retinanet_s_pyramid(backbone):
    own = PyramidLevels(backbone, (4, 8, 16, 32, 64), channels=8, generator=torch.Generator().manual_seed(0))
    other = FeaturePyramid((32, 48, 64), 8, extra="c5", generator=torch.Generator().manual_seed(1))
    other.load_state_dict(own.state_dict())
    maps = backbone(torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert_close(own({f"res{number}": cells for number, cells in enumerate(maps)}), other(maps))


def test_a_level_does_not_depend_on_which_others_are_given(backbone):
    """Without its own output a coarser map still tells the finer ones what it knows."""
    maps = backbone(torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
    some, every = (PyramidLevels(backbone, strides, channels=8) for strides in ((4,), (4, 8, 16)))
    some.load_state_dict(every.state_dict(), strict=False)
    assert_close(some(maps)[0], every(maps)[0])
    assert (some([*maps[:2], maps[2] + 1])[0] != every(maps)[0]).any()


def test_levels_beyond_are_convolutions_of_the_positive_part_of_the_one_before(backbone):
    pyramid = PyramidLevels(backbone, (16, 32), channels=8)
    last, beyond = pyramid(backbone(torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))))
    assert (last < 0).any()
    assert_close(beyond, pyramid.coarser[0](last.clamp(min=0)))


def test_the_generator_draws_all_weights(backbone):
    first, again = (
        PyramidLevels(backbone, (4, 256), channels=4, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert_close(first.state_dict(), again.state_dict(), rtol=0, atol=0)
    assert (first.coarser[0].weight != first.coarser[1].weight).any()


@pytest.mark.parametrize(("strides", "wrong"), [((2, 4), 2), ((4, 12), 12), ((16, 48), 48)])
def test_levels_that_cannot_be_made_are_named(strides, wrong, backbone):
    with pytest.raises(ConfigError, match=rf"need maps of \[{wrong}\]: the backbone's have \[4, 8, 16\]"):
        PyramidLevels(backbone, strides, channels=4)


def test_no_level_is_a_mistake(backbone):
    with pytest.raises(ConfigError):
        PyramidLevels(backbone, (), channels=4)
