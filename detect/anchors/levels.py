"""Which pyramid levels a dataset prefers, what leaving some out costs and saves, and whether a finer one would pay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorLevel, AnchorSet, level_name
from detect.anchors.assignment import Assignment, assign
from detect.anchors.generator import AnchorGenerator
from detect.anchors.grid_iou import grid_iou_by_level
from detect.anchors.head_cost import HeadSize, LevelCost, level_costs
from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import AnchorMetrics, anchor_metrics
from detect.errors import FitError
from detect.ops.matcher import Matcher

SCALES = (0.5, 1.0)  # of the finest level's shapes: as the next of a pyramid would be; as they are, but laid closer
MUST_GAIN = 0.01  # share of instances


@dataclass(frozen=True)
class ExtraLevel:
    """A level of half the finest stride, beside the others; ``pays`` where it covers 1 % of the instances in addition."""

    name: str
    stride: int
    beside: str
    """The finest level so far, whose shapes times ``scale`` are ``shapes``."""
    scale: float
    shapes: tuple[tuple[float, float], ...]
    recall: float
    average_iou: float
    """Both as placed on the grid, with all levels."""
    gained: int
    """Instances that it covers and no other level does."""
    gained_share: float
    anchors_added: float
    flops_added: float
    """As shares of the head without it."""
    pays: bool

    @property
    def words(self) -> str:
        """All of it in a sentence."""
        shapes = f"the shapes of {self.beside}" + (" halved" if self.scale < 1 else "")
        return (
            f"{self.name} with {shapes} would cover {self.gained:,} more ({self.gained_share:.1%} of instances), for "
            f"{self.anchors_added:.1f} times the anchors and {self.flops_added:.1f} times the operations in addition: "
            f"it {'pays' if self.pays else 'does not pay'}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return vars(self) | {"shapes": [list(shape) for shape in self.shapes]}


def extra_level(score: AnchorMetrics, grid: AnchorGenerator, head: HeadSize, *, threshold: float) -> ExtraLevel | None:
    """Half the finest stride, with the finest level's shapes at one of ``SCALES``: that which covers more.

    None where the finest stride is odd.

    >>> from detect.anchors.metrics import anchor_metrics
    >>> from detect.anchors.instances import ResizedInstances
    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 64, "height": 64}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 8, 8]}],
    ... })
    >>> grid = AnchorGenerator(AnchorSet.of([[(16, 16)]], strides=[16]))
    >>> score = anchor_metrics(ResizedInstances.of(dataset, parse_resize("none")), grid.anchors)
    >>> extra_level(score, grid, HeadSize(num_classes=1), threshold=0.5).words
    'P3 with the shapes of P4 halved would cover 1 more (100.0% of instances), for 4.0 times the anchors and 4.0 times the
    operations in addition: it pays'
    """
    if grid.anchors.levels[0].stride % 2:
        return None
    tried = [_at_scale(scale, score, grid, head, threshold) for scale in SCALES]
    return max(tried, key=lambda finer: (finer.gained, finer.average_iou))


def _at_scale(
    scale: float, score: AnchorMetrics, grid: AnchorGenerator, head: HeadSize, threshold: float
) -> ExtraLevel:
    finest, instances = grid.anchors.levels[0], score.instances
    stride = finest.stride // 2
    shapes = [(width * scale, height * scale) for width, height in finest.shapes]
    alone = AnchorSet((AnchorLevel(level_name(stride), stride, shapes),), center_offset=grid.anchors.center_offset)
    iou = grid_iou_by_level(
        instances.boxes, instances.canvas_wh, alone, strides=grid.strides, rounded=grid.rounded
    ).max(axis=1)
    best = np.maximum(iou, score.placed_best_iou)
    gained = int(((iou >= threshold) & (score.placed_best_iou < threshold)).sum())
    canvas_wh = instances.rule.resize_images(instances.dataset.images.wh).canvas_wh
    (cost,), others = level_costs(canvas_wh, alone, head), level_costs(canvas_wh, grid.anchors, head)
    count = len(best)
    return ExtraLevel(
        name=level_name(stride),
        stride=stride,
        beside=finest.name,
        scale=scale,
        shapes=tuple(shapes),
        recall=float((best >= threshold).mean()) if count else float("nan"),
        average_iou=float(best.mean()) if count else float("nan"),
        gained=gained,
        gained_share=gained / count if count else float("nan"),
        anchors_added=cost.anchors / sum(other.anchors for other in others),
        flops_added=cost.flops / sum(other.flops for other in others),
        pays=gained >= max(1, MUST_GAIN * count),
    )


COVERED = 0.5  # IoU on the grid from which an instance counts as covered
MAY_LOSE = 0.001  # share of instances that a suggestion may leave uncovered
MAX_LEVELS = 10  # 1,023 subsets
MAX_LISTED = 1000  # annotation ids of a subset in a JSON object; their number is always whole


@dataclass(frozen=True)
class LevelShare:
    """What one level takes, and what it costs for an image."""

    name: str
    stride: int
    num_shapes: int
    preferred: float
    """Share of the instances that find their best anchor here."""
    positives: float
    """Share of all positive anchors."""
    cost: LevelCost


@dataclass(frozen=True, eq=False)
class KeptLevels:
    """What remains with some of the levels; ``levels`` is what ``RetinaNetHead.select_levels`` and the grid's take."""

    levels: tuple[int, ...]
    names: tuple[str, ...]
    dropped: tuple[str, ...]
    recall: float
    average_iou: float
    """Both as placed on the grid."""
    lost: Int64[ndarray, " m"]
    """Ids of the annotations that all levels together cover, and these do not."""
    without_threshold: int
    """Instances that no kept anchor learns but by the low-quality rule."""
    anchors_saved: float
    flops_saved: float
    """Shares of the whole head's."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        ids = self.lost[:MAX_LISTED].tolist()
        fields = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return fields | {"lost": len(self.lost), "lost_ids": ids}


@dataclass(frozen=True, eq=False)
class LevelReport:
    """Which levels a dataset prefers; made by :func:`level_report`."""

    score: AnchorMetrics
    assignment: Assignment
    costs: tuple[LevelCost, ...]
    finer: ExtraLevel | None
    threshold: float = COVERED

    @cached_property
    def levels(self) -> tuple[LevelShare, ...]:
        count, positives = len(self.score.instances), self.assignment.positives.sum(axis=0)
        preferred = np.bincount(self.score.placed_level, minlength=len(positives))
        return tuple(
            LevelShare(
                level.name,
                level.stride,
                len(level.shapes),
                _share(int(preferred[number]), count),
                _share(int(positives[number]), int(positives.sum())),
                self.costs[number],
            )
            for number, level in enumerate(self.score.anchors.levels)
        )

    def keep(self, levels: Sequence[int]) -> KeptLevels:
        """What remains with these levels, by index from fine to coarse.

        Raises:
            ValueError: no level, one twice, or one that there is not.
        """
        count = len(self.costs)
        kept = tuple(sorted(set(levels)))
        if not kept or len(kept) < len(levels) or not 0 <= kept[0] <= kept[-1] < count:
            raise ValueError(f"need one or more different levels from 0 to {count - 1}, got {tuple(levels)}")
        names = tuple(level.name for level in self.score.anchors.levels)
        best = self.score.placed_level_iou[:, kept].max(axis=1)
        covered = best >= self.threshold
        ids = self.score.instances.dataset.instances.ids
        return KeptLevels(
            kept,
            tuple(names[level] for level in kept),
            tuple(name for level, name in enumerate(names) if level not in kept),
            _mean(covered),
            _mean(best),
            ids[self._covered & ~covered],
            int((self.assignment.by_threshold[:, kept].sum(axis=1) == 0).sum()),
            1 - _share(sum(self.costs[level].anchors for level in kept), sum(cost.anchors for cost in self.costs)),
            1 - _share(sum(self.costs[level].flops for level in kept), sum(cost.flops for cost in self.costs)),
        )

    @cached_property
    def without_each(self) -> tuple[KeptLevels, ...]:
        """What remains without each level in turn; nothing where there is but one."""
        every = range(len(self.costs))
        return tuple(self.keep([other for other in every if other != level]) for level in every if len(every) > 1)

    def subsets(self) -> Iterator[KeptLevels]:
        """Every subset of the levels, large ones first; all of them is the first."""
        every = range(len(self.costs))
        for size in range(len(every), 0, -1):
            for levels in combinations(every, size):
                yield self.keep(levels)

    @cached_property
    def suggested(self) -> KeptLevels:
        """The cheapest subset, in the head's operations, that loses at most ``MAY_LOSE`` of the instances; of none, all."""
        if not len(self.score.instances):
            return self.keep(range(len(self.costs)))
        allowed = MAY_LOSE * len(self.score.instances)
        return max((kept for kept in self.subsets() if len(kept.lost) <= allowed), key=lambda kept: kept.flops_saved)

    @cached_property
    def advice(self) -> tuple[str, ...]:
        """All of it in words: a line for each level, one on what to keep, one on a finer level."""
        lines = []
        for level, without in zip(self.levels, self.without_each, strict=False):
            lines.append(
                f"{level.name} takes {level.positives:.1%} of positives and is the best level of {level.preferred:.1%} of "
                f"instances; without it {_lost(without)}; it is {without.anchors_saved:.1%} of the anchors and "
                f"{without.flops_saved:.1%} of the head's operations"
            )
        kept = self.suggested
        if kept.dropped:
            lines.append(
                f"keep {', '.join(kept.names)}: {_lost(kept)}; saved are {kept.anchors_saved:.1%} of the anchors and "
                f"{kept.flops_saved:.1%} of the head's operations"
            )
        else:
            lines.append("keep all levels: each covers instances that no other does")
        return (*lines, *([self.finer.words] if self.finer else []))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return {
            "threshold": self.threshold,
            "recall": self.score.grid_recall(self.threshold),
            "average_iou": self.score.grid_average_iou,
            "levels": [asdict(level) for level in self.levels],
            "subsets": [kept.to_dict() for kept in self.subsets()],
            "suggested": list(self.suggested.levels),
            "finer": self.finer.to_dict() if self.finer else None,
            "advice": list(self.advice),
        }

    @cached_property
    def _covered(self) -> Bool[ndarray, " n"]:
        return self.score.placed_best_iou >= self.threshold


def level_report(
    instances: ResizedInstances,
    grid: AnchorGenerator,
    head: HeadSize | None = None,
    *,
    matcher: Matcher | None = None,
    threshold: float = COVERED,
) -> LevelReport:
    """Which levels the instances prefer, by position and by what the matcher does.

    Args:
        instances: boxes after the detector's resize rule.
        grid: anchors, and how they are laid.
        head: what operations are counted for; by default RetinaNet's, for the categories of the dataset.
        matcher: by default :class:`detect.ops.matcher.MaxIoU`.
        threshold: IoU on the grid from which an instance counts as covered.

    Raises:
        FitError: more than ``MAX_LEVELS`` levels.

    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 64, "height": 64}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [
    ...         {"id": 5, "image_id": 1, "category_id": 1, "bbox": [0, 0, 16, 16]},
    ...         {"id": 9, "image_id": 1, "category_id": 1, "bbox": [0, 0, 60, 60]},
    ...     ],
    ... })
    >>> from detect.anchors.anchor_set import AnchorSet
    >>> grid = AnchorGenerator(AnchorSet.of([[(16, 16)], [(32, 32)], [(60, 60)]], strides=(16, 32, 64)))
    >>> preference = level_report(ResizedInstances.of(dataset, parse_resize("none")), grid)
    >>> preference.advice[3].partition(";")[0]
    'keep P4, P6: no instance is lost'
    >>> grid.select_levels(preference.suggested.levels).num_anchors
    [1, 1]
    """
    if len(grid.anchors.levels) > MAX_LEVELS:
        raise FitError(f"{len(grid.anchors.levels)} levels: their subsets are compared for at most {MAX_LEVELS}")
    head = head or HeadSize(max(1, len(instances.dataset.categories)))
    score = anchor_metrics(instances, grid.anchors, strides=grid.strides, rounded=grid.rounded)
    costs = level_costs(instances.rule.resize_images(instances.dataset.images.wh).canvas_wh, grid.anchors, head)
    finer = extra_level(score, grid, head, threshold=threshold)
    return LevelReport(score, assign(instances, grid, matcher), costs, finer, threshold)


def _lost(kept: KeptLevels) -> str:
    count = len(kept.lost)
    if not count:
        return "no instance is lost"
    ids = ", ".join(map(str, kept.lost[:10].tolist())) + (f" and {count - 10:,} more" if count > 10 else "")
    instances, annotations = ("instance is", "annotation") if count == 1 else ("instances are", "annotations")
    return f"{count:,} {instances} lost: {annotations} {ids}"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _mean(values: ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
