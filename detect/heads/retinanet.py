"""RetinaNet's head: two convolutional subnets, one for classes and one for boxes, shared by all pyramid levels.

Lin et al. 2017, section 4. Outputs have one row for each anchor in the order level, row, column, anchor, and the channels of
the output convolutions are in the order anchor, class: as in torchvision, detectron2 and mmdetection.

Everything runs channels-last: the convolutions are faster, and the rows of a level are a view of its output, which is copied
only once, into the result.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from detect.heads.fpn import FeatureMaps, list_maps

WEIGHT_STD = 0.01  # Lin et al. 2017, section 4.1
GROUPS = 32  # Wu and He 2018, section 4; torchvision's second RetinaNet


class Tower(nn.Module):
    """Convolutions, each with a norm and a ReLU, shared by the levels; each level has batch norms of its own.

    Convolutions have a bias; those before a norm only if ``biased``.
    """

    def __init__(
        self,
        channels: list[int],
        norm: str | None,
        num_levels: int,
        generator: Generator | None,
        *,
        biased: bool = False,
    ) -> None:
        super().__init__()
        bias = None if norm and not biased else 0.0
        self.convs = nn.ModuleList(
            conv(before, after, generator, bias=bias) for before, after in itertools.pairwise(channels)
        )
        self.norms = nn.ModuleList(_norm(norm, after, num_levels) for after in channels[1:] if norm)

    def forward(self, cells: Tensor, level: int) -> Tensor:
        for index, layer in enumerate(self.convs):
            cells = layer(cells)
            if self.norms:
                norm = self.norms[index]
                cells = (norm[level] if isinstance(norm, nn.ModuleList) else norm)(cells)
            # in place: the gradients of convolutions and norms do not need their outputs
            cells = functional.relu(cells, inplace=True)
        return cells

    def select_levels(self, levels: Sequence[int]) -> None:
        """Keep only the batch norms of these levels, in this order."""
        for index, norm in enumerate(self.norms):
            if isinstance(norm, nn.ModuleList):
                self.norms[index] = nn.ModuleList(norm[level] for level in levels)


def conv(
    in_channels: int, out_channels: int, generator: Generator | None, *, kernel: int = 3, bias: float | None = 0.0
) -> nn.Conv2d:
    """A convolution with normally distributed weights and a constant bias, or none."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias is not None)
    nn.init.normal_(layer.weight, std=WEIGHT_STD, generator=generator)
    if bias is not None and layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
    return layer


def check_norm(norm: str | None, channels: int) -> None:
    """Raise ValueError for an unknown norm, or for channels that do not divide into groups."""
    if norm not in {None, "group", "batch"}:
        raise ValueError(f"norm is None, 'group' or 'batch', got {norm!r}")
    if norm == "group" and channels % GROUPS:
        raise ValueError(f"norm='group' needs a multiple of {GROUPS} channels, got {channels}")


def _norm(name: str | None, channels: int, num_levels: int) -> nn.Module:
    if name == "group":
        return nn.GroupNorm(GROUPS, channels)
    return nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(num_levels))


PRIOR = 0.01  # Lin et al. 2017, section 4.1: start from a rare foreground


class HeadOutput(NamedTuple):
    """Class logits and box deltas (dx, dy, dw, dh) of every anchor, in the order level, row, column, anchor."""

    logits: Float[Tensor, "b a c"]
    deltas: Float[Tensor, "b a 4"]


class RetinaNetHead(nn.Module):
    """Class logits and box deltas for the anchors of any number of feature maps.

    Two feature maps, of 8 x 10 and 4 x 5 cells: 9 * (80 + 20) anchors.

    >>> head = RetinaNetHead(in_channels=16, num_anchors=9, num_classes=3)
    >>> logits, deltas = head([torch.zeros(2, 16, 8, 10), torch.zeros(2, 16, 4, 5)])
    >>> logits.shape, deltas.shape, round(logits.sigmoid().mean().item(), 4)
    (torch.Size([2, 900, 3]), torch.Size([2, 900, 4]), 0.01)

    Args:
        num_anchors: anchors per cell: one number for any levels, or one for each level. If the numbers are equal, all levels
            share the output convolutions as they share the towers; else each level has its own.
        num_classes: logits of an anchor; background has none.
        num_convs: convolutions of a tower, without the output convolution.
        hidden_channels: channels of the towers; by default ``in_channels``.
        norm: after each convolution of a tower, which then has no bias: None, ``"group"`` (32 groups) or ``"batch"``,
            with separate weights and statistics for each level, as in EfficientDet's code.
        prior: probability of every class at the start (section 4.1).
        centerness: whether the box tower also predicts a centerness for each anchor (Tian et al. 2020, "FCOS: A simple and
            strong anchor-free object detector", section 3.1). The score is then the geometric mean of the class's and the
            centerness', as in torchvision, and the logits are those of this score.
        biased: whether the convolutions before a norm have a bias, as in torchvision's FCOS.
        generator: draws the weights; by default torch's global one.

    Raises:
        ValueError: an argument is out of its range, the channels do not divide into groups, or batch norm has no number of
            anchors for each level.
    """

    def __init__(
        self,
        in_channels: int,
        num_anchors: int | Sequence[int],
        num_classes: int,
        *,
        num_convs: int = 4,
        hidden_channels: int | None = None,
        norm: str | None = None,
        prior: float = PRIOR,
        centerness: bool = False,
        biased: bool = False,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_anchors = num_anchors if isinstance(num_anchors, int) else tuple(num_anchors)
        self.num_classes = num_classes
        self.num_convs = num_convs
        self.hidden_channels = in_channels if hidden_channels is None else hidden_channels
        self.norm = norm
        self.prior = prior
        self.centerness = centerness
        self._check_arguments()
        channels = [in_channels] + [self.hidden_channels] * num_convs
        self.class_tower, self.box_tower = (
            Tower(channels, norm, self.num_levels or 1, generator, biased=biased) for _ in range(2)
        )
        self._draw_outputs(generator)

    def _draw_outputs(self, generator: Generator | None) -> None:
        counts, channels = self._counts, self.hidden_channels if self.num_convs else self.in_channels
        counts = counts[:1] if len(set(counts)) == 1 else counts
        class_bias = -math.log((1 - self.prior) / self.prior)
        self.class_outputs = nn.ModuleList(
            conv(channels, count * self.num_classes, generator, bias=class_bias) for count in counts
        )
        self.box_outputs = nn.ModuleList(conv(channels, count * 4, generator) for count in counts)
        self.centerness_outputs = nn.ModuleList(conv(channels, count, generator) for count in counts if self.centerness)
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    @property
    def _counts(self) -> tuple[int, ...]:
        return self.num_anchors if isinstance(self.num_anchors, tuple) else (self.num_anchors,)

    @property
    def num_levels(self) -> int | None:
        """Levels that the head was built for; None if one number of anchors stands for any levels."""
        return None if isinstance(self.num_anchors, int) else len(self.num_anchors)

    def forward(self, features: FeatureMaps) -> HeadOutput:
        """Logits and deltas of all anchors, from one feature map for each level.

        A mapping, as pyramids of torchvision and detectron2 return it, is read in its order. If the levels share all
        weights, there may be fewer than the head was built for.
        """
        maps = list_maps(features)
        self._check_maps(maps)
        maps = [cells.contiguous(memory_format=torch.channels_last) for cells in maps]
        classes, boxes = (
            [tower(cells, level) for level, cells in enumerate(maps)] for tower in (self.class_tower, self.box_tower)
        )
        logits = _rows(classes, self.class_outputs, self.num_classes)
        if self.centerness:
            logits = mean_score(logits, _rows(boxes, self.centerness_outputs, 1))
        return HeadOutput(logits, _rows(boxes, self.box_outputs, 4))

    def check_anchors(self, num_anchors: Sequence[int]) -> None:
        """Raise ValueError unless the head was built for these anchors per cell of each level."""
        own = (self.num_anchors,) * len(num_anchors) if isinstance(self.num_anchors, int) else self.num_anchors
        if tuple(num_anchors) != own:
            raise ValueError(
                f"the head was built for {own} anchors per cell of each level, got {tuple(num_anchors)}: "
                "see its with_anchors and select_levels"
            )

    def select_levels(self, levels: Sequence[int]) -> RetinaNetHead:
        """A head for some of the levels, in this order, with a copy of their weights; of all, if it serves any levels."""
        last = max(levels, default=0) if self.num_levels is None else self.num_levels - 1
        if not levels or len(set(levels)) < len(levels) or not 0 <= min(levels) <= max(levels) <= last:
            raise ValueError(f"need one or more different levels of {self.num_levels or 'any'}, got {tuple(levels)}")
        head = copy.deepcopy(self)
        if isinstance(self.num_anchors, int):
            return head
        head.num_anchors = tuple(self.num_anchors[level] for level in levels)
        head.class_outputs = _select(head.class_outputs, levels)
        head.box_outputs = _select(head.box_outputs, levels)
        head.centerness_outputs = _select(head.centerness_outputs, levels)
        for tower in (head.class_tower, head.box_tower):
            tower.select_levels(levels)
        return head

    def with_anchors(self, num_anchors: int | Sequence[int], *, generator: Generator | None = None) -> RetinaNetHead:
        """A head for other anchors: new output convolutions and a copy of the towers. One number stands for all levels."""
        if isinstance(num_anchors, int) and self.num_levels is not None:
            num_anchors = (num_anchors,) * self.num_levels
        head = copy.deepcopy(self)
        head.num_anchors = num_anchors if isinstance(num_anchors, int) else tuple(num_anchors)
        head._check_arguments()
        if self.norm == "batch" and head.num_levels != self.num_levels:
            raise ValueError(f"batch norm has statistics for {self.num_levels} levels, got {num_anchors=}")
        head._draw_outputs(generator)
        return head.to(next(self.parameters())).train(self.training)

    def _check_arguments(self) -> None:
        least = min([self.in_channels, self.num_classes, self.hidden_channels, *self._counts])
        if least < 1 or not self._counts or self.num_convs < 0 or not 0 < self.prior < 1:
            raise ValueError(
                "need in_channels, num_anchors, num_classes and hidden_channels from 1, num_convs from 0 and a prior "
                f"between 0 and 1, got {self.in_channels}, {self.num_anchors}, {self.num_classes}, "
                f"{self.hidden_channels}, {self.num_convs} and {self.prior}"
            )
        check_norm(self.norm, self.hidden_channels)
        if self.norm == "batch" and self.num_levels is None:
            raise ValueError(f"norm='batch' needs the levels: give num_anchors as ({self.num_anchors},) * 5, say")

    def _check_maps(self, maps: Sequence[Tensor]) -> None:
        channels = [cells.shape[1] for cells in maps]
        if not maps or channels != [self.in_channels] * len(maps):
            raise ValueError(f"the head reads maps of {self.in_channels} channels, got {channels}")
        if self.num_levels is None:
            return
        shared = self.norm != "batch" and len(self.class_outputs) == len(self.box_outputs) == 1
        if len(maps) > self.num_levels or (len(maps) < self.num_levels and not shared):
            own = f"{self.num_levels} levels, with {self.num_anchors} anchors"
            raise ValueError(f"the head was built for {own}, got {len(maps)} feature maps: see its select_levels")


def mean_score(logits: Float[Tensor, "b a c"], others: Float[Tensor, "b a 1"]) -> Float[Tensor, "b a c"]:
    """The logits of the geometric mean of two scores, given by their logits.

    >>> half, low = torch.tensor([[[0.0]]]), torch.tensor([[[-2.0]]])
    >>> mean_score(half, low).sigmoid(), (half.sigmoid() * low.sigmoid()).sqrt()
    (tensor([[[0.2441]]]), tensor([[[0.2441]]]))
    """
    log_score = (functional.logsigmoid(logits) + functional.logsigmoid(others)) / 2
    return log_score - torch.log(-torch.expm1(log_score.clamp(max=-torch.finfo(log_score.dtype).tiny)))


def _rows(towers: Sequence[Tensor], outputs: nn.ModuleList, per_anchor: int) -> Tensor:
    """The outputs of a subnet, (b, a, per_anchor), from those of its tower."""
    rows = []
    for level, cells in enumerate(towers):
        output = outputs[level if len(outputs) > 1 else 0](cells).permute(0, 2, 3, 1)
        b, h, w, channels = output.shape
        rows.append(output.reshape(b, h * w * (channels // per_anchor), per_anchor))
    return torch.cat(rows, dim=1)


def _select(outputs: nn.ModuleList, levels: Sequence[int]) -> nn.ModuleList:
    """The output convolutions of these levels; shared ones stay."""
    return outputs if len(outputs) <= 1 else nn.ModuleList(outputs[level] for level in levels)
