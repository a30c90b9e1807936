"""The objective that a fit maximises."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from jaxtyping import Bool, Float64
from numpy import ndarray

from detect.errors import FitError

SLACK = 1e-9  # an IoU this little below a threshold reaches it: histograms keep logarithms, which round
ON_GRID = {"shape": False, "grid": True}
NUMBER = r"(\d*\.?\d+)"


@dataclass(frozen=True)
class Objective:
    """The mean over boxes of ``(1 - recall_share) * IoU + recall_share * (IoU >= threshold)``.

    IoU is the best IoU with any anchor: by shape, as if they shared a centre, or with ``on_grid`` at its place on the grid.
    With ``of_sides`` the best side ratio takes the place of IoU, by which YOLOv5 and YOLOv7 match: the least of width over
    width and height over height, each the smaller over the larger.

    >>> import numpy as np
    >>> Objective.parse("recall@0.5").of_iou(np.array([0.4, 0.5, 0.6]))
    array([0., 1., 1.])
    >>> Objective.parse("0.8*iou+0.2*recall@0.5").of_iou(np.array([0.4, 0.5]))
    array([0.32, 0.6 ])
    """

    recall_share: float = 0.0
    threshold: float = 0.5
    on_grid: bool = False
    of_sides: bool = False

    def __post_init__(self) -> None:
        if self.on_grid and self.of_sides:
            raise FitError("a side ratio depends on shapes alone: it is no objective on the grid")
        if not (0 <= self.recall_share <= 1 and 0 < self.threshold <= 1):
            raise FitError(f"need 0 <= recall_share <= 1 and 0 < threshold <= 1, got {self!r}")

    @classmethod
    def parse(cls, text: str | Objective, *, on_grid: bool = False) -> Objective:
        """Read ``iou``, ``recall@T``, ``ratio`` or a blend; an objective is returned as it is.

        The shares of a blend such as ``0.8*iou+0.2*recall@0.5`` add up to 1. ``shape:`` or ``grid:`` before the text
        overrides ``on_grid``; ``shape`` and ``grid`` alone are the mean IoU.
        ``ratio`` is the mean side ratio, always by shape. In a blend with it, recall is of the side ratio as well:
        ``0.8*ratio+0.2*recall@0.25`` is at most 0.8 * (f + 0.25) for YOLOv5's fitness f, which counts ratios below 0.25 as
        0, and equal to it where no box is below.

        Raises:
            FitError: the text is none of these, or a share or threshold is out of its range.

        >>> Objective.parse("shape"), Objective.parse("recall@0.5", on_grid=True)  # doctest: +ELLIPSIS
        (Objective(recall_share=0.0, ..., on_grid=False, ...), Objective(recall_share=1.0, ..., on_grid=True, ...))
        """
        if isinstance(text, Objective):
            return text
        before, colon, after = text.partition(":")
        kind, utility = (before, after) if colon else (text, "iou")
        if not colon and kind not in ON_GRID:
            parsed = cls._of_utility(text)
            return replace(parsed, on_grid=on_grid and not parsed.of_sides)
        if kind not in ON_GRID:
            raise FitError(f"objective {text!r} begins with neither shape nor grid")
        return replace(cls._of_utility(utility), on_grid=ON_GRID[kind])

    @classmethod
    def _of_utility(cls, text: str) -> Objective:
        if text in ("iou", "ratio"):
            return cls(of_sides=text == "ratio")
        if match := re.fullmatch(f"recall@{NUMBER}", text):
            return cls(1.0, float(match[1]))
        match = re.fullmatch(rf"{NUMBER}\*(iou|ratio)\+{NUMBER}\*recall@{NUMBER}", text.replace(" ", ""))
        if match is None:
            raise FitError(f"objective {text!r} is not iou, recall@T, ratio, or like 0.8*iou+0.2*recall@0.5")
        iou_share, recall_share, threshold = (float(match[group]) for group in (1, 3, 4))
        if abs(iou_share + recall_share - 1) > SLACK:
            raise FitError(f"the shares of objective {text!r} add up to {iou_share + recall_share:g}, not 1")
        return cls(recall_share, threshold, of_sides=match[2] == "ratio")

    def __str__(self) -> str:
        """The utility as :meth:`parse` reads it.

        >>> str(Objective.parse("grid:0.8*iou+0.2*recall@0.5"))
        '0.8*iou+0.2*recall@0.5'
        """
        mean, recall = "ratio" if self.of_sides else "iou", f"recall@{self.threshold:g}"
        if self.recall_share in (0, 1):
            return recall if self.recall_share else mean
        return f"{self.iou_share:g}*{mean}+{self.recall_share:g}*{recall}"

    @property
    def iou_share(self) -> float:
        return 1 - self.recall_share

    @property
    def reaches(self) -> float:
        """The least IoU that reaches the threshold."""
        return self.threshold * (1 - SLACK)

    def of_iou(self, iou: Float64[ndarray, "*shape"]) -> Float64[ndarray, "*shape"]:
        return self.blend(iou, iou >= self.reaches) if self.recall_share else iou

    def blend(
        self, iou: Float64[ndarray, "*shape"], reached: Bool[ndarray, "*shape"] | Float64[ndarray, "*shape"]
    ) -> Float64[ndarray, "*shape"]:
        """The utility from separate IoU and recall."""
        return self.iou_share * iou + self.recall_share * reached if self.recall_share else iou

    def score_name(self, *, weighted: bool = False, priced: bool = False) -> str:
        """The name of the score, as it stands in ``anchors.yaml``.

        >>> Objective.parse("recall@0.5", on_grid=True).score_name(priced=True)
        'grid_recall_at_0.5_less_cost'
        """
        mean = "average_side_ratio" if self.of_sides else "average_iou"
        name = {0.0: mean, 1.0: f"recall_at_{self.threshold:g}"}.get(self.recall_share, "objective")
        sides = self.of_sides and self.recall_share > 0
        kinds = (("weighted", weighted), ("grid", self.on_grid), ("side_ratio", sides))
        prefixes = [word for word, used in kinds if used]
        return "_".join([*prefixes, name, *(["less_cost"] if priced else [])])
