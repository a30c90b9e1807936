"""Heads of landmark heatmaps: maps of one stride, from which points are read, and numbers of a whole image.

Maps are (b, channels, h, w) with the rows and columns of the feature map. What lies at the cell of a point is x before y, in
cells; the meaning of all maps is that of the targets they learn from.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from detect.heads.fpn import FeatureMaps, channels_differ, list_maps
from detect.heads.retinanet import GROUPS, Tower, conv

PRIOR = 0.1  # of the code of Law and Deng 2018 and Zhou et al. 2019, where the last bias is -2.19
RATE = 1e-3  # landmarks to a cell at the start: of the order of 10 in a map of 128 x 128


class HeatmapOutput(NamedTuple):
    """Logits of the heatmaps, one for each joint; and, where the head has them, maps that the joints share."""

    logits: Float[Tensor, "b j h w"]
    offsets: Float[Tensor, "b 2 h w"] | None  # point minus centre of the cell, in cells
    sizes: Float[Tensor, "b 2 h w"] | None  # width and height
    orientations: Float[Tensor, "b 2 h w"] | None  # cosine and sine, of any length: the angle is atan2(sine, cosine)


class HeatmapHead(nn.Module):
    """Heatmaps of landmarks from one feature map; if asked for, offsets, sizes and orientations.

    One tower is for the heatmaps, another, which there is only where it is needed, for the other maps.

    >>> head = HeatmapHead(in_channels=16, num_types=3, offset=True)
    >>> output = head(torch.zeros(2, 16, 8, 10))
    >>> output.logits.shape, output.offsets.shape, output.sizes, round(output.logits.sigmoid().mean().item(), 4)
    (torch.Size([2, 3, 8, 10]), torch.Size([2, 2, 8, 10]), None, 0.1)

    Args:
        in_channels: channels of the feature map.
        num_types: types of landmark, each with a heatmap.
        offset: whether to say where in its cell a point lies.
        size: whether to say its object's width and height.
        orientation: whether to say its object's direction.
        num_convs: convolutions of a tower, before the last.
        hidden_channels: channels of the towers; by default ``in_channels``.
        norm: after each convolution of a tower, which then has no bias: None, ``"group"`` (32 groups) or ``"batch"``.
        prior: probability of a landmark at every cell at the start.
        generator: what draws the weights; by default torch's global one.

    Raises:
        ValueError: a number below one (``num_convs``: below zero), a prior not between 0 and 1, an unknown norm, or channels
            that do not divide into groups.
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
        prior: float = PRIOR,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_types = num_types
        hidden = in_channels if hidden_channels is None else hidden_channels
        _check_arguments(in_channels, num_types, hidden, num_convs, prior)
        if norm not in {None, "group", "batch"}:
            raise ValueError(f"norm is None, 'group' or 'batch', got {norm!r}")
        if norm == "group" and hidden % GROUPS:
            raise ValueError(f"norm='group' needs a multiple of {GROUPS} channels, got {hidden}")
        channels = [in_channels] + [hidden] * num_convs
        self.heatmap_tower = Tower(channels, norm, 1, generator)
        self.heatmap_output = conv(channels[-1], num_types, generator, bias=math.log(prior / (1 - prior)))
        self.shared_tower = Tower(channels, norm, 1, generator) if offset or size or orientation else None
        self.offset_output = conv(channels[-1], 2, generator) if offset else None
        self.size_output = conv(channels[-1], 2, generator) if size else None
        self.orientation_output = conv(channels[-1], 2, generator) if orientation else None
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    def forward(self, features: FeatureMaps) -> HeatmapOutput:
        """Maps of as many rows and columns as the feature map, which may come in a list or mapping of one.

        Raises:
            ValueError: several maps, or another number of channels than the head's.
        """
        cells = _only_map(features, self.in_channels).contiguous(memory_format=torch.channels_last)
        logits = self.heatmap_output(self.heatmap_tower(cells, 0))
        if self.shared_tower is None:
            return HeatmapOutput(logits, None, None, None)
        shared = self.shared_tower(cells, 0)
        outputs = (self.offset_output, self.size_output, self.orientation_output)
        return HeatmapOutput(logits, *(None if output is None else output(shared) for output in outputs))


class ImageOutput(NamedTuple):
    """Of each joint in an image: how many there are, at least 0, and the logit of there being any."""

    counts: Float[Tensor, "b j"]
    presence: Float[Tensor, "b j"]


class ImageHead(nn.Module):
    """How many landmarks of each type an image has and whether it has any, from features pooled over its cells.

    Counts are sums over the cells, of a rate that is nowhere negative, so that they grow with the image: two images side by
    side have the sum of their counts. Presence is read from the largest of each feature. Counts learn with
    ``torch.nn.functional.poisson_nll_loss(counts, ..., log_input=False)``, say, or an L1 loss, and presence with a binary
    cross-entropy.

    >>> head = ImageHead(in_channels=16, num_types=3)
    >>> output = head(torch.zeros(2, 16, 8, 10))
    >>> output.counts.shape, output.presence.shape
    (torch.Size([2, 3]), torch.Size([2, 3]))

    Args:
        in_channels: channels of the feature map.
        num_types: types of landmark.
        hidden_channels: channels of the one layer before pooling; by default ``in_channels``.
        rate: landmarks to a cell at the start.
        prior: probability of presence at the start.
        generator: what draws the weights; by default torch's global one.

    Raises:
        ValueError: a number below one, a rate that is not positive, or a prior not between 0 and 1.
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
        """Counts and presence.

        Raises:
            ValueError: several maps, or another number of channels than the head's.
        """
        hidden = functional.relu(self.hidden(_only_map(features, self.in_channels)))
        rates = functional.softplus(self.rates(hidden).float())  # half precision cannot add up thousands of cells
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
    if channels_differ(maps, [in_channels]):
        raise ValueError(f"the head reads maps of {in_channels} channels, got {maps[0].shape[1]}")
    return maps[0]
