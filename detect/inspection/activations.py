"""What a network computes on one image: its maps by level, its filters, and how similar two networks' maps are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from detect.errors import ConfigError
from detect.inspection.layers import first_line
from detect.inspection.models import InspectedModel, NamedMaps

MAX_CELLS = 1024  # of a map that similarity takes, evenly spread: it needs a square of them


@dataclass(frozen=True, eq=False)
class LevelMaps:
    """The maps of one image at a level; a cell covers ``stride`` x ``stride`` pixels of the network's input."""

    name: str
    cells: Float[Tensor, "d h w"]
    stride: int

    @property
    def order(self) -> Int64[Tensor, " d"]:
        """The channels by falling standard deviation over their cells; among equals in their own order."""
        return self.cells.flatten(1).std(dim=1, correction=0).argsort(descending=True, stable=True)

    @property
    def num_constant(self) -> int:
        """Channels that have the same value in all cells, up to rounding."""
        spread = self.cells.flatten(1).amax(dim=1) - self.cells.flatten(1).amin(dim=1)
        return int((spread <= 1e-6 * self.cells.abs().amax()).sum())

    @property
    def of_head(self) -> bool:
        """Whether it is a prediction, such as ``P3.boxes``."""
        return "." in self.name

    @property
    def energy(self) -> Float[Tensor, "h w"]:
        """The root mean square over the channels, each less its mean over the cells."""
        around = self.cells - self.cells.mean(dim=(1, 2), keepdim=True)
        return around.square().mean(dim=0).sqrt()


@dataclass(frozen=True, eq=False)
class FilterBank:
    """The weights of a convolution."""

    name: str
    weights: Float[Tensor, "n d h w"]


@dataclass(frozen=True)
class LevelDifference:
    """How similar the maps of two networks are at a level; NaN if a number is not defined.

    Attributes:
        similarity: linear CKA: 1 if one network's channels are the other's, rotated and scaled; about 0 if unrelated.
        correlation: of a channel with the same channel of the other, the median over channels that vary in both.
    """

    name: str
    similarity: float
    correlation: float


@torch.no_grad()
def level_maps(model: InspectedModel, image: Float[Tensor, "d h w"], layers: Sequence[str] = ()) -> list[LevelMaps]:
    """The maps of an image, fine to coarse; of ``layers``, if some are named, by their names.

    Without ``layers`` these are the maps of backbone and pyramid; what heads predict is named ``P3.boxes`` and the like.

    >>> from detect.inspection.models import build_model
    >>> [(level.name, level.stride, *level.cells.shape) for level in level_maps(build_model("tiny"), torch.rand(3, 50, 70))]
    [('C2', 4, 32, 13, 18), ('C3', 8, 48, 7, 9), ('C4', 16, 64, 4, 5), ('C5', 32, 96, 2, 3)]

    Raises:
        ConfigError: there is no such layer, or the model fails on the image.
    """
    network: NamedMaps = model.layers(layers) if layers else model.maps
    try:
        found = network(image[None])
    except Exception as error:
        shape = tuple(image.shape)
        raise ConfigError(f"model {model.name!r}: fails on an image of {shape}: {first_line(error)}") from None
    return [
        LevelMaps(name, cells[0].float(), _stride(image.shape[1:], cells.shape[2:])) for name, cells in found.items()
    ]


def filter_banks(module: nn.Module, count: int) -> list[FilterBank]:
    """The first convolution's filters, and those of others with more than one cell, evenly spread up to the last.

    >>> from detect.inspection.models import build_model
    >>> [(bank.name, tuple(bank.weights.shape)) for bank in filter_banks(build_model("tiny").module, 2)]
    [('stem.0', (16, 3, 5, 5)), ('stages.4.second.0', (96, 96, 3, 3))]
    """
    convs = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)]
    wide = [(name, layer) for name, layer in convs[1:] if max(layer.kernel_size) > 1]
    places = torch.linspace(0, len(wide), count).round().long().tolist()[1:] if wide else []
    chosen = convs[:1] + [wide[place - 1] for place in dict.fromkeys(places) if place]
    return [FilterBank(name, layer.weight.detach().float()) for name, layer in chosen[:count]]


def compare_levels(first: Sequence[LevelMaps], second: Sequence[LevelMaps]) -> list[LevelDifference]:
    """The similarity of the levels that have the same name and the same number of cells in both, of the same image."""
    others = {level.name: level.cells for level in second}
    pairs = {level.name: (level.cells, others[level.name]) for level in first if level.name in others}
    return [
        LevelDifference(name, linear_cka(one, other), channel_correlation(one, other))
        for name, (one, other) in pairs.items()
        if one.shape[1:] == other.shape[1:]
    ]


def linear_cka(first: Float[Tensor, "d1 h w"], second: Float[Tensor, "d2 h w"]) -> float:
    """The linear centred kernel alignment of two maps, whose cells are the examples (Kornblith et al. 2019, equation 4).

    With few cells and many channels the plain estimate is near 1 for unrelated maps, so this is the unbiased one (Song et
    al. 2012, equation 5; Nguyen et al. 2021, section 3.1). It may be slightly negative, and is NaN for a constant map or
    fewer than four cells. At most 1,024 cells are taken, evenly spread.
    """
    kernels = [_kernel(cells) for cells in (first, second)]
    if len(kernels[0]) < 4:
        return math.nan
    within = _hsic(kernels[0], kernels[0]) * _hsic(kernels[1], kernels[1])
    return _hsic(*kernels) / math.sqrt(within) if within > 0 else math.nan


def channel_correlation(first: Float[Tensor, "d1 h w"], second: Float[Tensor, "d2 h w"]) -> float:
    """The median over channels of Pearson's correlation over cells; NaN if the numbers of channels differ.

    >>> maps = torch.tensor([[[1.0, 2.0, 4.0]], [[0.0, 0.0, 0.0]]])
    >>> round(channel_correlation(maps, -3 * maps), 6)
    -1.0
    """
    if first.shape != second.shape:
        return math.nan
    rows = (cells.flatten(1).double() for cells in (first, second))
    x, y = (each - each.mean(dim=1, keepdim=True) for each in rows)
    scale = x.norm(dim=1) * y.norm(dim=1)
    varies = scale > 0
    return float(((x * y).sum(dim=1)[varies] / scale[varies]).median()) if varies.any() else math.nan


def _kernel(cells: Float[Tensor, "d h w"]) -> Float[Tensor, "n n"]:
    """The products of cells with each other, without those with themselves."""
    examples = cells.flatten(1).T.double()
    chosen = torch.linspace(0, len(examples) - 1, min(len(examples), MAX_CELLS)).round().long()
    examples = examples[chosen.to(examples.device)]
    examples = examples - examples.mean(dim=0)
    return (examples @ examples.T).fill_diagonal_(0)


def _hsic(first: Float[Tensor, "n n"], second: Float[Tensor, "n n"]) -> float:
    n = len(first)
    across = first.sum() * second.sum() / ((n - 1) * (n - 2))
    found = (first * second).sum() + across - 2 / (n - 2) * (first.sum(dim=0) @ second.sum(dim=0))
    return float(found / (n * (n - 3)))


def _stride(image_hw: Sequence[int], cells_hw: Sequence[int]) -> int:
    """Pixels from one cell to the next: the smallest power of two that gives this number of cells, or the nearest integer.

    >>> _stride((160, 100), (2, 1)), _stride((160, 96), (40, 24)), _stride((120, 120), (10, 10))
    (128, 4, 12)
    """
    for stride in (2**power for power in range(13)):
        if all(-(-extent // stride) == cells for extent, cells in zip(image_hw, cells_hw, strict=True)):
            return stride
    return max(1, round(max(image_hw) / max(cells_hw)))
