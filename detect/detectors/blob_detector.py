"""Blob detection by scale-normalised Laplacian of Gaussian: the baseline of landmarks without learning.

The response at scale sigma is sigma^2 (Lxx + Lyy) of the image smoothed by a Gaussian of sigma pixels, negated for bright
blobs. Its extrema over position and scale are blobs (Lindeberg 1998, "Feature Detection with Automatic Scale Selection",
section 5). A bright Gaussian blob of standard deviation s and height c has its maximum at sigma = s, with the value c / 2.
Images are divided by their standard deviation first, so that one threshold holds for bright and for dim images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from numpy import ndarray
from scipy.ndimage import gaussian_laplace
from torch import Tensor

from detect.conventions import ORIGIN_SHIFTS
from detect.detectors.component_detector import POLARITIES
from detect.evaluation.points import RADIUS_PX
from detect.evaluation.precision_recall import choose_threshold
from detect.keypoints.peaks import find_peaks
from detect.ops.array_kinds import in_arrays

SCALES_PX = tuple(2.0 * 2 ** (step / 2) for step in range(6))  # 2 to 11.3
LOWEST = 0.05  # standard deviations of the image: responses below are no candidates
IMAGES_AT_ONCE = 16
REACH = 6.0  # sigmas of a kernel: beyond it a Gaussian is below 1e-7

Points = Float64[ndarray, "n 2"]
Scores = Float64[ndarray, " n"]


@dataclass(frozen=True)
class BlobDetector:
    """Finds blobs of about ``sigma`` pixels (from sigma / 1.41 to 1.41 sigma) whose response is at least ``threshold``.

    ``polarity`` is ``"bright"`` or ``"dark"``, the threshold is in standard deviations of the image. ``pixel_origin`` is the
    convention of the points, see :mod:`detect.keypoints.coordinates`. ``f1`` is that on the images it was fitted to.
    """

    sigma: float
    polarity: str = "bright"
    threshold: float = LOWEST
    pixel_origin: str = "center"
    f1: float | None = None

    def __post_init__(self) -> None:
        if not self.sigma > 0 or self.polarity not in POLARITIES or self.pixel_origin not in ORIGIN_SHIFTS:
            raise ValueError(
                f"need sigma > 0, polarity one of {', '.join(POLARITIES)}, pixel_origin one of {', '.join(ORIGIN_SHIFTS)}, "
                f"got {self.sigma}, {self.polarity!r} and {self.pixel_origin!r}"
            )

    def __str__(self) -> str:
        return f"{self.polarity} blobs of sigma {self.sigma:.3g} px"

    @in_arrays
    def predict(self, image: Shaped[ndarray, "h w"]) -> tuple[Points, Scores]:
        """Find the blobs of a grey image: sub-pixel points (x, y) and their responses, in falling order.

        >>> y, x = np.mgrid[:32, :40]
        >>> image = np.exp(-((x - 20.3) ** 2 + (y - 12) ** 2) / (2 * 3.0**2))
        >>> points, scores = BlobDetector(sigma=3.0, threshold=0.5).predict(image)
        >>> points.round(1)
        array([[20.3, 12. ]])
        """
        points, scores = self.candidates(image)
        kept = scores >= self.threshold
        return points[kept], scores[kept]

    @in_arrays
    def candidates(self, image: Shaped[ndarray, "h w"]) -> tuple[Points, Scores]:
        """Find all blobs whatever the threshold, as average precision and precision-recall curves need them."""
        points, scores = self._candidates_at(_responses(_normalized([image]), [self.sigma]))
        return points[0], scores[0]

    def _candidates_at(self, responses: Mapping[float, Float[Tensor, "b 1 h w"]]) -> tuple[list[Points], list[Scores]]:
        """Find the maxima over position and scale of each image of a batch, from its responses by scale."""
        own = torch.stack([responses[scale] for scale in _scales(self.sigma)])
        strongest = (-POLARITIES[self.polarity] * own).amax(dim=0)
        peaks = find_peaks(strongest, threshold=LOWEST, refine="log_parabola")
        return peaks.per_image(1, pixel_origin=self.pixel_origin)


@in_arrays
def fit_blob_detector(
    images: Sequence[Shaped[ndarray, "_ _"]],
    truth: Sequence[Float[ndarray, "_ 2"]],
    *,
    radius: float = RADIUS_PX,
    sigmas: Sequence[float] = SCALES_PX,
    pixel_origin: str = "center",
) -> BlobDetector:
    """Choose scale, polarity and threshold with the highest F1 on grey training images (h, w) of any type and size.

    ``truth`` has the points (x, y) of each image. ``radius``, the largest distance of a pair, and ``sigmas``, the scales to
    try, are in pixels. ``pixel_origin`` is the convention of the points, see :mod:`detect.keypoints.coordinates`.

    >>> y, x = np.mgrid[:48, :48]
    >>> image = 1 - np.exp(-((x - 20) ** 2 + (y - 12) ** 2) / 18) - np.exp(-((x - 30) ** 2 + (y - 35) ** 2) / 18)
    >>> detector = fit_blob_detector([image], [np.array([[20.0, 12.0], [30.0, 35.0]])], sigmas=(3.0,))
    >>> detector.polarity, detector.f1
    ('dark', 1.0)
    """
    if not sigmas or not len(images) == len(truth) > 0:
        raise ValueError(f"need scales, and points of each image, got {len(sigmas)}, {len(truth)} and {len(images)}")
    trials = [BlobDetector(sigma, polarity, pixel_origin=pixel_origin) for polarity in POLARITIES for sigma in sigmas]
    found: dict[BlobDetector, tuple[list[Points], list[Scores]]] = {trial: ([], []) for trial in trials}
    ordered: list[Float[ndarray, "_ 2"]] = []
    for rows, batch in _batches(images):
        ordered += [truth[row] for row in rows]
        responses = _responses(batch, sigmas)
        for trial, totals in found.items():
            for total, own in zip(totals, trial._candidates_at(responses), strict=True):
                total.extend(own)
    fitted = []
    for trial, (points, scores) in found.items():
        choice = choose_threshold(points, ordered, scores=scores, radius=radius)
        fitted.append(replace(trial, threshold=max(choice.threshold, LOWEST), f1=choice.value))
    return max(fitted, key=lambda each: each.f1 or 0.0)


def _batches(images: Sequence[ndarray]) -> Iterator[tuple[list[int], Float[Tensor, "b 1 h w"]]]:
    """Rows and normalised images, in batches of one size."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(row)
    for rows in by_shape.values():
        for start in range(0, len(rows), IMAGES_AT_ONCE):
            batch = rows[start : start + IMAGES_AT_ONCE]
            yield batch, _normalized([images[row] for row in batch])


def _normalized(images: Sequence[ndarray]) -> Float[Tensor, "b 1 h w"]:
    """Images less their mean, over their standard deviation; constant images are 0."""
    if any(image.ndim != 2 or not image.size for image in images):
        raise ValueError(f"images are grey, (h, w), got {[image.shape for image in images]}")
    stack = np.stack([np.asarray(image, np.float64) for image in images])
    stack = stack - stack.mean(axis=(1, 2), keepdims=True)
    deviation = stack.std(axis=(1, 2), keepdims=True)
    return torch.from_numpy(stack / np.where(deviation > 0, deviation, 1)).float()[:, None]


def _scales(sigma: float) -> list[float]:
    """The octave around sigma, rounded so that neighbouring sigmas share scales."""
    return [round(sigma * 2 ** (step / 4), 9) for step in range(-2, 3)]


def _responses(images: Float[Tensor, "b 1 h w"], sigmas: Sequence[float]) -> dict[float, Float[Tensor, "b 1 h w"]]:
    """Scale-normalised Laplacians of Gaussian at the scales around each sigma."""
    scales = sorted({scale for sigma in sigmas for scale in _scales(sigma)})
    tables = images[:, 0].numpy()

    def filtered(scale: float) -> Tensor:
        found = [gaussian_laplace(each, scale, mode="nearest", truncate=REACH) for each in tables]
        return torch.from_numpy(scale**2 * np.stack(found))[:, None]

    return {scale: filtered(scale) for scale in scales}
