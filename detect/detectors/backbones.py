"""Feature maps of several strides from an image: a small network for the CPU, or any of timm's and torchvision's.

A map of stride s has ceil(h / s) rows and ceil(w / s) columns, whatever the network does with sizes that it does not divide:
images are padded right and below with zeros, and the maps cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from detect.detectors.external_backbones import timm_network, torchvision_network
from detect.errors import ConfigError
from detect.heads.fpn import list_maps

CHANNELS = {2: 16, 4: 32, 8: 48, 16: 64, 32: 96}  # of each stride
GROUPS = 8


def tiny_network(
    _: str, *, in_channels: int, pretrained: bool
) -> tuple[list[int], Callable[[Sequence[int]], nn.Module]]:
    """The strides of its maps, and what makes the network that gives some of them.

    Raises:
        ConfigError: pretrained weights were asked for.
    """
    if pretrained:
        raise ConfigError("backbone 'small' has no pretrained weights")
    return list(CHANNELS), lambda strides: TinyNetwork(in_channels, strides)


class TinyNetwork(nn.Module):
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


NETWORKS = {"small": tiny_network, "timm": timm_network, "torchvision": torchvision_network}
PROBE_PX = 128  # an image of this size tells strides up to 64


class Backbone(nn.Module):
    """A network that turns images into feature maps, fine to coarse; made by :func:`build_backbone`.

    Weights that none of the maps depends on learn nothing, and are set so.

    Args:
        name: what it was asked for by.
        model: gives the maps, fine to coarse, as a list or a mapping.
        in_channels: channels of the images.
        multiple: images are padded to multiples of so many pixels.
    """

    def __init__(self, name: str, model: nn.Module, *, in_channels: int, multiple: int) -> None:
        super().__init__()
        self.name = name
        self.model = model
        self.in_channels = in_channels
        self.multiple = multiple
        maps = _run_once(model, in_channels)
        self.channels = tuple(cells.shape[1] for cells in maps)
        self.strides = tuple(round(PROBE_PX / cells.shape[-1]) for cells in maps)
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    def forward(self, images: Float[Tensor, "b d h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The maps of normalised images.

        Raises:
            ValueError: images of another number of channels.
        """
        if images.shape[1] != self.in_channels:
            raise ValueError(f"the backbone reads images of {self.in_channels} channels, got {images.shape[1]}")
        height, width = images.shape[-2:]
        below, right = (-extent % self.multiple for extent in (height, width))
        if below or right:
            images = functional.pad(images, (0, right, 0, below))
        maps = list_maps(self.model(images.contiguous(memory_format=torch.channels_last)))
        return [
            cells[..., : -(-height // stride), : -(-width // stride)]
            for cells, stride in zip(maps, self.strides, strict=True)
        ]


class Normalise(nn.Module):
    """Images less the mean, divided by the standard deviation of each channel; both are buffers, kept with the weights.

    >>> Normalise(3, mean=(0.5,), std=(0.25, 0.25, 0.5))(torch.ones(1, 3, 1, 1)).flatten()
    tensor([2., 2., 1.])

    Args:
        in_channels: channels of the images.
        mean: one number for all channels, or one for each.
        std: likewise.

    Raises:
        ConfigError: another number of them, or a deviation that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, in_channels: int, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if {len(mean), len(std)} - {1, in_channels} or not all(0 < each < float("inf") for each in std):
            raise ConfigError(
                f"need one mean and one positive std, or one for each of {in_channels} channels, got {mean=}, {std=}"
            )
        for name, numbers in (("mean", mean), ("std", std)):
            values = torch.tensor([float(number) for number in numbers]).expand(in_channels)
            self.register_buffer(name, values.reshape(1, -1, 1, 1).clone())

    def forward(self, images: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        return (images - self.mean) / self.std


def build_backbone(
    name: str, *, strides: Sequence[int], in_channels: int = 3, pretrained: bool = False, seed: int | None = None
) -> Backbone:
    """A network that gives maps of these strides, and has no more layers than they need.

    Strides coarser than the coarsest of the network are left out: what reads the maps makes them.

    >>> backbone = build_backbone("small", strides=(4, 8, 16), in_channels=1, seed=0)
    >>> backbone.channels, [tuple(level.shape) for level in backbone(torch.zeros(1, 1, 50, 64))]
    ((32, 48, 64), [(1, 32, 13, 16), (1, 48, 7, 8), (1, 64, 4, 4)])

    Args:
        name: ``"small"``, one residual block a stage with strides from 2 to 32; ``"timm:NAME"``, any model that timm has
            with ``features_only``; ``"torchvision:NAME"``, any convolutional classification network of torchvision.
        strides: in pixels, in any order.
        in_channels: channels of the images.
        pretrained: with the weights that the package offers, which are downloaded, and whose first convolution is spread
            over the channels where these are not 3.
        seed: of the random weights; by default they are drawn from torch's global generator.

    Raises:
        ConfigError: an unknown name, a stride that the network does not have, or weights that are not to be had.
        MissingExtraError: timm or torchvision is not installed.
    """
    if not strides or min(*strides, in_channels) < 1:
        raise ConfigError(f"need strides and channels from 1, got {strides=}, {in_channels=}")
    source, _, model_name = name.partition(":")
    if source not in NETWORKS or bool(model_name) != (source != "small"):
        raise ConfigError(f"no backbone {name!r}: it is 'small', 'timm:NAME' or 'torchvision:NAME'")
    with _drawn_from(seed):
        own, make = NETWORKS[source](model_name, in_channels=in_channels, pretrained=pretrained)
        return Backbone(name, make(_chosen(name, own, strides)), in_channels=in_channels, multiple=max(own))


@contextmanager
def _drawn_from(seed: int | None) -> Iterator[None]:
    """Weights that are drawn in here follow from the seed, and torch's global generator stays as it was."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _chosen(name: str, own: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """The strides to give: those wanted, but for coarser ones than there are."""
    missing = sorted(set(wanted) - set(own))
    if missing and missing[0] < max(own):
        raise ConfigError(f"backbone {name!r} has maps of strides {sorted(own)}, none of {missing[0]}")
    return sorted(set(wanted) & set(own)) or [max(own)]


@torch.enable_grad()
def _run_once(model: nn.Module, in_channels: int) -> list[Tensor]:
    """The maps of an image; weights that none of them depends on take no part in training from here on."""
    training = model.training
    maps = list_maps(model.eval()(torch.zeros(1, in_channels, PROBE_PX, PROBE_PX)))
    torch.stack([cells.sum() for cells in maps]).sum().backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
    model.zero_grad(set_to_none=True)
    model.train(training)
    return [cells.detach() for cells in maps]
