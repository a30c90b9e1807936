"""Cost of the levels of a RetinaNet head: anchors and floating point operations per image."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.grid_convention import num_cells
from detect.data import CocoDataset
from detect.data.dataset_counts import DatasetCounts

KERNEL_CELLS = 9  # every convolution is 3 x 3
BOX_CHANNELS = 4


@dataclass(frozen=True)
class HeadSize:
    """The arguments of :class:`detect.heads.retinanet.RetinaNetHead` that determine its operations.

    Each of the two subnets has ``num_convs`` convolutions of ``hidden_channels`` (by default ``in_channels``) and an output.

    Raises:
        ValueError: ``num_convs`` is negative, or another number is below 1.
    """

    num_classes: int
    in_channels: int = 256
    num_convs: int = 4
    hidden_channels: int | None = None

    def __post_init__(self) -> None:
        if min(self.num_classes, *self._channels) < 1 or self.num_convs < 0:
            raise ValueError(f"need channels and num_classes from 1 and num_convs from 0, got {self}")

    @classmethod
    def of_dataset(cls, dataset: CocoDataset | DatasetCounts) -> HeadSize:
        """RetinaNet's head for the categories of a dataset."""
        return cls(max(1, len(dataset.categories)))

    @property
    def _channels(self) -> tuple[int, int]:
        return self.in_channels, self.in_channels if self.hidden_channels is None else self.hidden_channels

    def flops_per_cell(self, num_anchors: int) -> int:
        """Floating point operations of both subnets for one cell with ``num_anchors`` anchors.

        A multiply-add counts as two. Biases, norms and ReLUs are left out, as in fvcore and ``torch.utils.flop_counter``.

        >>> HeadSize(num_classes=80).flops_per_cell(9)  # 2 * 9 * (2 * 4 * 256 * 256 + 256 * 9 * (80 + 4))
        12920832
        """
        first, hidden = self._channels
        channels = [first] + [hidden] * self.num_convs
        towers = 2 * sum(before * after for before, after in itertools.pairwise(channels))
        outputs = channels[-1] * num_anchors * (self.num_classes + BOX_CHANNELS)
        return 2 * KERNEL_CELLS * (towers + outputs)


@dataclass(frozen=True)
class LevelCost:
    """Cost of one level for one image, as a mean over the dataset."""

    cells: float
    anchors: float
    flops: float


def level_costs(
    canvas_wh: Int64[ndarray, "b 2"] | Mapping[tuple[int, int], int], anchors: AnchorSet, head: HeadSize
) -> tuple[LevelCost, ...]:
    """The cost of each level, as a mean over inputs of these sizes, or over the number of inputs of each size.

    >>> import numpy as np
    >>> anchors = AnchorSet.of([[(8, 8)], [(32, 32)]], strides=(8, 32))
    >>> costs = level_costs(np.array([[64, 64], [64, 32]]), anchors, HeadSize(num_classes=1))
    >>> [(cost.cells, cost.anchors) for cost in costs]
    [(48.0, 48.0), (3.0, 3.0)]
    """
    if isinstance(canvas_wh, Mapping):
        sizes, times = np.array(list(canvas_wh), np.int64).reshape(-1, 2), np.array(list(canvas_wh.values()), np.int64)
    else:
        sizes, times = canvas_wh, np.ones(len(canvas_wh), np.int64)
    costs = []
    for level in anchors.levels:
        cells = num_cells(sizes, level.stride).prod(axis=1)
        mean = int(cells @ times) / int(times.sum()) if len(times) else float("nan")
        num_anchors = len(level.shapes)
        costs.append(LevelCost(mean, mean * num_anchors, mean * head.flops_per_cell(num_anchors)))
    return tuple(costs)
