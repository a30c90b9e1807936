"""AnchorGenerator: the shapes of an AnchorSet at every cell of a feature pyramid, in a framework's convention."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from detect.anchors.anchor_set import AnchorLevel, AnchorSet, level_name
from detect.anchors.grid_convention import Convention, as_convention
from detect.ops.grid_matcher import LevelGrid

MAX_CACHED = 16  # input sizes whose anchors are kept


@dataclass(frozen=True, eq=False)
class GridAnchors:
    """Anchors of a pyramid in the order level, row, column, shape: the order of a head's outputs. Do not write to them."""

    boxes: Float[Tensor, "a 4"]
    level_grids: tuple[LevelGrid, ...]

    @property
    def num_per_level(self) -> list[int]:
        return [level.num_anchors for level in self.level_grids]


class AnchorGenerator:
    """Generates the anchors of a set for inputs of any size; the anchors of the last ``MAX_CACHED`` sizes are kept.

    Args:
        anchors: shapes of each level, in the order of the head's channels, and the centre's position in a cell.
        convention: stride mode and rounding of corners.

    Raises:
        ValueError: the convention is not known, or the levels do not go from fine to coarse.

    >>> generator = AnchorGenerator(AnchorSet.of([[(8, 4)], [(16, 16)]], strides=(8, 16)))
    >>> generator.generate([(1, 2), (1, 1)]).boxes
    tensor([[ 0.,  2.,  8.,  6.],
            [ 8.,  2., 16.,  6.],
            [ 0.,  0., 16., 16.]])
    """

    def __init__(self, anchors: AnchorSet, *, convention: str | Convention = "exact") -> None:
        strides = [level.stride for level in anchors.levels]
        if strides != sorted(strides):
            raise ValueError(f"levels go from fine to coarse, got strides {', '.join(map(str, strides))}")
        self.anchors = anchors
        self.convention = as_convention(convention)
        self._kept: OrderedDict[tuple[object, ...], GridAnchors] = OrderedDict()

    @classmethod
    def of_sizes(
        cls,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        *,
        convention: str | Convention = "torchvision",
    ) -> AnchorGenerator:
        """All sizes by all ratios on each level, in a framework's order.

        Args:
            sizes: for each level, square roots of the anchors' areas, in pixels.
            ratios: height / width.
            strides: strides of the levels in pixels, from fine to coarse.
            convention: the framework, by name or as a :class:`Convention`.

        Raises:
            ValueError: the convention is not known, or levels and strides differ in number.
        """
        how = as_convention(convention)
        if len(sizes) != len(strides):
            raise ValueError(f"{len(sizes)} levels of sizes for {len(strides)} strides")
        levels = []
        for stride, level_sizes in zip(strides, sizes, strict=True):
            pairs = [(size, ratio) for ratio in ratios for size in level_sizes]
            if how.size_outer:
                pairs = [(size, ratio) for size in level_sizes for ratio in ratios]
            shapes = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for size, ratio in pairs]
            levels.append(AnchorLevel(level_name(stride), stride, shapes))
        name = convention if isinstance(convention, str) else "anchors"
        return cls(AnchorSet(tuple(levels), center_offset=how.center_offset, name=name), convention=how)

    @property
    def num_anchors(self) -> list[int]:
        """Anchors per cell of each level: a head's ``num_anchors``."""
        return [len(level.shapes) for level in self.anchors.levels]

    def select_levels(self, levels: Sequence[int]) -> AnchorGenerator:
        """A generator for some of the levels, given by index from fine to coarse."""
        chosen = tuple(self.anchors.levels[level] for level in levels)
        return AnchorGenerator(replace(self.anchors, levels=chosen), convention=self.convention)

    def generate(
        self,
        level_hw: Sequence[tuple[int, int]],
        image_hw: tuple[int, int] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> GridAnchors:
        """The anchors for feature maps of these sizes.

        Args:
            level_hw: (rows, columns) of each level, from fine to coarse.
            image_hw: (height, width) of the padded input; with exact strides needed only to check them.
            dtype: type of the boxes.
            device: device of the boxes.

        Raises:
            ValueError: ``level_hw`` and the set differ in their number of levels, ``image_hw`` is missing, or no input (of
                this size) has feature maps of these sizes at the levels' strides.
        """
        if len(level_hw) != len(self.anchors.levels):
            names = ", ".join(level.name for level in self.anchors.levels)
            raise ValueError(f"{len(level_hw)} feature levels for anchors on {len(self.anchors.levels)} ({names})")
        if any(isinstance(size, Tensor) and size.ndim > 1 for size in level_hw):
            raise ValueError("level_hw has the (rows, columns) of each feature map, not the maps")
        if image_hw is None and self.convention.stride_mode != "exact":
            raise ValueError(f"stride_mode={self.convention.stride_mode!r} needs the input's size: image_hw is missing")
        device = torch.device(device)
        if torch.compiler.is_compiling():  # traced tensors must not outlive the trace
            return self._generate(level_hw, image_hw, dtype, device)
        key = (tuple(level_hw), image_hw, dtype, device)
        if key not in self._kept:
            check_strides(self.anchors.levels, level_hw, image_hw)
            with torch.inference_mode(False), torch.no_grad():  # kept anchors must serve training too
                self._kept[key] = self._generate(level_hw, image_hw, dtype, device)
            if len(self._kept) > MAX_CACHED:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _generate(
        self,
        level_hw: Sequence[tuple[int, int]],
        image_hw: tuple[int, int] | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> GridAnchors:
        level_grids = []
        for level, (height, width) in zip(self.anchors.levels, level_hw, strict=True):
            stride_x, stride_y = self._stride_xy(level.stride, (height, width), image_hw)
            half = torch.tensor(level.shapes, dtype=dtype, device=device).reshape(-1, 2) / 2
            corners = torch.cat([-half, half], dim=1)
            if self.convention.round_corners:
                corners = corners.round()
            center = corners.new_tensor([stride_x, stride_y]).repeat(2) * self.anchors.center_offset
            level_grids.append(LevelGrid(height, width, (stride_x, stride_y), corners + center))
        return GridAnchors(torch.cat([level.boxes() for level in level_grids]), tuple(level_grids))

    def _stride_xy(
        self, stride: int, level_hw: tuple[int, int], image_hw: tuple[int, int] | None
    ) -> tuple[float, float]:
        if self.convention.stride_mode == "exact" or image_hw is None:
            return float(stride), float(stride)
        y, x = (image / cells for image, cells in zip(image_hw, level_hw, strict=True))
        return (float(int(x)), float(int(y))) if self.convention.stride_mode == "floor" else (x, y)


def check_strides(
    levels: Sequence[AnchorLevel], level_hw: Sequence[tuple[int, int]], image_hw: tuple[int, int] | None = None
) -> None:
    """Raise a ValueError that names a level whose stride contradicts its feature map, the input or the levels before it.

    At stride s an axis of n pixels has n / s cells, rounded up or down; s is the same for both axes.

    >>> levels = AnchorSet.of([[(8, 8)], [(16, 16)]], strides=(8, 16)).levels
    >>> check_strides(levels, [(4, 6), (4, 6)], (32, 48))
    Traceback (most recent call last):
    ValueError: level P4: stride 16 contradicts a feature map of 4 x 6 cells on an input of 32 x 48, which is at stride 8 x 8

    Args:
        level_hw: (rows, columns) of each level.
        image_hw: (height, width) of the padded input; without it, levels are only compared with each other.
    """
    for axis in (0, 1):
        least, most = (0, math.inf) if image_hw is None else (image_hw[axis] - 1, image_hw[axis] + 1)
        for level, cells in zip(levels, level_hw, strict=True):
            least = max(least, (cells[axis] - 1) * level.stride)
            most = min(most, (cells[axis] + 1) * level.stride)
            if most - least > 1:  # the sizes between the two, without them, have such maps
                continue
            found = (
                f"level {level.name}: stride {level.stride} contradicts a feature map of {cells[0]} x {cells[1]} cells"
            )
            if image_hw is None:
                raise ValueError(f"{found} beside finer levels of {_sizes(level_hw)}: levels go from fine to coarse")
            strides = " x ".join(f"{image / max(count, 1):.3g}" for image, count in zip(image_hw, cells, strict=True))
            raise ValueError(f"{found} on an input of {image_hw[0]} x {image_hw[1]}, which is at stride {strides}")


def _sizes(level_hw: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{height} x {width}" for height, width in level_hw)
