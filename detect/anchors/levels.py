"""Level report: the pyramid levels that a dataset uses, the losses and savings without some, and an extra level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import assign
from detect.anchors.assignment import Assignment
from detect.anchors.extra_level import ExtraLevel, extra_level_of
from detect.anchors.generator import AnchorGenerator
from detect.anchors.head_cost import HeadSize, LevelCost, level_costs
from detect.anchors.instances import ResizedInstances
from detect.anchors.level_sums import LevelSums, SubsetSums
from detect.anchors.metrics import COVERED, AnchorMetrics, anchor_metrics
from detect.data import CocoDataset
from detect.errors import FitError
from detect.ops.exact_sums import FirstItems
from detect.ops.matcher import Matcher

MAX_LOSS = 0.001  # share of the instances that a suggestion may lose
MAX_LEVELS = 10  # 1,023 subsets
MAX_NAMED = 10  # annotation ids in a sentence


@dataclass(frozen=True, kw_only=True)
class LevelShare:
    """The share of one level in the instances and positives, and its cost per image."""

    name: str
    stride: int
    num_shapes: int
    preferred: float
    """Share of the instances whose best anchor on the grid is on this level."""
    positives: float
    """Share of the positive anchors of all levels."""
    cost: LevelCost


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptLevels:
    """A subset of the levels: the instances it loses, and the anchors and operations it saves."""

    levels: tuple[int, ...]
    """Indices from fine to coarse: the argument of ``RetinaNetHead.select_levels`` and ``AnchorGenerator.select_levels``."""
    names: tuple[str, ...]
    dropped: tuple[str, ...]
    recall: float
    """Recall on the grid."""
    average_iou: float
    """Average IoU on the grid."""
    lost: FirstItems[int]
    """Ids of the annotations that all levels together cover and this subset misses."""
    without_threshold: int
    """Instances without a positive anchor on the kept levels, except by the low-quality rule."""
    anchors_saved: float
    """Share of all anchors."""
    flops_saved: float
    """Share of the head's operations on all levels."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return vars(self) | {"lost": len(self.lost), "lost_ids": list(self.lost)}


@dataclass(frozen=True, eq=False)
class LevelReport:
    """The levels that a dataset uses; made by :func:`level_report`."""

    sums: LevelSums
    head: HeadSize
    threshold: float = COVERED
    by_instance: tuple[AnchorMetrics, Assignment] | None = None
    """The metrics and the assignment of each instance; None if only counts are known."""

    @property
    def score(self) -> AnchorMetrics:
        """The metrics of each instance."""
        if self.by_instance is None:
            raise ValueError("only counts of the instances are known")
        return self.by_instance[0]

    @cached_property
    def costs(self) -> tuple[LevelCost, ...]:
        return level_costs(self.sums.canvases, self.sums.anchors, self.head)

    @property
    def num_instances(self) -> int:
        return self.whole.iou.count

    @property
    def whole(self) -> SubsetSums:
        """All levels together."""
        return self.sums.of_subset[tuple(range(len(self.costs)))]

    @cached_property
    def extra_level(self) -> ExtraLevel | None:
        return extra_level_of(self.sums.extra, self.sums.anchors, self.sums.canvases, self.head)

    @cached_property
    def levels(self) -> tuple[LevelShare, ...]:
        positives = self.sums.positives
        return tuple(
            LevelShare(
                name=level.name,
                stride=level.stride,
                num_shapes=len(level.shapes),
                preferred=_share(self.sums.preferred[number], self.num_instances),
                positives=_share(positives[number], sum(positives)),
                cost=self.costs[number],
            )
            for number, level in enumerate(self.sums.anchors.levels)
        )

    def keep(self, levels: Sequence[int]) -> KeptLevels:
        """The subset with these levels, given by index from fine to coarse.

        Raises:
            ValueError: no level is given, one is given twice, or an index is out of range.
        """
        count = len(self.costs)
        kept = tuple(sorted(set(levels)))
        if not kept or len(kept) < len(levels) or not 0 <= kept[0] <= kept[-1] < count:
            raise ValueError(f"need one or more different levels from 0 to {count - 1}, got {tuple(levels)}")
        names, sums = tuple(level.name for level in self.sums.anchors.levels), self.sums.of_subset[kept]
        return KeptLevels(
            levels=kept,
            names=tuple(names[level] for level in kept),
            dropped=tuple(name for level, name in enumerate(names) if level not in kept),
            recall=sums.covered.value,
            average_iou=sums.iou.value,
            lost=sums.lost,
            without_threshold=sums.without_threshold,
            anchors_saved=_saving([cost.anchors for cost in self.costs], kept),
            flops_saved=_saving([cost.flops for cost in self.costs], kept),
        )

    @cached_property
    def without_each(self) -> tuple[KeptLevels, ...]:
        """The subsets without one level, in the order of the level; empty if the set has only one."""
        every = range(len(self.costs))
        return tuple(self.keep([other for other in every if other != level]) for level in every if len(every) > 1)

    def subsets(self) -> Iterator[KeptLevels]:
        """Every subset of the levels, largest first, beginning with all levels."""
        count = len(self.costs)
        return (self.keep(levels) for size in range(count, 0, -1) for levels in combinations(range(count), size))

    @cached_property
    def pareto_front(self) -> tuple[KeptLevels, ...]:
        """The subsets that save more operations than all that lose as few instances, in order of savings."""
        chosen: list[KeptLevels] = []
        for kept in sorted(self.subsets(), key=lambda kept: (-kept.flops_saved, len(kept.lost))):
            if not chosen or len(kept.lost) < len(chosen[-1].lost):
                chosen.append(kept)
        return tuple(chosen[::-1])

    @cached_property
    def suggested(self) -> KeptLevels:
        """The subset with the fewest operations that loses at most ``MAX_LOSS`` of the instances; all if there are none."""
        if not self.num_instances:
            return self.keep(range(len(self.costs)))
        allowed = MAX_LOSS * self.num_instances
        return max((kept for kept in self.subsets() if len(kept.lost) <= allowed), key=lambda kept: kept.flops_saved)

    @cached_property
    def advice(self) -> tuple[str, ...]:
        """The report in words: a line for each level, one on the levels to keep, one on the extra level."""
        lines = [
            f"{level.name} has {level.positives:.1%} of positives and the best anchor of {level.preferred:.1%} of "
            f"instances; without it {_lost(without)}; dropping it saves {_saved(without)}"
            for level, without in zip(self.levels, self.without_each, strict=False)
        ]
        kept = self.suggested
        keep = "keep all levels: each covers instances that no other level covers"
        if kept.dropped:
            keep = f"keep {', '.join(kept.names)}: {_lost(kept)}; this saves {_saved(kept)}"
        return (*lines, keep, *([self.extra_level.words] if self.extra_level else []))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "threshold": self.threshold,
            "recall": self.whole.covered.value,
            "average_iou": self.whole.iou.value,
            "levels": [asdict(level) for level in self.levels],
            "subsets": [kept.to_dict() for kept in self.subsets()],
            "suggested": list(self.suggested.levels),
            "extra_level": self.extra_level.to_dict() if self.extra_level else None,
            "advice": list(self.advice),
        }


def level_report(
    instances: ResizedInstances,
    generator: AnchorGenerator,
    *,
    head: HeadSize | None = None,
    matcher: Matcher | None = None,
    threshold: float = COVERED,
) -> LevelReport:
    """Report the levels that the instances use, by best anchor on the grid and by positive anchors.

    Args:
        instances: boxes after the detector's resize rule.
        generator: anchors and their convention.
        head: the head whose operations are counted; by default RetinaNet's, with the dataset's number of categories.
        matcher: by default :class:`detect.ops.matcher.MaxIoU`.
        threshold: IoU on the grid from which an instance counts as covered.

    Raises:
        FitError: there are more than ``MAX_LEVELS`` levels.

    >>> from detect.data import read_coco
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 64, "height": 64}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [
    ...         {"id": 5, "image_id": 1, "category_id": 1, "bbox": [0, 0, 16, 16]},
    ...         {"id": 9, "image_id": 1, "category_id": 1, "bbox": [0, 0, 60, 60]},
    ...     ],
    ... })
    >>> from detect.anchors.anchor_set import AnchorSet
    >>> generator = AnchorGenerator(AnchorSet.of([[(16, 16)], [(32, 32)], [(60, 60)]], strides=(16, 32, 64)))
    >>> report = level_report(ResizedInstances.of(dataset, "none"), generator)
    >>> report.advice[3].partition(";")[0]
    'keep P4, P6: no instance is lost'
    >>> generator.select_levels(report.suggested.levels).num_anchors
    [1, 1]
    """
    require_few_levels(generator.anchors)
    head = head or HeadSize.of_dataset(instances.dataset)
    metrics = anchor_metrics(instances, generator.anchors, convention=generator.convention)
    assignment = assign(instances, generator, matcher)
    return LevelReport(LevelSums.of(metrics, assignment, threshold), head, threshold, (metrics, assignment))


def require_few_levels(anchors: AnchorSet) -> None:
    """Raise FitError if there are more than ``MAX_LEVELS`` levels."""
    if len(anchors.levels) > MAX_LEVELS:
        raise FitError(f"{len(anchors.levels)} levels: subsets are compared for at most {MAX_LEVELS}")


def count_levels(
    dataset: CocoDataset,
    *,
    rule: str,
    anchors: AnchorSet,
    convention: str,
    matcher: Matcher,
    threshold: float = COVERED,
) -> LevelSums:
    """The sums of a report on a dataset or a shard."""
    instances, generator = ResizedInstances.of(dataset, rule), AnchorGenerator(anchors, convention=convention)
    metrics = anchor_metrics(instances, anchors, convention=generator.convention)
    return LevelSums.of(metrics, assign(instances, generator, matcher), threshold)


def _lost(kept: KeptLevels) -> str:
    count = len(kept.lost)
    if not count:
        return "no instance is lost"
    instances, annotations = ("instance is", "annotation") if count == 1 else ("instances are", "annotations")
    more = [f"and {count - MAX_NAMED:,} more"] if count > MAX_NAMED else []
    named = ", ".join([*map(str, kept.lost[:MAX_NAMED]), *more])
    return f"{count:,} {instances} lost: {annotations} {named}"


def _saved(kept: KeptLevels) -> str:
    return f"{kept.anchors_saved:.1%} of the anchors and {kept.flops_saved:.1%} of the head's operations"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _saving(parts: Sequence[float], kept: Sequence[int]) -> float:
    return 1 - _share(sum(parts[level] for level in kept), sum(parts))
