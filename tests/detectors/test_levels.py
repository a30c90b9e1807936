"""Levels for the head: those of the backbone, those beyond it, and none that nobody asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from detect.detectors.backbones import Backbone, build_backbone
from detect.detectors.levels import PyramidLevels
from detect.errors import ConfigError
from detect.heads.fpn import FeaturePyramid

OWN = (4, 8, 16)


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
    assert_close(own(maps), other(maps))


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
