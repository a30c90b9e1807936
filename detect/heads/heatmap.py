"""Heads for keypoints: heatmaps of one stride, from which points are read.

Maps are (b, channels, h, w) with the rows and columns of the feature map.
:mod:`detect.keypoints.targets` makes the maps that they learn.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from detect.heads.fpn import FeatureMaps, list_maps
from detect.heads.retinanet import Tower, check_norm, conv
from detect.ops.array_kinds import check_maps

HEATMAP_PRIOR = 0.1  # the code of Law and Deng 2018 and Zhou et al. 2019 sets the last bias to -2.19


class HeatmapOutput(NamedTuple):
    """Logits of a heatmap for each keypoint type, and the orientations that all types share, if the head has them."""

    logits: Float[Tensor, "b j h w"]
    orientations: Float[Tensor, "b 2 h w"] | None  # cosine and sine, of any length: the angle is atan2(sine, cosine)


class HeatmapHead(nn.Module):
    """Heatmaps of keypoints from one feature map and, as an option, orientations, each with a tower of convolutions.

    >>> head = HeatmapHead(in_channels=16, num_types=3, orientation=True)
    >>> output = head(torch.zeros(2, 16, 8, 10))
    >>> output.logits.shape, output.orientations.shape, round(output.logits.sigmoid().mean().item(), 4)
    (torch.Size([2, 3, 8, 10]), torch.Size([2, 2, 8, 10]), 0.1)

    Args:
        orientation: predict the direction of its object.
        num_convs: convolutions of a tower, without the output convolution.
        hidden_channels: channels of the towers; by default ``in_channels``.
        norm: after each convolution of a tower, which then has no bias: None, ``"group"`` (32 groups) or ``"batch"``.
        prior: probability of a keypoint in every cell at the start.
        generator: draws the weights; by default torch's global one.
    """

    def __init__(
        self,
        in_channels: int,
        num_types: int,
        *,
        orientation: bool = False,
        num_convs: int = 1,
        hidden_channels: int | None = None,
        norm: str | None = None,
        prior: float = HEATMAP_PRIOR,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_types = num_types
        hidden = in_channels if hidden_channels is None else hidden_channels
        _check_arguments(in_channels, num_types, hidden, num_convs, prior)
        check_norm(norm, hidden)
        channels = [in_channels] + [hidden] * num_convs
        self.heatmap_tower = Tower(channels, norm, 1, generator)
        self.heatmap_output = conv(channels[-1], num_types, generator, bias=math.log(prior / (1 - prior)))
        self.orientation_tower = Tower(channels, norm, 1, generator) if orientation else None
        self.orientation_output = conv(channels[-1], 2, generator) if orientation else None
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    def forward(self, features: FeatureMaps) -> HeatmapOutput:
        """Maps with the rows and columns of the feature map, which may come in a list or mapping of one."""
        cells = _only_map(features, self.in_channels).contiguous(memory_format=torch.channels_last)
        logits = self.heatmap_output(self.heatmap_tower(cells, 0))
        if self.orientation_tower is None or self.orientation_output is None:
            return HeatmapOutput(logits, None)
        return HeatmapOutput(logits, self.orientation_output(self.orientation_tower(cells, 0)))


def _check_arguments(in_channels: int, num_types: int, hidden_channels: int, num_convs: int, prior: float) -> None:
    if min(in_channels, num_types, hidden_channels) < 1 or num_convs < 0 or not 0 < prior < 1:
        raise ValueError(
            "need in_channels, num_types and hidden_channels from 1, num_convs from 0 and a prior between 0 and 1, got "
            f"{in_channels}, {num_types}, {hidden_channels}, {num_convs} and {prior}"
        )


def _only_map(features: FeatureMaps, in_channels: int) -> Float[Tensor, "b d h w"]:
    maps = list_maps(features)
    if len(maps) != 1:
        raise ValueError(f"the head reads one feature map, got {len(maps)}: choose the level of its stride")
    check_maps(features=maps[0])
    if maps[0].shape[1] != in_channels:
        raise ValueError(f"the head reads maps of {in_channels} channels, got {maps[0].shape[1]}")
    return maps[0]
