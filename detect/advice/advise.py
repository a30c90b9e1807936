"""Advice on one detector and one dataset: what is lost before any training, and the settings that change it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.advice.anchor_losses import AnchorChoice
from detect.advice.curves import (
    IOUS,
    Curve,
    limit_curve,
    nms_curve,
    ranges_curve,
    reg_max_curve,
    size_curve,
)
from detect.advice.data_health import DataSign, data_signs
from detect.advice.distances import attainable_iou
from detect.advice.drift import Drift, drift
from detect.advice.lost_objects import (
    LostObjects,
    beyond_in_mosaics,
    beyond_limit,
    lost_to_nms,
    small_objects,
    too_large_objects,
)
from detect.advice.overlaps import OverlappingPairs, overlapping_pairs
from detect.advice.tile_cuts import TileAdvice, tile_advice
from detect.advice.unlearned import unlearned_objects
from detect.anchors.instances import ResizedInstances, area_ranges
from detect.anchors.sweep import rules_of_sizes
from detect.catalog.detectors import Detector, load_detector
from detect.data import CocoDataset

SHARE = 0.001  # of the objects: what another value must save before a setting is changed
COCO_MAX_DETS = 100  # detections of an image and category that COCO's average precision counts


@dataclass(frozen=True, eq=False)
class Advice:
    """What a detector loses of a dataset, and the settings that change it; made by :func:`advise`."""

    detector: Detector
    instances: ResizedInstances
    losses: tuple[LostObjects, ...]
    """Every reason that applies to the detector, also where nothing is lost."""
    curves: tuple[Curve, ...]
    small: Int64[ndarray, " n"]
    """Rows of the objects that are hard to see, see :func:`detect.advice.lost_objects.small_objects`."""
    unscored: int
    """Objects beyond the 100 detections of an image and category that COCO's average precision counts."""
    beyond_in_mosaics: float
    """Expected share of the objects of a training mosaic for which no query is left."""
    across_categories: LostObjects | None
    """The objects that suppression would remove if it ran over all categories together; None if it does, or none runs."""
    tiles: TileAdvice | None
    drift: Drift | None
    image_ms: float | None = None
    """Time of the detector for one image at its present settings; costs are then also given in time."""

    @property
    def changes(self) -> tuple[Curve, ...]:
        """The settings that are worth changing."""
        return tuple(curve for curve in self.curves if curve.is_worth_it)

    def by_size(self, loss: LostObjects) -> tuple[tuple[str, int, int], ...]:
        """Each range of sizes after the resize: its name, the objects lost or contested, and all of its objects."""
        groups = area_ranges(self.instances)
        return tuple((group.name, int(np.isin(group.rows, loss.rows).sum()), len(group.rows)) for group in groups)

    @property
    def most_lost(self) -> LostObjects:
        return max(self.losses, key=lambda each: each.num_lost)

    @cached_property
    def too_large_iou(self) -> float:
        """The mean over the objects that are too large of the highest IoU that a prediction can have; NaN without any."""
        rows = np.concatenate([each.lost for each in self.losses if each.reason == "too large"] or [self.small[:0]])
        if not len(rows) or self.detector.reach is None:
            return math.nan
        return float(attainable_iou(self.instances, self.detector.strides[-1], self.detector.reach)[rows].mean())

    @cached_property
    def signs(self) -> tuple[DataSign, ...]:
        """What the labels themselves show."""
        return data_signs(self.instances)


def advise(
    dataset: CocoDataset,
    detector: str | Detector,
    *,
    size: int | None = None,
    validation: CocoDataset | None = None,
    anchors: AnchorChoice | None = None,
    share: float = SHARE,
    image_ms: float | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Advice:
    """Tell which objects of a dataset a detector cannot learn or return, and which settings change that.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> advice = advise(read_coco(sample_annotations("bccd")), "yolo11")
    >>> [(each.reason, each.num_lost) for each in advice.losses if each.num_lost]
    [('suppressed', 8)]

    Args:
        dataset: the training data.
        detector: a name of the catalog, a YAML file of the same fields, or a description.
        size: first size of the detector's resize rule, by default its own.
        validation: compared with the training data.
        anchors: of a detector with anchors; by default those that it ships with.
        share: of the objects that another value must save before a setting is changed.
        image_ms: time of the detector for one image at its present settings; costs are then also given in time.
        on_progress: called with what is computed, the steps done, and their number.

    Raises:
        CatalogError: no detector has this name.
        ResizeError: the detector's resize rule has no size to change.
        FitError: the dataset has no usable boxes.
    """
    detector = detector if isinstance(detector, Detector) else load_detector(detector)
    if size is not None:
        detector = msgspec.structs.replace(detector, resize=str(rules_of_sizes(detector.resize, [size])[0]))
    say = on_progress or (lambda *_: None)
    say(f"{detector.name}: objects", 0, 4)
    instances = ResizedInstances.of(dataset, detector.resize)
    instances.require_boxes()
    pairs = _meeting(instances, detector)
    losses = _losses(instances, detector, anchors, pairs)
    say(f"{detector.name}: input sizes", 1, 4)
    curves = [size_curve(dataset, detector, anchors, share=share)]
    say(f"{detector.name}: other settings", 2, 4)
    curves += [
        ranges_curve(dataset, detector, share=share),
        reg_max_curve(instances, detector, share=share),
        limit_curve("objects of a training image", "max_truth", instances, detector),
        limit_curve("queries", "queries", instances, detector),
        nms_curve(pairs, len(instances), detector, share=share),
        limit_curve("detections of an image", "max_det", instances, detector),
    ]
    say(f"{detector.name}: tiles", 3, 4)
    image_rows = instances.dataset.instances.image_rows
    counts = np.bincount(image_rows, minlength=len(instances.dataset.images))
    _, together = np.unique(_by_category(instances), return_counts=True)
    advice = Advice(
        detector,
        instances,
        losses,
        tuple(curve for curve in curves if curve),
        small=small_objects(instances, detector.strides),
        unscored=int(np.maximum(together - COCO_MAX_DETS, 0).sum()),
        beyond_in_mosaics=beyond_in_mosaics(counts, detector.queries, detector.mosaic),
        across_categories=_across_categories(instances, detector),
        tiles=tile_advice(dataset, instances),
        drift=drift(instances, ResizedInstances.of(validation, detector.resize)) if validation else None,
        image_ms=image_ms,
    )
    say(f"{detector.name}: done", 4, 4)
    return advice


def _losses(
    instances: ResizedInstances, detector: Detector, anchors: AnchorChoice | None, pairs: OverlappingPairs
) -> tuple[LostObjects, ...]:
    losses = [
        beyond_limit("dropped", instances, detector.max_truth),
        unlearned_objects(instances, detector, anchors),
        too_large_objects(instances, detector),
        lost_to_nms(pairs, detector.nms.iou) if detector.nms else None,
        beyond_limit("not returned", instances, detector.max_det),
    ]
    return tuple(each for each in losses if each)


def _meeting(instances: ResizedInstances, detector: Detector) -> OverlappingPairs:
    """The pairs of objects that meet in the detector's suppression, as far as a curve looks at them."""
    own = instances.dataset.instances
    if detector.nms is None:
        return overlapping_pairs(instances.boxes[:0], own.image_rows[:0])
    groups = _by_category(instances) if detector.nms.across == "category" else own.image_rows
    return overlapping_pairs(instances.boxes, groups, above_iou=min(*IOUS, detector.nms.iou))


def _by_category(instances: ResizedInstances) -> Int64[ndarray, " n"]:
    """A number of the image and category of each object."""
    own, categories = instances.dataset.instances, np.array(instances.dataset.category_ids)
    return own.image_rows * len(categories) + np.searchsorted(categories, own.category_ids)


def _across_categories(instances: ResizedInstances, detector: Detector) -> LostObjects | None:
    if detector.nms is None or detector.nms.across == "all" or len(instances.dataset.category_ids) < 2:
        return None
    image_rows = instances.dataset.instances.image_rows
    pairs = overlapping_pairs(instances.boxes, image_rows, above_iou=detector.nms.iou)
    return lost_to_nms(pairs, detector.nms.iou)
