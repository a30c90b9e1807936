"""What a detector's own matching makes of anchors: the boxes that it reaches, and how many anchors learn each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
from jaxtyping import Bool, Float64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assignment import Assignment
from detect.anchors.assignment_sums import AssignmentSums
from detect.anchors.center_rules import assign_by_center, similarity
from detect.anchors.grid_iou import grid_iou_by_level
from detect.anchors.instances import ResizedInstances
from detect.catalog.detectors import AnchorDetector
from detect.catalog.matching import AtssRule, BestShape, CenterCell, MaxIoURule, SideRatio
from detect.data import CocoDataset
from detect.ops.exact_sums import ExactMean, Sums, mean_or_nan

MEASURES = {  # of each rule: what its similarity is
    "side-ratio": "side ratio",
    "best-shape": "IoU by shape",
    "center-cell": "IoU by shape",
    "max-iou": "IoU on the grid",
    "atss": "IoU on the grid",
}


class UnderRule:
    """What the numbers of a detector's matching rule are."""

    detector: AnchorDetector

    @property
    def measure(self) -> str:
        return MEASURES[self.detector.rule]

    def in_words(self) -> str:
        """What the numbers mean, in a sentence."""
        rule = self.detector.matching
        reached = "that learn at least one anchor"
        if isinstance(rule, SideRatio):
            reached = f"with an anchor whose sides differ by less than a factor of {rule.ratio:g}"
        elif isinstance(rule, MaxIoURule):
            reached = f"with an anchor of IoU {rule.fg_iou_thresh:g} or more"
        return (
            f"{self.detector.rule}: reached is the share of boxes {reached}; score is the mean {self.measure}, else 0"
        )


@dataclass(frozen=True)
class DetectorSums(Sums, UnderRule):
    """The score of anchors under a detector's rule, as sums. Sums of shards add up to those of the dataset."""

    detector: AnchorDetector
    anchors: AnchorSet
    similarity: ExactMean
    of_reached: ExactMean
    """The mean of the highest similarity of each instance, 0 for an instance that no anchor reaches."""
    reached: ExactMean
    assigned: AssignmentSums | None = None

    @property
    def score(self) -> float:
        return self.of_reached.value

    @property
    def average(self) -> float:
        return self.similarity.value

    @property
    def recall(self) -> float:
        return self.reached.value

    @property
    def assignment(self) -> AssignmentSums:
        if self.assigned is None:
            raise ValueError("the assignment was not asked for")
        return self.assigned


@dataclass(frozen=True, eq=False)
class DetectorScore(UnderRule):
    """A set of anchors under the matching rule of one detector; made by :func:`score_for`."""

    detector: AnchorDetector
    anchors: AnchorSet
    instances: ResizedInstances
    best: Float64[ndarray, " n"]
    """The highest similarity of each instance with any anchor; ``MEASURES`` says of which kind."""

    def sums(self, *, assigned: bool = True) -> DetectorSums:
        """The numbers of this score, with those of the assignment or without."""
        return DetectorSums(
            self.detector,
            self.anchors,
            similarity=ExactMean.of(self.best),
            of_reached=ExactMean.of(self.best * self.reached),
            reached=ExactMean.of(self.reached),
            assigned=self.assignment.sums if assigned else None,
        )

    @property
    def score(self) -> float:
        """Mean over instances of the highest similarity, 0 where the instance is not reached: YOLOv5 calls it fitness."""
        return mean_or_nan(self.best * self.reached)

    @property
    def average(self) -> float:
        """Mean over instances of the highest similarity."""
        return mean_or_nan(self.best)

    @cached_property
    def reached(self) -> Bool[ndarray, " n"]:
        """Whether each instance has an anchor by the rule's threshold, which it does not lose to other instances.

        YOLOv5 calls the share of these its best possible recall.
        """
        rule = self.detector.matching
        if isinstance(rule, MaxIoURule):
            return self.best >= rule.fg_iou_thresh
        if isinstance(rule, SideRatio):
            return self.best > 1 / rule.ratio
        return self.assignment.positives.sum(axis=1) > 0

    @property
    def recall(self) -> float:
        """Share of instances that are reached."""
        return mean_or_nan(self.reached)

    @cached_property
    def assignment(self) -> Assignment:
        """The anchors that each instance learns from."""
        rule = self.detector.matching
        if isinstance(rule, SideRatio | BestShape):
            return assign_by_center(self.instances, self.anchors, rule)
        from detect.anchors.assign import assign  # loads torch
        from detect.anchors.generator import AnchorGenerator
        from detect.ops.center_cells import CenterCells
        from detect.ops.matcher import Atss, Matcher, MaxIoU

        matcher: Matcher
        if isinstance(rule, CenterCell):
            matcher = CenterCells(rule.iou)
        else:
            matcher = (MaxIoU if isinstance(rule, MaxIoURule) else Atss)(**msgspec.structs.asdict(rule))
        return assign(self.instances, AnchorGenerator(self.anchors, convention=self.detector.convention), matcher)


def score_for(instances: ResizedInstances, anchors: AnchorSet, detector: AnchorDetector) -> DetectorScore:
    """Score anchors as a detector matches them.

    >>> from detect.anchors.known import stock_anchors
    >>> from detect.catalog.detectors import load_detector
    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> yolo = load_detector("yolov5")
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("bccd")), yolo.resize)
    >>> score = score_for(instances, stock_anchors(yolo), yolo)
    >>> score.measure, round(score.average, 3), round(score.recall, 3)
    ('side ratio', 0.811, 1.0)
    """
    rule = detector.matching
    if isinstance(rule, MaxIoURule | AtssRule):
        boxes, canvas_wh = instances.boxes, instances.canvas_wh
        best = grid_iou_by_level(boxes, canvas_wh, anchors, convention=detector.convention).max(axis=1, initial=0.0)
    else:
        by_shape = BestShape() if isinstance(rule, CenterCell) else rule
        best = similarity(instances, anchors, by_shape).max(axis=1, initial=0.0)
    return DetectorScore(detector, anchors, instances, best)


def match_sets(
    dataset: CocoDataset, *, sets: Sequence[AnchorSet], detector: AnchorDetector, assigned: bool
) -> tuple[DetectorSums, ...]:
    """The sums of several sets of anchors on a dataset or a shard, with their assignments or without."""
    instances = ResizedInstances.of(dataset, detector.resize)
    return tuple(score_for(instances, each, detector).sums(assigned=assigned) for each in sets)
