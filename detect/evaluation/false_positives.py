"""False positives by area: predicted points where the labels say that there is nothing, for each square millimetre.

A false positive is a predicted point outside all ignored regions (crowds, objects without a labelled keypoint) that no true
point within the radius is paired with. The area is that of the images without these regions; an image without true points
counts whole, and such images have a rate of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray
from scipy.special import gammaincinv

from detect.evaluation.coco_points import F1_RADIUS_PX
from detect.evaluation.point_matching import match_points
from detect.evaluation.point_results import PointResults
from detect.keypoints.coco_keypoints import CocoKeypoints
from detect.keypoints.coordinates import origin_shift

MICRONS_PER_MM = 1000.0


@dataclass(frozen=True)
class FalsePositiveRate:
    """False positives, the area they were looked for in, and their number per square millimetre with its interval."""

    count: int
    area_mm2: float
    per_mm2: float
    low: float
    high: float

    @classmethod
    def of(cls, count: int, area_mm2: float, confidence: float) -> FalsePositiveRate:
        """The exact interval of a Poisson rate (Garwood 1936): it takes false positives to be independent.

        >>> round(FalsePositiveRate.of(0, 2.0, 0.9).high, 4)  # -ln(0.05) / 2
        1.4979
        """
        tail = (1 - confidence) / 2
        low, high = gammaincinv(count, tail) if count else 0.0, gammaincinv(count + 1, 1 - tail)
        return cls(count, area_mm2, count / area_mm2, float(low) / area_mm2, float(high) / area_mm2)


@dataclass(frozen=True)
class FalsePositives:
    """The rate over all images, and over those without true points; None without an area."""

    all_images: FalsePositiveRate | None
    images_without_points: FalsePositiveRate | None


def false_positives(
    points: PointResults,
    truth: CocoKeypoints,
    regions: Sequence[Float64[ndarray, "_ 4"]],
    *,
    microns_per_pixel: float,
    threshold: float | None = None,
    radius: float = F1_RADIUS_PX,
    confidence: float = 0.9,
) -> FalsePositives:
    """Count the false positives of each image and type, as :func:`~detect.evaluation.coco_points.point_results` groups them.

    ``regions`` are the ignored ones of each group, in the points' convention; the radius is in image pixels. Points below
    the threshold do not count.
    """
    pixel_mm2 = (microns_per_pixel / MICRONS_PER_MM) ** 2
    shift, wh = origin_shift(truth.pixel_origin), truth.dataset.images.wh
    counts, areas = np.zeros(len(points.truth), np.int64), np.zeros(len(points.truth))
    columns = zip(points.predicted, points.truth, points.scores, strict=True)
    for group, (predicted, true_points, scores) in enumerate(columns):
        kept = predicted if threshold is None else predicted[scores >= threshold]
        counts[group] = len(kept) - len(match_points(kept, true_points, radius=radius).predicted)
        areas[group] = area_outside(wh[group // points.num_types], regions[group] + shift) * pixel_mm2
    empty = np.array([not len(own) for own in points.truth], bool)

    def rate(own: Bool[ndarray, " g"]) -> FalsePositiveRate | None:
        area = float(areas[own].sum())
        return FalsePositiveRate.of(int(counts[own].sum()), area, confidence) if area else None

    return FalsePositives(rate(np.ones_like(empty)), rate(empty))


def area_outside(image_wh: Sequence[float] | ndarray, regions: Float64[ndarray, "r 4"]) -> float:
    """The area of an image outside all regions x0 y0 x1 y1, which may overlap and leave the image.

    >>> area_outside((10, 4), np.array([[0.0, 0.0, 2.0, 4.0], [1.0, -1.0, 3.0, 2.0]]))
    30.0
    """
    xs, ys = (
        np.unique(np.clip([0.0, extent, *regions[:, axis], *regions[:, axis + 2]], 0, extent))
        for axis, extent in enumerate(image_wh)
    )
    outside = np.ones((len(ys) - 1, len(xs) - 1), bool)
    for x0, y0, x1, y1 in regions.tolist():
        outside[np.ix_((y0 <= ys[:-1]) & (ys[1:] <= y1), (x0 <= xs[:-1]) & (xs[1:] <= x1))] = False
    return float(np.diff(ys) @ outside @ np.diff(xs))
