"""The feature pyramid below a RetinaNet head: levels of one width, each with features of the coarser ones added.

Lin et al. 2017, "Feature Pyramid Networks", section 3, and "Focal Loss", section 4, footnote 2. Frameworks differ in the
two coarsest levels:

============================  =========  ==================
framework                     ``extra``  ``relu_before_p7``
============================  =========  ==================
torchvision, v1 weights       ``"p5"``   True
torchvision, v2 weights       ``"c5"``   True
detectron2                    ``"c5"``   True
mmdetection                   ``"c5"``   False
============================  =========  ==================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

FeatureMaps = Sequence[Float[Tensor, "b _ _ _"]] | Mapping[str, Float[Tensor, "b _ _ _"]] | Float[Tensor, "b _ _ _"]
"""Feature maps from fine to coarse: a list, a mapping in this order (torchvision, detectron2), or one map."""


def list_maps(maps: FeatureMaps) -> list[Float[Tensor, "b _ _ _"]]:
    """Feature maps as a list, in the order given.

    >>> [tuple(cells.shape) for cells in list_maps({"p3": torch.zeros(1, 4, 8, 8), "p4": torch.zeros(1, 4, 4, 4)})]
    [(1, 4, 8, 8), (1, 4, 4, 4)]
    """
    if isinstance(maps, Tensor):
        return [maps]
    every = list(maps.values() if isinstance(maps, Mapping) else maps)
    if strange := [type(each).__name__ for each in every if not isinstance(each, Tensor)]:
        raise ValueError(f"feature maps are tensors, got {strange[0]}: torch.from_numpy converts an array")
    return every


class FeaturePyramid(nn.Module):
    """Makes levels of one width from a backbone's feature maps, fine to coarse.

    A 1 x 1 convolution brings each map to one width, the next coarser level is upsampled to its exact size (nearest
    neighbour) and added, and a 3 x 3 convolution follows. P6 and P7 are convolutions of stride 2 on top.

    >>> pyramid = FeaturePyramid(in_channels=(8, 16, 32), out_channels=4)
    >>> maps = pyramid([torch.zeros(1, 8, 25, 38), torch.zeros(1, 16, 13, 19), torch.zeros(1, 32, 7, 10)])
    >>> [tuple(level.shape) for level in maps]
    [(1, 4, 25, 38), (1, 4, 13, 19), (1, 4, 7, 10), (1, 4, 4, 5), (1, 4, 2, 3)]

    Args:
        in_channels: channels of the backbone's maps (C3, C4, C5), fine to coarse.
        extra: input of P6: ``"c5"``, the backbone's last map, or ``"p5"``, the last level. None makes no P6 and P7.
        relu_before_p7: apply a ReLU to P6 before the convolution to P7.
        generator: draws the weights; by default torch's global one.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        *,
        extra: str | None = "c5",
        relu_before_p7: bool = True,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if not in_channels or min(*in_channels, out_channels) < 1:
            raise ValueError(f"need channels from 1, of one map or more, got {tuple(in_channels)} and {out_channels=}")
        if extra not in {"c5", "p5", None}:
            raise ValueError(f"extra is 'c5', 'p5' or None, got {extra!r}")
        self.in_channels = tuple(in_channels)
        self.extra_from = extra
        self.relu_before_p7 = relu_before_p7
        self.lateral = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels)
        widths = [in_channels[-1] if extra == "c5" else out_channels, out_channels] if extra else []
        self.extra = nn.ModuleList(nn.Conv2d(width, out_channels, 3, stride=2, padding=1) for width in widths)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d) and conv.bias is not None:
                nn.init.kaiming_uniform_(conv.weight, a=1, generator=generator)  # torchvision, detectron2's c2_xavier
                nn.init.zeros_(conv.bias)
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    def forward(self, maps: FeatureMaps) -> list[Float[Tensor, "b d _ _"]]:
        """Levels P3, P4, P5 (one for each map), then P6 and P7."""
        maps = list_maps(maps)
        channels = tuple(cells.shape[1] for cells in maps)
        if channels != self.in_channels:
            raise ValueError(f"the pyramid reads maps of {self.in_channels} channels, fine to coarse, got {channels}")
        sums = [lateral(cells) for lateral, cells in zip(self.lateral, maps, strict=True)]
        for level in range(len(sums) - 2, -1, -1):
            sums[level] += functional.interpolate(sums[level + 1], size=sums[level].shape[-2:], mode="nearest")
        levels = [output(cells) for output, cells in zip(self.output, sums, strict=True)]
        if self.extra:
            levels.append(self.extra[0](maps[-1] if self.extra_from == "c5" else levels[-1]))
            levels.append(self.extra[1](functional.relu(levels[-1]) if self.relu_before_p7 else levels[-1]))
        return levels
