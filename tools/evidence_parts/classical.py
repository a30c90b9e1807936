"""Detection without training: blur, Otsu's threshold, connected components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy import ndimage

BINS = 256
SIGMAS_PX = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
LEAST_AREAS_PX = (5, 10, 20, 30, 40, 60, 80)


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
