"""The most that maps of a stride and sigma can give: targets drawn for a dataset, read back as if by a perfect network.

What is lost here is lost to a network that learns its targets perfectly: points that share a bell, points beyond the
map, and the error of reading a place from cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray

from detect.evaluation.points import PointScores, score_points
from detect.keypoints.drawing import to_numpy
from detect.keypoints.keypoints import UNLABELLED, CocoKeypoints
from detect.keypoints.peaks import find_peaks
from detect.keypoints.split_peaks import split_peaks
from detect.keypoints.targets import render_heatmaps

IMAGES_AT_ONCE = 16
GOOD_F1 = 0.995


@dataclass(frozen=True)
class OracleScores:
    """Scores of a perfect network. Every point inside is drawn, so one that is missed has ``merged`` with another."""

    stride: float
    sigma: float
    scores: PointScores
    collisions: int
    """Points that share their cell with another of their type."""
    outside: int

    @property
    def merged(self) -> int:
        """Points inside their image that no peak stands for."""
        return max(0, self.scores.num_truth - self.scores.num_matched - self.outside)


def oracle_round_trip(
    found: CocoKeypoints,
    *,
    stride: float = 4.0,
    sigma: float = 2.0,
    radius: float = 3.0,
    threshold: float = 0.3,
    split: bool = True,
    told: Callable[[int], None] | None = None,
) -> OracleScores:
    """Draw the landmarks of a dataset, find the peaks, and score these within ``radius`` image pixels.

    >>> from detect.data import read_coco
    >>> from detect.keypoints.keypoints import coco_keypoints
    >>> from detect.samples import sample_annotations
    >>> nuclei = coco_keypoints(read_coco(sample_annotations("nuclei"), keypoints=True))
    >>> round(oracle_round_trip(nuclei, stride=2).scores.micro.f1, 3)
    1.0

    Args:
        sigma: in cells.
        threshold: height of a peak.
        split: also tell points apart that are too close to be peaks of their own, see :mod:`detect.keypoints.split_peaks`.
        told: called with the number of images done, after each batch.

    Raises:
        ValueError: a stride, sigma or radius that is not positive.
    """
    predicted, truth, scores = [], [], []
    collisions = outside = done = 0
    for images in batches_of_one_size(found, IMAGES_AT_ONCE):
        batch = found.take(images)
        image_hw = found.dataset.images.wh[images[0], ::-1].tolist()
        targets = render_heatmaps(
            batch.landmarks, image_hw, stride=stride, sigma=sigma, pixel_origin=batch.pixel_origin
        )
        maps = torch.from_numpy(to_numpy(targets.heatmaps))
        peaks = find_peaks(maps, threshold=threshold)
        if split:
            peaks = split_peaks(maps, peaks, sigma=sigma, threshold=threshold)
        xy = peaks.in_image(stride, pixel_origin=batch.pixel_origin).double().numpy()
        landmarks, num_types = batch.landmarks, batch.landmarks.num_types
        labelled = to_numpy(landmarks.visibility) != UNLABELLED
        group = (to_numpy(landmarks.image) * num_types + to_numpy(landmarks.types))[labelled]
        own = (peaks.image * num_types + peaks.types).numpy()
        num_groups = len(images) * num_types
        predicted += by_group(xy, own, num_groups)
        scores += by_group(peaks.scores.double().numpy(), own, num_groups)
        truth += by_group(to_numpy(landmarks.points)[labelled], group, num_groups)
        collisions += targets.num_collisions()
        outside += int(targets.outside.sum())
        done += len(images)
        if told:
            told(done)
    return OracleScores(
        stride, sigma, score_points(predicted, truth, radius=radius, scores=scores), collisions, outside
    )


def coarsest_good(oracles: Sequence[OracleScores], *, least_f1: float = GOOD_F1) -> OracleScores | None:
    """The largest stride that loses next to nothing, with its best sigma; of equally good ones the larger."""
    good = [each for each in oracles if each.scores.micro.f1 >= least_f1]
    return max(good, key=lambda each: (each.stride, each.scores.micro.f1, each.sigma), default=None)


def batches_of_one_size(found: CocoKeypoints, at_once: int) -> Iterator[list[int]]:
    """The images of a dataset, as rows, in batches of images of one size."""
    image_wh = found.dataset.images.wh
    _, kind = np.unique(image_wh, axis=0, return_inverse=True)
    for own in range(int(kind.max(initial=-1)) + 1):
        rows = np.flatnonzero(kind.reshape(-1) == own).tolist()
        yield from (rows[start : start + at_once] for start in range(0, len(rows), at_once))


def by_group(values: ndarray, group: Int64[ndarray, " n"], num_groups: int) -> list[ndarray]:
    """The values of each group, from 0 on."""
    order = np.argsort(group, kind="stable")
    return np.split(values[order], np.searchsorted(group[order], np.arange(1, num_groups)))
