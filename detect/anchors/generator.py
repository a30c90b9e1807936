"""AnchorGenerator: the shapes of an AnchorSet laid over the levels of a feature pyramid, as each framework lays them.

Frameworks differ in four things: which of sizes and ratios runs faster within a cell, whether corners are rounded to whole
pixels, where in its cell an anchor lies, and what a level's stride is where the input is not a multiple of it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from detect.anchors.anchor_set import AnchorLevel, AnchorSet, level_name
from detect.ops.grid_matcher import LevelGrid

MAX_CACHED = 16  # sizes of input for which anchors are kept
STRIDES = ("exact", "floor", "ratio")


@dataclass(frozen=True)
class Convention:
    """How a framework lays anchors.

    ``strides``: ``"exact"``, those of the levels; ``"floor"``, the padded input's size divided by the level's, cut, for each
    axis; ``"ratio"``, the same, not cut.
    """

    size_outer: bool
    rounded: bool
    center_offset: float
    strides: str


CONVENTIONS = {
    # torchvision 0.28, models/detection/anchor_utils.py
    "torchvision": Convention(size_outer=False, rounded=True, center_offset=0.0, strides="floor"),
    # detectron2, modeling/anchor_generator.py; MODEL.ANCHOR_GENERATOR.OFFSET is 0.0
    "detectron2": Convention(size_outer=True, rounded=False, center_offset=0.0, strides="exact"),
    # mmdetection 3, models/task_modules/prior_generators/anchor_generator.py; scale_major is True
    "mmdet": Convention(size_outer=False, rounded=False, center_offset=0.0, strides="exact"),
    # efficientdet-pytorch, effdet/anchors.py
    "effdet": Convention(size_outer=True, rounded=False, center_offset=0.5, strides="ratio"),
}


@dataclass(frozen=True, eq=False)
class GridAnchors:
    """Anchors of a pyramid, in the order of level, row, column, shape: that of a head's outputs. Not to be written to."""

    boxes: Float[Tensor, "a 4"]
    level_grids: tuple[LevelGrid, ...]

    @property
    def num_per_level(self) -> list[int]:
        return [level.num_anchors for level in self.level_grids]


class AnchorGenerator:
    """Places the anchors of a set on a pyramid, for inputs of any size; those of the last sizes are kept.

    Args:
        anchors: shapes for each level, in the order of the head's channels.
        strides: see :class:`Convention`.
        rounded: round corners, taken around the anchor's centre, to whole pixels (halves to even).

    >>> grid = AnchorGenerator(AnchorSet.of([[(8, 4)], [(16, 16)]], strides=(8, 16)))
    >>> grid.generate([(1, 2), (1, 1)]).boxes
    tensor([[ 0.,  2.,  8.,  6.],
            [ 8.,  2., 16.,  6.],
            [ 0.,  0., 16., 16.]])
    """

    def __init__(self, anchors: AnchorSet, *, strides: str = "exact", rounded: bool = False) -> None:
        if strides not in STRIDES:
            raise ValueError(f"strides is 'exact', 'floor' or 'ratio', got {strides!r}")
        self.anchors = anchors
        self.strides = strides
        self.rounded = rounded
        self._kept: OrderedDict[tuple[object, ...], GridAnchors] = OrderedDict()

    @classmethod
    def of_sizes(
        cls,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        *,
        convention: str = "torchvision",
    ) -> AnchorGenerator:
        """All sizes by all ratios (height / width) of each level, as a framework lays them; sizes are roots of areas.

        Raises:
            ValueError: the convention is not known, or levels and strides differ in number.
        """
        if convention not in CONVENTIONS:
            raise ValueError(f"convention {convention!r} is not one of {', '.join(CONVENTIONS)}")
        if len(sizes) != len(strides):
            raise ValueError(f"{len(sizes)} levels of sizes for {len(strides)} strides")
        how = CONVENTIONS[convention]
        levels = []
        for stride, of_level in zip(strides, sizes, strict=True):
            pairs = [(size, ratio) for ratio in ratios for size in of_level]
            if how.size_outer:
                pairs = [(size, ratio) for size in of_level for ratio in ratios]
            shapes = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for size, ratio in pairs]
            levels.append(AnchorLevel(level_name(stride), stride, shapes))
        anchors = AnchorSet(tuple(levels), center_offset=how.center_offset, name=convention)
        return cls(anchors, strides=how.strides, rounded=how.rounded)

    @property
    def num_anchors(self) -> list[int]:
        """Anchors in a cell, for each level: a head's ``num_anchors``."""
        return [len(level.shapes) for level in self.anchors.levels]

    def select_levels(self, levels: Sequence[int]) -> AnchorGenerator:
        """The grid of some of the levels, by their index from fine to coarse."""
        chosen = tuple(self.anchors.levels[level] for level in levels)
        return AnchorGenerator(replace(self.anchors, levels=chosen), strides=self.strides, rounded=self.rounded)

    def generate(
        self,
        level_hw: Sequence[tuple[int, int]],
        image_hw: tuple[int, int] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> GridAnchors:
        """The anchors on levels of these sizes.

        Args:
            level_hw: rows and columns of each level, from fine to coarse.
            image_hw: height and width of the padded input; not needed where strides are exact.

        Raises:
            ValueError: other than one size for each level of the set, or ``image_hw`` is missing.
        """
        if len(level_hw) != len(self.anchors.levels):
            names = ", ".join(level.name for level in self.anchors.levels)
            raise ValueError(f"{len(level_hw)} feature levels for anchors on {len(self.anchors.levels)} ({names})")
        if image_hw is None and self.strides != "exact":
            raise ValueError(f"strides={self.strides!r} follow from the input's size: image_hw is missing")
        device = torch.device(device)
        if torch.compiler.is_compiling():  # traced tensors are not to outlive the trace
            return self._place(level_hw, image_hw, dtype, device)
        key = (tuple(level_hw), image_hw, dtype, device)
        if key not in self._kept:
            with torch.inference_mode(False), torch.no_grad():  # what is kept must serve training as well
                self._kept[key] = self._place(level_hw, image_hw, dtype, device)
            if len(self._kept) > MAX_CACHED:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _place(
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
            if self.rounded:
                corners = corners.round()
            center = corners.new_tensor([stride_x, stride_y]).repeat(2) * self.anchors.center_offset
            level_grids.append(LevelGrid(height, width, (stride_x, stride_y), corners + center))
        return GridAnchors(torch.cat([level.boxes() for level in level_grids]), tuple(level_grids))

    def _stride_xy(
        self, stride: int, level_hw: tuple[int, int], image_hw: tuple[int, int] | None
    ) -> tuple[float, float]:
        if self.strides == "exact" or image_hw is None:
            return float(stride), float(stride)
        y, x = (image / cells for image, cells in zip(image_hw, level_hw, strict=True))
        return (float(int(x)), float(int(y))) if self.strides == "floor" else (x, y)
