"""Heads for keypoints: heatmaps of one stride, from which points are read, and counts of a whole image.

Maps are (b, channels, h, w) with the rows and columns of the feature map. Offsets and sizes are in cells, x before y.
:mod:`detect.keypoints.targets` makes the maps that these heads learn.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from detect.heads.fpn import FeatureMaps, channels_differ, list_maps
from detect.heads.retinanet import Tower, check_norm, conv
from detect.ops.array_kinds import check_maps

HEATMAP_PRIOR = 0.1  # the code of Law and Deng 2018 and Zhou et al. 2019 sets the last bias to -2.19
RATE = 1e-3  # keypoints per cell at the start: about 16 in a map of 128 x 128


class HeatmapOutput(NamedTuple):
    """Logits of a heatmap for each keypoint type, and the maps that all types share, if the head has them."""

    logits: Float[Tensor, "b j h w"]
    offsets: Float[Tensor, "b 2 h w"] | None  # point minus cell centre, in cells
    sizes: Float[Tensor, "b 2 h w"] | None  # width and height
    orientations: Float[Tensor, "b 2 h w"] | None  # cosine and sine, of any length: the angle is atan2(sine, cosine)


class HeatmapHead(nn.Module):
    """Heatmaps of keypoints from one feature map and, as an option, offsets, sizes and orientations.

    The heatmaps have one tower of convolutions; the optional maps share a second one.

    >>> head = HeatmapHead(in_channels=16, num_types=3, offset=True)
    >>> output = head(torch.zeros(2, 16, 8, 10))
    >>> output.logits.shape, output.offsets.shape, output.sizes, round(output.logits.sigmoid().mean().item(), 4)
    (torch.Size([2, 3, 8, 10]), torch.Size([2, 2, 8, 10]), None, 0.1)

    Args:
        offset: predict where in its cell a point lies.
        size: predict the width and height of its object.
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
        offset: bool = False,
        size: bool = False,
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
        self.shared_tower = Tower(channels, norm, 1, generator) if offset or size or orientation else None
        self.offset_output, self.size_output, self.orientation_output = (
            conv(channels[-1], 2, generator) if wanted else None for wanted in (offset, size, orientation)
        )
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    def forward(self, features: FeatureMaps) -> HeatmapOutput:
        """Maps with the rows and columns of the feature map, which may come in a list or mapping of one."""
        cells = _only_map(features, self.in_channels).contiguous(memory_format=torch.channels_last)
        logits = self.heatmap_output(self.heatmap_tower(cells, 0))
        if self.shared_tower is None:
            return HeatmapOutput(logits, None, None, None)
        shared = self.shared_tower(cells, 0)
        outputs = (self.offset_output, self.size_output, self.orientation_output)
        return HeatmapOutput(logits, *(None if output is None else output(shared) for output in outputs))


class ImageOutput(NamedTuple):
    """For each image and keypoint type: the expected count, at least 0, and the logit that there is any."""

    counts: Float[Tensor, "b j"]
    presence: Float[Tensor, "b j"]


class ImageHead(nn.Module):
    """Predicts the number of keypoints of each type in an image and whether there are any.

    A count is the sum over cells of a rate >= 0, so it grows with the image: two images side by side have the sum of their
    counts. Presence is predicted from the maximum of each feature over the cells. Train counts with
    ``torch.nn.functional.poisson_nll_loss(counts, ..., log_input=False)`` or an L1 loss, and presence with a binary
    cross-entropy.

    >>> head = ImageHead(in_channels=16, num_types=3)
    >>> output = head(torch.zeros(2, 16, 8, 10))
    >>> output.counts.shape, output.presence.shape
    (torch.Size([2, 3]), torch.Size([2, 3]))

    Args:
        hidden_channels: channels of the layer before pooling; by default ``in_channels``.
        rate: keypoints per cell at the start.
        prior: probability of presence at the start.
        generator: draws the weights; by default torch's global one.
    """

    def __init__(
        self,
        in_channels: int,
        num_types: int,
        *,
        hidden_channels: int | None = None,
        rate: float = RATE,
        prior: float = 0.5,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        hidden = in_channels if hidden_channels is None else hidden_channels
        _check_arguments(in_channels, num_types, hidden, 0, prior)
        if not 0 < rate < math.inf:
            raise ValueError(f"need a positive rate, got {rate}")
        self.in_channels = in_channels
        self.hidden = conv(in_channels, hidden, generator, kernel=1)
        self.rates = conv(hidden, num_types, generator, kernel=1, bias=math.log(math.expm1(rate)))
        self.presence = conv(hidden, num_types, generator, kernel=1, bias=math.log(prior / (1 - prior)))

    def forward(self, features: FeatureMaps) -> ImageOutput:
        """Counts and presence."""
        hidden = functional.relu(self.hidden(_only_map(features, self.in_channels)))
        rates = functional.softplus(self.rates(hidden).float())  # half precision cannot sum thousands of cells
        largest = hidden.amax(dim=(2, 3), keepdim=True)
        return ImageOutput(rates.sum(dim=(2, 3)), self.presence(largest).flatten(1))


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
    if channels_differ(maps, [in_channels]):
        raise ValueError(f"the head reads maps of {in_channels} channels, got {maps[0].shape[1]}")
    return maps[0]
