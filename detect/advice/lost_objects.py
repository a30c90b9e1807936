"""Objects that a detector of the catalog cannot learn or return, by reason, at its resize rule and settings.

Each count is the least number of objects lost whatever the network predicts. A network may still find an object without a
positive, as it learns others like it; it never returns what is beyond the limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray
from scipy.signal import fftconvolve

from detect.advice.distances import needed_reach
from detect.advice.overlaps import OverlappingPairs
from detect.advice.suppression import least_suppressed
from detect.anchors.instances import ResizedInstances
from detect.catalog.detectors import Detector

Reason = Literal["dropped", "no positive", "too large", "suppressed", "not returned"]

LEAST_PX, LEAST_CELLS = 8.0, 1.0  # Wang et al. 2021 (AI-TOD) call objects under 8 px very tiny


@dataclass(frozen=True, eq=False)
class LostObjects:
    """Objects lost for one reason."""

    reason: Reason
    lost: Int64[ndarray, " n"]
    """Rows of the objects that are lost whatever the network predicts."""
    num_contested: int
    """How many of ``contested`` are lost as well, at the least."""
    contested: Int64[ndarray, " m"]
    """Rows of the objects of which some are lost; the predictions decide which."""

    @property
    def num_lost(self) -> int:
        """Objects lost in any case, at the least."""
        return len(self.lost) + self.num_contested

    @property
    def rows(self) -> Int64[ndarray, " k"]:
        """Rows of the objects that are lost or contested, in rising order."""
        return np.union1d(self.lost, self.contested)

    @classmethod
    def of(cls, reason: Reason, is_lost: Bool[ndarray, " n"]) -> LostObjects:
        """Objects lost whatever the network predicts, and no others."""
        return cls(reason, np.flatnonzero(is_lost), 0, np.zeros(0, np.int64))


def too_large_objects(instances: ResizedInstances, detector: Detector) -> LostObjects | None:
    """The objects of which no cell can predict every side; None if distances have no limit."""
    if detector.reach is None:
        return None
    return LostObjects.of("too large", needed_reach(instances, detector.strides[-1]) > detector.reach)


def lost_to_nms(pairs: OverlappingPairs, iou_threshold: float) -> LostObjects:
    """The objects that suppression removes though every one is predicted perfectly.

    ``pairs`` are those of objects that suppress each other, of every IoU above the threshold.
    """
    pairs = pairs.above(iou_threshold)
    contested = np.unique([pairs.first, pairs.second]).astype(np.int64)
    return LostObjects("suppressed", np.zeros(0, np.int64), least_suppressed(pairs), contested)


def beyond_limit(reason: Reason, instances: ResizedInstances, most: int | None) -> LostObjects | None:
    """The objects beyond the largest number of an image; None if there is no limit."""
    if most is None:
        return None
    image_rows = instances.dataset.instances.image_rows
    counts = np.bincount(image_rows)
    num_lost = int(np.maximum(counts - most, 0).sum())
    return LostObjects(reason, np.zeros(0, np.int64), num_lost, np.flatnonzero(counts[image_rows] > most))


def least_px(strides: Sequence[int]) -> float:
    """The square root of the area under which an object is hard to see: 8 px, or a cell of the finest level if larger."""
    return max(LEAST_PX, LEAST_CELLS * strides[0])


def small_objects(instances: ResizedInstances, strides: Sequence[int]) -> Int64[ndarray, " m"]:
    """Rows of the objects under :func:`least_px`. They are hard to find, not impossible: no bound on recall."""
    return np.flatnonzero(np.sqrt(instances.shapes.prod(axis=1)) < least_px(strides))


def beyond_in_mosaics(num_images: Mapping[int, int], queries: int | None, images: int) -> float:
    """The expected share of the objects of a mosaic that are beyond the queries; 0 without queries or mosaics.

    A mosaic joins ``images`` images, drawn independently and evenly, with all of their objects; crops that cut objects away
    lower the share. The distribution of their number is the convolution of the distribution of one image's.

    >>> beyond_in_mosaics({0: 1, 2: 1}, 3, images=2)  # 0, 2, 2, 4 objects: 1 of 8 is beyond 3
    0.125

    Args:
        num_images: how many images have each number of objects.
        queries: of the detector.
        images: in a mosaic.
    """
    if queries is None or images < 2 or not any(num_images):
        return 0.0
    counts, times = (np.array(list(column), np.int64) for column in (num_images.keys(), num_images.values()))
    one = np.bincount(counts, times) / times.sum()
    together = one
    for _ in range(images - 1):
        together = fftconvolve(together, one).clip(0)
    number = np.arange(len(together))
    beyond = (np.maximum(number - queries, 0) * together).sum() / (images * (counts @ times) / times.sum())
    return float(round(beyond, 12))  # the transform leaves 1e-16
