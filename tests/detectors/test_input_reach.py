"""The measured reach of a network is that of its layers, and None if one of them is over the whole image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detect.detectors.backbones import Backbone, build_backbone
from detect.detectors.input_reach import InputReach, measure_reach
from detect.detectors.landmarks import LandmarkDetector


class Convolutions(nn.Module):
    """A map of stride 2: a 5 x 7 convolution of stride 2 and, if wanted, an operation over the whole image."""

    def __init__(self, whole: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, (5, 7), stride=2, padding=(2, 3))
        self.whole = whole

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        cells = self.conv(images)
        return [cells if self.whole is None else cells * self.whole(cells)]


def detector(model: nn.Module) -> LandmarkDetector:
    backbone = Backbone("own", model, in_channels=1, multiple=2)
    return LandmarkDetector(backbone, stride=2, pyramid_channels=8, num_convs=1, seed=0).eval()


def test_convolutions_by_hand():
    # cell c of the first reads pixels 2c - 2 to 2c + 2 (2c - 3 to 2c + 3 along x); the pyramid's, the tower's and the output
    # convolution of 3 x 3 add three cells of 2 pixels on each side; a cell covers the pixels 2c and 2c + 1
    assert measure_reach(detector(Convolutions())) == InputReach(before=(8, 9), after=(7, 8), multiple=2)


@pytest.mark.parametrize(
    "whole", [nn.GroupNorm(2, 8), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())]
)
def test_norms_over_the_image_and_squeeze_and_excitation_reach_everywhere(whole):
    assert measure_reach(detector(Convolutions(whole))) is None


def test_batch_norm_does_not():
    assert measure_reach(detector(Convolutions(nn.BatchNorm2d(8)))) == measure_reach(detector(Convolutions()))


@pytest.mark.parametrize("name", ["lite0", "torchvision:resnet18"])
def test_what_is_beyond_the_reach_changes_nothing_and_what_is_within_does(name):
    pytest.importorskip("torchvision")
    model = LandmarkDetector(build_backbone(name, strides=(2, 4, 8), in_channels=1, seed=0), stride=2, seed=0).eval()
    reach = measure_reach(model)
    assert reach is not None
    random = torch.Generator().manual_seed(0)
    images = torch.rand(1, 1, 256, 288, generator=random)
    other = torch.rand(1, 1, 256, 288, generator=random)
    first, last = 50, 70  # cells
    y, x = (
        slice(max(first * 2 - before, 0), last * 2 + after)
        for before, after in zip(reach.before, reach.after, strict=True)
    )
    other[..., y, x] = images[..., y, x]
    with torch.no_grad():
        maps, others = (model(each).logits[..., first:last, first:last] for each in (images, other))
        torch.testing.assert_close(maps, others, rtol=0, atol=1e-5)
        images[..., first * 2, first * 2] += 1
        assert not model(images).logits[..., first:last, first:last].isclose(maps, atol=1e-5).all()
