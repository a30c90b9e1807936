"""What advice is made from: two readings of a dataset, or of its shards, whose results add up.

The first tells what is usual, from a bounded sample of the images; the second counts by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from detect.advice.curves import IOUS, CurveSums
from detect.advice.data_health import NEAR_IOU, SignSums, Usual
from detect.advice.drift import DriftSums
from detect.advice.image_hashes import ImageHashes
from detect.advice.image_sample import ImageSample
from detect.advice.lost_objects import LostObjects, beyond_limit, lost_to_nms, small_objects, too_large_objects
from detect.advice.lost_sums import LossSums, ids_of
from detect.advice.overlaps import OverlappingPairs, overlapping_pairs
from detect.advice.tile_cuts import TileAdvice, Tiling
from detect.advice.trials import Trials
from detect.advice.unlearned import unlearned_objects
from detect.anchors.anchor_set import AnchorSet
from detect.anchors.instances import ResizedInstances
from detect.catalog.detectors import Detector
from detect.data import CocoDataset
from detect.data.dataset_counts import DatasetCounts
from detect.data.tiles import num_tiles
from detect.ops.exact_sums import FirstItems, Sums

COCO_MAX_DETS = 100  # detections of an image and category that COCO's average precision counts


@dataclass(frozen=True)
class FirstLook(Sums):
    """What the first reading tells."""

    counts: DatasetCounts
    """After the resize rule, which may cut tiles."""
    sample: ImageSample
    files: ImageHashes
    """By file name; none for tiles, which keep that of their image."""

    @classmethod
    def of(cls, dataset: CocoDataset, *, resize: str) -> FirstLook:
        """Look at a dataset, or at a shard."""
        instances, images = seen_by(dataset, resize), dataset.images
        names = [] if instances.rule.name == "tiles" else [name or None for name in images.file_names]
        files = ImageHashes.of(names, images.ids.tolist()[: len(names)])
        return cls(DatasetCounts.of(instances.dataset), ImageSample.of(dataset), files)


@dataclass(frozen=True)
class Plan:
    """What the second reading counts, and by what."""

    detector: Detector
    anchors: AnchorSet | None
    sizes: Trials | None
    ranges: Trials | None
    usual: Usual
    tiling: Tiling | None
    names: Mapping[int, str]
    """Category names by id."""
    validation: ImageHashes | None
    """The images of the validation data, if there are any."""


@dataclass(frozen=True)
class AdviceSums(Sums):
    """What the second reading counts."""

    losses: tuple[LossSums, ...]
    curves: CurveSums
    signs: SignSums
    small: FirstItems[int]
    """Ids of the objects that are hard to see, see :func:`detect.advice.lost_objects.small_objects`."""
    unscored: int
    """Objects beyond the detections of an image and category that COCO's average precision counts."""
    across_categories: int
    """The objects that suppression would remove if it ran over all categories together."""
    tiles: TileAdvice | None
    drift: DriftSums | None

    @classmethod
    def of(cls, dataset: CocoDataset, *, plan: Plan) -> AdviceSums:
        """Count a dataset, or a shard."""
        detector, instances = plan.detector, seen_by(dataset, plan.detector.resize)
        pairs = _pairs(instances, detector)
        meeting = _meeting(instances, detector, pairs)
        known = plan.validation
        return cls(
            tuple(LossSums.of(each, instances) for each in _losses(instances, plan, meeting)),
            CurveSums.of(dataset, instances, detector, meeting, plan.sizes, plan.ranges),
            SignSums.of(instances, pairs, plan.usual),
            small=ids_of(instances.dataset.instances.ids[small_objects(instances, detector.strides)]),
            unscored=_unscored(instances),
            across_categories=lost_to_nms(pairs, detector.nms.iou).num_lost if detector.nms else 0,
            tiles=None if plan.tiling is None else TileAdvice.of(instances, plan.tiling),
            drift=None if known is None else DriftSums.of(instances, plan.names, known),
        )


def drift_sums(dataset: CocoDataset, *, resize: str, names: Mapping[int, str]) -> DriftSums:
    """What :func:`detect.advice.drift.drift` needs of the validation data, or of a shard of it."""
    return DriftSums.of(seen_by(dataset, resize), names)


def seen_by(dataset: CocoDataset, resize: str) -> ResizedInstances:
    """The instances after a resize rule; tiles have the ids of their images, which are the same in every shard."""
    instances = ResizedInstances.of(dataset, resize)
    if instances.rule.name != "tiles":
        return instances
    counts = num_tiles(dataset.images.wh, *instances.rule.sizes).prod(axis=1)
    images = replace(instances.dataset.images, ids=np.repeat(dataset.images.ids, counts))
    return replace(instances, dataset=replace(instances.dataset, images=images))


def _pairs(instances: ResizedInstances, detector: Detector) -> OverlappingPairs:
    """The pairs of objects of an image, as far as a curve or a sign looks at them."""
    least = min(*IOUS, detector.nms.iou) if detector.nms else NEAR_IOU
    image_rows = instances.dataset.instances.image_rows
    return overlapping_pairs(instances.boxes, image_rows, above_iou=min(least, NEAR_IOU))


def _meeting(instances: ResizedInstances, detector: Detector, pairs: OverlappingPairs) -> OverlappingPairs:
    """The pairs that meet in the detector's suppression."""
    if detector.nms is None or detector.nms.across == "all":
        return pairs
    categories = instances.dataset.instances.category_ids
    return pairs.take(categories[pairs.first] == categories[pairs.second])


def _losses(instances: ResizedInstances, plan: Plan, meeting: OverlappingPairs) -> tuple[LostObjects, ...]:
    """Every reason that applies to the detector, also where nothing is lost."""
    detector = plan.detector
    losses = [
        beyond_limit("dropped", instances, detector.max_truth),
        unlearned_objects(instances, detector, plan.anchors),
        too_large_objects(instances, detector),
        lost_to_nms(meeting, detector.nms.iou) if detector.nms else None,
        beyond_limit("not returned", instances, detector.max_det),
    ]
    return tuple(each for each in losses if each)


def _unscored(instances: ResizedInstances) -> int:
    own = instances.dataset.instances
    _, places = np.unique(own.category_ids, return_inverse=True)
    _, together = np.unique(own.image_rows * len(own) + places, return_counts=True)
    return int(np.maximum(together - COCO_MAX_DETS, 0).sum())
