"""Boxes without learning: blur, Otsu's threshold and connected components, the baseline of box detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float64, Shaped
from numpy import ndarray
from scipy import ndimage

from detect.evaluation.confusion import MIN_IOU, ImageMatches, count_confusions
from detect.ops.box_arrays import xyxy_to_xywh

BINS = 256
SIGMAS_PX = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
LEAST_AREAS_PX = (5, 10, 20, 30, 40, 60, 80)
POLARITIES = {"bright": 1.0, "dark": -1.0}


@dataclass(frozen=True)
class Components:
    """The components of one image: boxes (x0, y0, x1, y1) in continuous pixels, centroids in pixel indices."""

    boxes: Float64[ndarray, "n 4"]
    centroids: Float64[ndarray, "n 2"]
    scores: Float64[ndarray, " n"]
    areas: Float64[ndarray, " n"]

    def at_least(self, area: float) -> Components:
        """Keep the components with at least this area."""
        kept = self.areas >= area
        return Components(self.boxes[kept], self.centroids[kept], self.scores[kept], self.areas[kept])


@dataclass(frozen=True)
class Tuning:
    """The settings of the method."""

    sigma_px: float
    least_area_px: int

    def __str__(self) -> str:
        return f"sigma {self.sigma_px:g} px, at least {self.least_area_px} square px"


@dataclass(frozen=True)
class ComponentDetector:
    """Finds the parts of grey images that are brighter, or darker, than the rest; ``f1`` is that on the training images."""

    tuning: Tuning
    polarity: str
    f1: float

    def __str__(self) -> str:
        return f"{self.polarity} components by Otsu's threshold, {self.tuning}"

    def predict(self, image: Shaped[ndarray, "h w"]) -> Components:
        """Find the components of a grey image of any type."""
        signed = POLARITIES[self.polarity] * np.asarray(image, np.float64)
        return find_components(signed, self.tuning.sigma_px).at_least(self.tuning.least_area_px)


TUNINGS = tuple(Tuning(*each) for each in product(SIGMAS_PX, LEAST_AREAS_PX))


def otsu_threshold(values: Float64[ndarray, "*shape"], *, bins: int = BINS) -> float:
    """The centre of the histogram bin that separates the classes best (Otsu 1979, equation 18); a constant is its own.

    >>> otsu_threshold(np.array([0.0, 0.0, 10.0, 10.0]), bins=10)
    0.5
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    means = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(middles[np.argmax(below * above * (means[0] - means[1]) ** 2)])


def find_components(image: Float64[ndarray, "h w"], sigma_px: float) -> Components:
    """Connected components (4 neighbours) of the pixels above the threshold.

    A score is the mean brightness inside the component less that of the background, times the square root of its share of
    the image: from 0 to 1 for an image from 0 to 1.
    """
    blurred = ndimage.gaussian_filter(image, sigma_px)
    bright = blurred > otsu_threshold(blurred)
    labels, count = ndimage.label(bright)
    if not count:
        return Components(np.zeros((0, 4)), np.zeros((0, 2)), np.zeros(0), np.zeros(0))
    numbers = np.arange(1, count + 1)
    boxes = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in ndimage.find_objects(labels)]
    centroids = np.array(ndimage.center_of_mass(bright, labels, numbers)).reshape(-1, 2)[:, ::-1]
    inside = np.asarray(ndimage.mean(blurred, labels, numbers), float)
    outside = float(blurred[~bright].mean())
    areas = np.bincount(labels.ravel())[1:].astype(float)
    scores = (inside - outside) * np.sqrt(areas / image.size)
    return Components(np.array(boxes, float), centroids, scores, areas)


def find_all(images: Sequence[Float64[ndarray, "h w"]], tuning: Tuning) -> list[Components]:
    """Find the components of each image."""
    return [find_components(image, tuning.sigma_px).at_least(tuning.least_area_px) for image in images]


def fit_component_detector(
    images: Sequence[Shaped[ndarray, "_ _"]], truth_xywh: Sequence[Float64[ndarray, "_ 4"]]
) -> ComponentDetector:
    """Choose blur, smallest area and polarity with the highest F1 at IoU .5 on grey training images (h, w).

    >>> image = np.zeros((32, 40))
    >>> image[8:20, 10:30] = 1.0
    >>> str(fit_component_detector([image], [np.array([[10.0, 8.0, 20.0, 12.0]])]))
    "bright components by Otsu's threshold, sigma 0 px, at least 5 square px"
    """
    trials = []
    for polarity, sign in POLARITIES.items():
        for sigma in SIGMAS_PX:
            every = [find_components(sign * np.asarray(image, np.float64), sigma) for image in images]
            for tuning in (each for each in TUNINGS if each.sigma_px == sigma):
                found = [each.at_least(tuning.least_area_px) for each in every]
                trials.append(ComponentDetector(tuning, polarity, _f1(found, truth_xywh)))
    return max(trials, key=lambda each: each.f1)


def _f1(found: Sequence[Components], truth_xywh: Sequence[Float64[ndarray, "_ 4"]]) -> float:
    from pycocotools.mask import iou  # noqa: PLC0415 - loaded only for a fit

    def matches(own: Components, others: Float64[ndarray, "m 4"]) -> ImageMatches:
        overlap = np.asarray(iou(xyxy_to_xywh(own.boxes), others, np.zeros(len(others), np.uint8)), np.float64)
        shape = len(own.boxes), len(others)
        zeros = [np.zeros(count, np.int64) for count in shape]
        return ImageMatches(overlap.reshape(shape), zeros[0], zeros[1], zeros[0] > 0)

    images = (matches(*both) for both in zip(found, truth_xywh, strict=True))
    counts = count_confusions(images, least=MIN_IOU, names=["object"], threshold=0.0, at="").counts
    return float(2 * counts[0, 0] / max(counts[0].sum() + counts[:, 0].sum(), 1))
