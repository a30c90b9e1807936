"""A network small enough to train on a CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from detect.errors import ConfigError

CHANNELS = {2: 16, 4: 32, 8: 48, 16: 64, 32: 96}  # of each stride
GROUPS = 8


def small_network(
    _: str, *, in_channels: int, pretrained: bool
) -> tuple[list[int], Callable[[Sequence[int]], nn.Module]]:
    """The strides of its maps, and what makes the network that gives some of them.

    Raises:
        ConfigError: pretrained weights were asked for.
    """
    if pretrained:
        raise ConfigError("backbone 'small' has no pretrained weights")
    return list(CHANNELS), lambda strides: SmallNetwork(in_channels, strides)


class SmallNetwork(nn.Module):
    """A 5 x 5 convolution of stride 2, then a residual block of two convolutions for each stride.

    Norms are of groups: they need no batch, so that a part of a batch learns what it learns in the whole.
    """

    def __init__(self, in_channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        own = [stride for stride in CHANNELS if stride <= max(strides)]
        widths = [CHANNELS[own[0]], *(CHANNELS[stride] for stride in own)]
        self.stem = nn.Sequential(*_conv_norm(in_channels, widths[0], kernel=5, stride=2), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList(
            Block(before, after, stride=2 if stage else 1)
            for stage, (before, after) in enumerate(itertools.pairwise(widths))
        )
        self.given = [stride in strides for stride in own]

    def forward(self, images: Float[Tensor, "b d h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        cells, maps = self.stem(images), []
        for stage, given in zip(self.stages, self.given, strict=True):
            cells = stage(cells)
            if given:
                maps.append(cells)
        return maps


class Block(nn.Module):
    """A residual block of two convolutions (He et al. 2016, section 3.3, option B)."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_conv_norm(before, after, stride=stride), nn.ReLU(inplace=True))
        self.second = nn.Sequential(*_conv_norm(after, after))
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv_norm(before, after, kernel=1, stride=stride))

    def forward(self, cells: Float[Tensor, "b d h w"]) -> Float[Tensor, "b _ _ _"]:
        return functional.relu(self.second(self.first(cells)) + self.shortcut(cells), inplace=True)


def _conv_norm(before: int, after: int, *, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # He et al. 2015; as torchvision's ResNet
    return conv, nn.GroupNorm(GROUPS, after)
