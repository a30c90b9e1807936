"""What a box gains from a shape: its IoU, whether that reaches a threshold, or a blend of both."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jaxtyping import Float64
from numpy import ndarray

SLACK = 1e-9  # an IoU this little below a threshold reaches it: histograms keep logarithms, which round


@dataclass(frozen=True)
class ShapeGain:
    """``(1 - recall_share) * IoU + recall_share * (IoU >= threshold)``, between 0 and 1.

    >>> import numpy as np
    >>> ShapeGain.parse("recall@0.5").of_iou(np.array([0.4, 0.5, 0.6]))
    array([0., 1., 1.])
    >>> ShapeGain.parse("0.8*iou+0.2*recall@0.5").of_iou(np.array([0.4, 0.5]))
    array([0.32, 0.6 ])
    """

    recall_share: float = 0.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.recall_share <= 1 and 0 < self.threshold <= 1):
            raise ValueError(f"need 0 <= recall_share <= 1 and 0 < threshold <= 1, got {self}")

    @classmethod
    def parse(cls, text: str) -> ShapeGain:
        """From ``iou``, ``recall@T``, or both with shares that add up to 1: ``0.8*iou+0.2*recall@0.5``.

        Raises:
            ValueError: the text is none of these, or a share or threshold is out of its range.
        """
        number = r"(\d*\.?\d+)"
        if text == "iou":
            return cls()
        if match := re.fullmatch(rf"recall@{number}", text):
            return cls(1.0, float(match[1]))
        match = re.fullmatch(rf"{number}\*iou\+{number}\*recall@{number}", text.replace(" ", ""))
        if match is None:
            raise ValueError(f"objective {text!r} is not iou, recall@T, or like 0.8*iou+0.2*recall@0.5")
        if abs(float(match[1]) + float(match[2]) - 1) > SLACK:
            raise ValueError(f"the shares of objective {text!r} add up to {float(match[1]) + float(match[2]):g}, not 1")
        return cls(float(match[2]), float(match[3]))

    @property
    def reaches(self) -> float:
        """The least IoU that counts as reaching the threshold."""
        return self.threshold * (1 - SLACK)

    def of_iou(self, iou: Float64[ndarray, "*shape"]) -> Float64[ndarray, "*shape"]:
        """The gain at each IoU."""
        if self.recall_share == 0:
            return iou
        return (1 - self.recall_share) * iou + self.recall_share * (iou >= self.reaches)
