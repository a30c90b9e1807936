"""Backbones: feature maps of several strides from a tiny network for the CPU, or from any of timm's and torchvision's.

:class:`PyramidLevels` makes of them the levels that a head reads. A map of stride s has ceil(h / s) rows and ceil(w / s)
columns for any image: images are padded right and below with zeros, and the maps cropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from detect.detectors.external_backbones import Network, Weights, lite0_network, timm_network, torchvision_network
from detect.errors import ConfigError
from detect.heads.fpn import FeatureMaps, FeaturePyramid, list_maps

TINY_CHANNELS = {2: 16, 4: 32, 8: 48, 16: 64, 32: 96}  # by stride
TINY_GROUPS = 8


def tiny_network(_: str, *, in_channels: int, pretrained: bool, weights: Weights | None = None) -> Network:
    """The strides of :class:`TinyNetwork`, and a function that builds it for some of them; no weights are pretrained."""
    if pretrained or weights is not None:
        raise ConfigError("backbone 'tiny' has no pretrained weights: lite0 has, and needs no download")
    return list(TINY_CHANNELS), lambda strides: TinyNetwork(in_channels, strides)


class TinyNetwork(nn.Module):
    """A 5 x 5 convolution of stride 2, then one residual block for each stride.

    Norms are group norms, which do not depend on the batch: gradients can be accumulated over parts of it.
    """

    def __init__(self, in_channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        own = [stride for stride in TINY_CHANNELS if stride <= max(strides)]
        widths = [TINY_CHANNELS[own[0]], *(TINY_CHANNELS[stride] for stride in own)]
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
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # He et al. 2015, as torchvision's ResNet
    return conv, nn.GroupNorm(TINY_GROUPS, after)


NETWORKS = {"tiny": tiny_network, "lite0": lite0_network, "timm": timm_network, "torchvision": torchvision_network}
OF_MANY = {"timm", "torchvision"}  # networks with names of their own
PROBE_PX = 128  # an image of this size shows strides up to 64


class Backbone(nn.Module):
    """A network that computes feature maps of images, fine to coarse; built by :func:`build_backbone`.

    ``model`` returns the maps as a list or a mapping. Weights that no map depends on are excluded from training. Images are
    padded to multiples of ``multiple`` pixels. With ``freeze_statistics`` batch norms keep their running means and variances
    in training, as in torchvision's and detectron2's detectors; their scales and biases are trained. Layers whose output has
    a stride of up to ``freeze_stride`` keep their weights; their backward pass, on the largest maps, is skipped.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        in_channels: int,
        multiple: int,
        freeze_statistics: bool = False,
        freeze_stride: int = 0,
    ) -> None:
        super().__init__()
        self.name = name
        self.model = model
        self.in_channels = in_channels
        self.multiple = multiple
        self.freeze_statistics = freeze_statistics
        maps = _run_once(model, in_channels, freeze_stride)
        self.channels = tuple(cells.shape[1] for cells in maps)
        self.strides = tuple(round(PROBE_PX / cells.shape[-1]) for cells in maps)
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode, or evaluation mode, as for any module; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if self.freeze_statistics and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, images: Float[Tensor, "b d h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The maps of normalised images."""
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
    """Subtracts the mean of each channel and divides by its standard deviation; both are buffers, saved with the weights.

    Each is one number for all channels, or one for each.

    >>> Normalise(3, mean=(0.5,), std=(0.25, 0.25, 0.5))(torch.ones(1, 3, 1, 1)).flatten()
    tensor([2., 2., 1.])
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
    name: str,
    *,
    strides: Sequence[int],
    in_channels: int = 3,
    pretrained: bool = False,
    weights: Weights | None = None,
    freeze_statistics: bool | None = None,
    freeze_stride: int = 0,
    seed: int | None = None,
) -> Backbone:
    """Build a network that computes maps of these strides, without the layers that they do not need.

    Strides coarser than the network's coarsest are left out; :class:`PyramidLevels` makes them.

    >>> backbone = build_backbone("tiny", strides=(4, 8, 16), in_channels=1, seed=0)
    >>> backbone.channels, [tuple(level.shape) for level in backbone(torch.zeros(1, 1, 50, 64))]
    ((32, 48, 64), [(1, 32, 13, 16), (1, 48, 7, 8), (1, 64, 4, 4)])

    Args:
        name: ``"tiny"``, :class:`TinyNetwork` with strides from 2 to 32; ``"lite0"``,
            EfficientNet-Lite0; ``"timm:NAME"``, any model that timm offers with ``features_only``;
            ``"torchvision:NAME"``, any convolutional classification network.
        strides: in pixels, in any order.
        pretrained: start from ImageNet's weights: lite0's are installed, timm and torchvision download theirs. If the images
            do not have 3 channels, the first convolution is adapted: equal channels give what three gave.
        weights: start from these, of the whole network by their names in timm or torchvision; they replace ``pretrained``.
        freeze_statistics: batch norms keep their statistics, see :class:`Backbone`; by default if they start from weights.
        freeze_stride: in pixels: layers of up to this stride keep their weights; 0 trains all.
        seed: of the random weights; None draws them from torch's global generator.

    Raises:
        ConfigError: the name is unknown, the network lacks a stride, or its weights are not available.
        MissingExtraError: timm or torchvision is not installed.
    """
    if not strides or min(*strides, in_channels) < 1:
        raise ConfigError(f"need strides and channels from 1, got {strides=}, {in_channels=}")
    source, _, model_name = name.partition(":")
    if source not in NETWORKS or bool(model_name) != (source in OF_MANY):
        raise ConfigError(f"no backbone {name!r}: need 'tiny', 'lite0', 'timm:NAME' or 'torchvision:NAME'")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        own, make = NETWORKS[source](model_name, in_channels=in_channels, pretrained=pretrained, weights=weights)
        network = make(_chosen(name, own, strides))
    if freeze_statistics is None:
        freeze_statistics = pretrained or weights is not None
    backbone = Backbone(
        name,
        network,
        in_channels=in_channels,
        multiple=max(own),
        freeze_statistics=freeze_statistics,
        freeze_stride=freeze_stride,
    )
    return backbone.train()


class PyramidLevels(FeaturePyramid):
    """A feature pyramid over the maps of a backbone that returns the levels of some strides.

    If exactly two levels, of 2 and 4 times the coarsest map's stride, are coarser than the maps, they are RetinaNet's P6 and
    P7, made from that map. Any other coarser levels are made by convolutions of stride 2, each on the level before. Layers
    that no level needs are left out, so every weight gets a gradient.

    >>> pyramid = PyramidLevels(build_backbone("tiny", strides=(8, 16, 32)), (8, 64), channels=4)
    >>> maps = [torch.zeros(1, channels, size, size) for channels, size in ((48, 16), (64, 8), (96, 4))]
    >>> [tuple(level.shape) for level in pyramid(maps)]
    [(1, 4, 16, 16), (1, 4, 2, 2)]

    ``strides`` are in pixels, fine to coarse. ``generator`` draws the weights; by default torch's global one.

    Raises:
        ConfigError: there is no stride, or one that is neither the backbone's nor its coarsest times a power of 2.
    """

    def __init__(
        self, backbone: Backbone, strides: Sequence[int], *, channels: int, generator: Generator | None = None
    ) -> None:
        top = backbone.strides[-1]
        wrong = set(strides) - set(backbone.strides) - {top << n for n in range(1, 20)}
        if wrong or not strides:
            raise ConfigError(
                f"levels of strides {list(strides)} need maps of {sorted(wrong)}: the backbone's have "
                f"{list(backbone.strides)}, and only {top} can be doubled"
            )
        coarser = [stride for stride in strides if stride > top]
        as_retinanet = coarser == [2 * top, 4 * top] != list(strides)
        finest = min(sum(stride < min(strides) for stride in backbone.strides), len(backbone.strides) - 1)
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


def _chosen(name: str, own: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """The wanted strides that the network has, or its coarsest if all wanted ones are coarser."""
    missing = sorted(set(wanted) - set(own))
    if missing and missing[0] < max(own):
        raise ConfigError(f"backbone {name!r} has maps of strides {sorted(own)}, not of {missing[0]}")
    return sorted(set(wanted) & set(own)) or [max(own)]


@torch.enable_grad()
def _run_once(model: nn.Module, in_channels: int, freeze_stride: int) -> list[Tensor]:
    """The maps of an empty image; also excludes weights from training that no map depends on, and those of fine strides."""
    training = model.training
    frozen: list[nn.Parameter] = []

    def freeze(module: nn.Module, _: object, output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4:
            return
        if min(output.shape[-2:]) * freeze_stride >= PROBE_PX:  # the last axis may be that of channels
            frozen.extend(module.parameters(recurse=False))

    hooks = [module.register_forward_hook(freeze) for module in model.modules()]
    maps = list_maps(model.eval()(torch.zeros(1, in_channels, PROBE_PX, PROBE_PX)))
    torch.stack([cells.sum() for cells in maps]).sum().backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
    for parameter in frozen:
        parameter.requires_grad_(False)
    for hook in hooks:
        hook.remove()
    model.zero_grad(set_to_none=True)
    model.train(training)
    return [cells.detach() for cells in maps]


def _strided_conv(channels: int, generator: Generator | None) -> nn.Conv2d:
    """A convolution of stride 2 with weights drawn as in the pyramid."""
    conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1, generator=generator)
    conv.bias = nn.Parameter(torch.zeros(channels))
    return conv
