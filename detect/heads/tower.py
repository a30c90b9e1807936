"""What subnets are made of: convolutions, each with its norm and ReLU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Generator, Tensor, nn
from torch.nn import functional

WEIGHT_STD = 0.01  # Lin et al. 2017, section 4.1
GROUPS = 32  # Wu and He 2018, section 4; torchvision's second RetinaNet


class Tower(nn.Module):
    """Convolutions, each with its norm and ReLU, shared by the levels; batch norm is each level's own."""

    def __init__(self, channels: list[int], norm: str | None, num_levels: int, generator: Generator | None) -> None:
        super().__init__()
        bias = None if norm else 0.0
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
            cells = functional.relu(cells, inplace=True)  # no gradient of a convolution or norm needs its output
        return cells

    def select_levels(self, levels: Sequence[int]) -> None:
        """Keep the norms of these levels, in this order."""
        for index, norm in enumerate(self.norms):
            if isinstance(norm, nn.ModuleList):
                self.norms[index] = nn.ModuleList(norm[level] for level in levels)


def conv(
    in_channels: int, out_channels: int, generator: Generator | None, *, kernel: int = 3, bias: float | None = 0.0
) -> nn.Conv2d:
    """A convolution with weights from a normal distribution and one bias, or none."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias is not None)
    nn.init.normal_(layer.weight, std=WEIGHT_STD, generator=generator)
    if bias is not None and layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
    return layer


def _norm(name: str | None, channels: int, num_levels: int) -> nn.Module:
    if name == "group":
        return nn.GroupNorm(GROUPS, channels)
    return nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(num_levels))
