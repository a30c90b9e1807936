"""The levels that a head reads: a feature pyramid over a backbone's maps, and convolutions for coarser levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from detect.detectors.backbones import Backbone
from detect.errors import ConfigError
from detect.heads.fpn import FeatureMaps, FeaturePyramid, list_maps


class PyramidLevels(FeaturePyramid):
    """A feature pyramid over the maps of a backbone that returns the levels of some strides.

    If exactly two levels, of 2 and 4 times the coarsest map's stride, are coarser than the maps, they are RetinaNet's P6 and
    P7, made from that map. Any other coarser levels are made by convolutions of stride 2, each on the level before. Layers
    that no level needs are left out, so every weight gets a gradient.

    >>> from detect.detectors.backbones import build_backbone
    >>> pyramid = PyramidLevels(build_backbone("tiny", strides=(8, 16, 32)), (8, 64), channels=4)
    >>> maps = [torch.zeros(1, channels, size, size) for channels, size in ((48, 16), (64, 8), (96, 4))]
    >>> [tuple(level.shape) for level in pyramid(maps)]
    [(1, 4, 16, 16), (1, 4, 2, 2)]

    Args:
        backbone: its maps are the input.
        strides: of the levels in pixels, fine to coarse.
        channels: of every level.
        generator: draws the weights; by default torch's global one.

    Raises:
        ConfigError: there is no stride, or one that is neither the backbone's nor its coarsest times a power of 2.
    """

    def __init__(
        self, backbone: Backbone, strides: Sequence[int], *, channels: int, generator: Generator | None = None
    ) -> None:
        _check(strides, backbone.strides)
        top = backbone.strides[-1]
        coarser = [stride for stride in strides if stride > top]
        as_retinanet = coarser == [2 * top, 4 * top] != list(strides)
        finest = sum(stride < min(strides) for stride in backbone.strides)
        finest = min(finest, len(backbone.strides) - 1)
        super().__init__(
            backbone.channels[finest:], channels, extra="c5" if as_retinanet else None, generator=generator
        )
        self.strides = tuple(strides)
        self.finest = finest
        self.map_strides = backbone.strides[finest:]
        doublings = 0 if as_retinanet or not coarser else (coarser[-1] // top).bit_length() - 1
        self.coarser = nn.ModuleList(_strided_conv(channels, generator) for _ in range(doublings))
        for level, stride in enumerate(self.map_strides):
            if stride not in strides and not (doublings and stride == top):
                self.output[level] = nn.Identity()
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    def forward(self, maps: FeatureMaps) -> list[Float[Tensor, "b _ _ _"]]:
        """One map for each stride."""
        levels = super().forward(list_maps(maps)[self.finest :])
        for conv in self.coarser:
            levels.append(conv(functional.relu(levels[-1])))
        top = self.map_strides[-1]
        strides = [*self.map_strides, *(top << n for n in range(1, 1 + len(levels) - len(self.map_strides)))]
        return [levels[strides.index(stride)] for stride in self.strides]


def _strided_conv(channels: int, generator: Generator | None) -> nn.Conv2d:
    """A convolution of stride 2 with weights drawn as those of the pyramid."""
    conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1, generator=generator)
    conv.bias = nn.Parameter(torch.zeros(channels))
    return conv


def _check(strides: Sequence[int], map_strides: Sequence[int]) -> None:
    doubled = {map_strides[-1] << n for n in range(1, 20)}
    wrong = [stride for stride in strides if stride not in map_strides and stride not in doubled]
    if wrong or not strides:
        raise ConfigError(
            f"levels of strides {list(strides)} need maps of {wrong}: the backbone's have {list(map_strides)}, and only "
            f"{map_strides[-1]} can be doubled"
        )
