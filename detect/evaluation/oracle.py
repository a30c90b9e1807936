"""Oracle round trip: draw a dataset's heatmap targets and read them back, as a perfect network's output would be read.

The score is an upper bound at a stride and sigma. It misses points that share a Gaussian and points outside the map, and
includes the error of reading positions from cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial import KDTree

from detect.errors import CocoError
from detect.evaluation.point_matching import match_points
from detect.evaluation.points import RADIUS_PX, PointScores, score_points
from detect.keypoints.coco_keypoints import CocoKeypoints
from detect.keypoints.keypoints import UNLABELLED, Keypoints, by_group
from detect.keypoints.peaks import find_peaks
from detect.keypoints.targets import HeatmapTargets, render_heatmaps
from detect.ops.array_kinds import of_axes

IMAGES_AT_ONCE = 16
MAX_MAP_BYTES = 2**32  # of one image, in single precision
GOOD_F1 = 0.995
WINDOW = 3.0  # sigmas: beyond it the Gaussian of a target is 0


@dataclass(frozen=True)
class OracleScores:
    """Scores of a perfect network at a stride (pixels per cell) and sigma (cells, one number or one for x and one for y)."""

    stride: float
    sigma: float | tuple[float, ...]
    scores: PointScores
    merged: int  # drawn points without a peak of their own: if points and peaks are paired, none is left for them
    same_cell: int  # points whose cell another point of their type has
    outside: int  # points outside their image

    @property
    def mean_sigma(self) -> float:
        """The sigma of a round Gaussian of the same area."""
        return float(np.sqrt(np.prod(of_axes("sigma", self.sigma, 2))))

    @property
    def farther(self) -> int:
        """Points with a peak of their own that is farther than the radius."""
        return max(0, self.scores.num_truth - self.scores.num_matched - self.outside - self.merged)

    @property
    def mean_error(self) -> float | None:
        """Mean distance in pixels between found points and their peaks; None if none was found."""
        return None if self.scores.error is None else self.scores.error.mean


def oracle_round_trip(
    landmarks: CocoKeypoints,
    *,
    stride: float = 4.0,
    sigma: float | Sequence[float] = 2.0,
    radius: float = RADIUS_PX,
    threshold: float = 0.3,
    split: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> OracleScores:
    """Draw the keypoints of a dataset, find the peaks, and score them within ``radius``.

    The stride is in image pixels per cell, the sigma in cells (a number, or one for x and one for y), the radius in image
    pixels. Peaks are above ``threshold``, from 0 to 1; with ``split``, overlapping ones are separated. ``on_progress`` is
    called with the number of finished images.

    >>> from detect.data import read_coco
    >>> from detect.keypoints.coco_keypoints import coco_keypoints
    >>> from detect.samples import sample_annotations
    >>> nuclei = coco_keypoints(read_coco(sample_annotations("nuclei"), keypoints=True))
    >>> round(oracle_round_trip(nuclei, stride=2).scores.micro.f1, 3)
    1.0
    """
    check_map_sizes(landmarks, stride)
    predicted, truth, scores = [], [], []
    merged = same_cell = outside = done = 0
    for images in batches_of_one_size(landmarks, IMAGES_AT_ONCE):
        batch = landmarks.take(images)
        image_hw = landmarks.dataset.images.wh[images[0], ::-1].tolist()
        origin = batch.pixel_origin
        drawn: dict[str, Any] = {"stride": stride, "sigma": sigma, "window": WINDOW, "pixel_origin": origin}
        targets = render_heatmaps(batch.landmarks, image_hw, **drawn)
        read: dict[str, Any] = {"threshold": threshold, "min_distance": 0.0, "split": split, "sigma": sigma}  # no noise
        peaks = find_peaks(targets.heatmaps, **read)
        own_points, own_scores = peaks.per_image(stride, pixel_origin=origin)
        predicted += own_points
        scores += own_scores
        truth += batch.landmarks.per_image()
        reach = max(radius, WINDOW * stride * of_axes("sigma", sigma, 2).max())
        merged += _num_without_peak(batch.landmarks, targets, own_points, reach=reach)
        same_cell += targets.num_same_cell()
        outside += int(targets.outside.sum())
        done += len(images)
        if on_progress:
            on_progress(done)
    points = score_points(predicted, truth, radius=radius, scores=scores)
    own_sigma = sigma if isinstance(sigma, int | float) else tuple(sigma)
    points = replace(points, num_images=len(landmarks.dataset.images))  # not times the types
    return OracleScores(stride, own_sigma, points, merged, same_cell, outside)


def _num_without_peak(
    landmarks: Keypoints, targets: HeatmapTargets, peaks: Sequence[Float[ndarray, "_ 2"]], *, reach: float
) -> int:
    """Drawn points that are in no pair if as many points as possible are paired with peaks of their map within reach."""
    image, types = np.asarray(targets.positives)[:, :2].T
    points = np.asarray(landmarks.points, np.float64)[targets.instances]
    of_maps = by_group(points, image * landmarks.num_types + types, len(peaks))
    pairs = (match_points(found, own, radius=reach) for found, own in zip(peaks, of_maps, strict=True))
    return len(points) - sum(len(each.truth) for each in pairs)


def coarsest_good(oracles: Sequence[OracleScores]) -> OracleScores | None:
    """The largest stride with an F1 of at least ``GOOD_F1``, at its best sigma; of equally good sigmas the largest."""
    good = [each for each in oracles if each.scores.micro.f1 >= GOOD_F1]
    return max(good, key=lambda each: (each.stride, each.scores.micro.f1, each.mean_sigma), default=None)


def nearest_neighbors(truth: CocoKeypoints) -> Float[ndarray, " n"]:
    """Return the distance in pixels from each labelled point to the nearest of its type in its image, or infinity."""
    landmarks = truth.landmarks
    labelled = np.asarray(landmarks.visibility) != UNLABELLED
    points = np.asarray(landmarks.points)[labelled]
    group = (np.asarray(landmarks.image) * landmarks.num_types + np.asarray(landmarks.types))[labelled]
    apart = 4 * (np.abs(points).max(initial=0) + 1)  # more than within an image: it separates images and types
    spread = np.concatenate([points, group[:, None] * apart], axis=1)
    distances = KDTree(spread).query(spread, k=2)[0][:, 1] if len(spread) else np.zeros(0)
    return np.where(distances < apart, distances, np.inf)


def check_map_sizes(landmarks: CocoKeypoints, stride: float) -> None:
    """Raise CocoError if the maps of an image would take more than ``MAX_MAP_BYTES``; the message names the first one."""
    images, num_types = landmarks.dataset.images, landmarks.landmarks.num_types
    num_bytes = 4.0 * num_types * np.ceil(images.wh / stride).prod(axis=1)
    for row in np.flatnonzero(num_bytes > MAX_MAP_BYTES)[:1].tolist():
        width, height = images.wh[row].tolist()
        raise CocoError(
            f"{', '.join(landmarks.dataset.files)}: image {images.ids[row]}, {images.file_names[row]!r}, is {width:,} x "
            f"{height:,} px: its maps at stride {stride:g} would take {num_bytes[row] / 2**30:,.1f} GiB, more than "
            f"{MAX_MAP_BYTES >> 30}: cut it into tiles, or take a larger stride"
        )


def batches_of_one_size(landmarks: CocoKeypoints, batch_size: int) -> Iterator[list[int]]:
    """Yield batches of rows of images; all images of a batch have one size."""
    image_wh = landmarks.dataset.images.wh
    _, kind = np.unique(image_wh, axis=0, return_inverse=True)
    for own in range(int(kind.max(initial=-1)) + 1):
        rows = np.flatnonzero(kind.reshape(-1) == own).tolist()
        yield from (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
