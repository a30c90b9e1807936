"""Blobs by scale-normalised Laplacian of Gaussian: of Gaussians by hand, against SciPy's filter, and fitted by F1."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

from detect.detectors.blob_detector import BlobDetector, fit_blob_detector
from detect.evaluation.points import score_points


def blobs(*points, hw=(64, 80), sigma: float = 4.0) -> np.ndarray:
    """The sum of Gaussians of height 1 at points (x, y)."""
    y, x = np.mgrid[: hw[0], : hw[1]]
    every = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in points]
    return np.sum([np.zeros(hw), *every], axis=0)


def test_a_gaussian_has_half_its_height_at_its_own_scale_and_place():
    # smoothed by t = sigma^2, a Gaussian of variance s^2 has the height s^2 / (s^2 + t) and minus its Laplacian twice that
    # over s^2 + t; times t = s^2 this is 2 s^4 / (2 s^2)^2 = 1/2, its maximum over t
    image = blobs((30.3, 25.8))
    points, scores = BlobDetector(4.0).predict(image)
    assert_allclose(points[0], [30.3, 25.8], atol=0.05)
    assert_allclose(scores[0] * image.std(), 0.5, rtol=0.01)


@pytest.mark.parametrize("sigma", [3.0, 5.5])
def test_blobs_in_the_octave_around_the_scale_are_found_at_their_place(sigma):
    points, _ = BlobDetector(4.0, threshold=1.0).predict(blobs((20.0, 20.0), (60.0, 44.0), sigma=sigma))
    assert_allclose(points[points[:, 0].argsort()], [[20, 20], [60, 44]], atol=0.05)


def test_candidates_are_the_maxima_of_scipys_responses():
    image = np.random.default_rng(0).random((40, 50))
    scales = [round(4.0 * 2 ** (step / 4), 9) for step in range(-2, 3)]
    normal = (image - image.mean()) / image.std()
    strongest = np.max(
        [-(s**2) * ndimage.gaussian_laplace(normal, s, mode="nearest", truncate=6) for s in scales], axis=0
    )
    highest = (strongest == ndimage.maximum_filter(strongest, 3)) & (strongest > 0.05)
    points, scores = BlobDetector(4.0).candidates(image)
    rows = np.argwhere(highest)[:, ::-1]
    assert len(points) == len(rows) > 3
    assert_allclose(np.sort(scores), np.sort(strongest[highest]), rtol=0.01)
    assert np.linalg.norm(points[:, None] - rows, axis=2).min(axis=1).max() <= 2**0.5  # refined within a cell


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_brightness_contrast_and_number_type_do_not_matter(dtype):
    image = blobs((20.3, 30.6), (50.0, 40.0))
    points, scores = BlobDetector(4.0).predict(image)
    others = BlobDetector(4.0).predict((image * 200 + 7).astype(dtype))
    assert_allclose(others[0][:2], points[:2], atol=0.02)
    assert_allclose(others[1][:2], scores[:2], rtol=0.01)


def test_dark_blobs_are_bright_ones_of_the_negative():
    image = blobs((20.3, 30.6), (50.0, 40.0))
    bright, dark = BlobDetector(4.0).predict(image), BlobDetector(4.0, "dark").predict(1 - image)
    for own, other in zip(bright, dark, strict=True):
        assert_allclose(own, other, rtol=1e-5)


def test_points_follow_the_pixel_origin():
    image = blobs((20.3, 30.6))
    index, corner = (BlobDetector(4.0, pixel_origin=origin).predict(image)[0] for origin in ("center", "corner"))
    assert_allclose(corner - index, np.full_like(index, 0.5), atol=1e-5)


def test_a_constant_image_has_no_blobs():
    for image in (np.zeros((20, 30)), np.full((20, 30), 7, np.uint8)):
        points, scores = BlobDetector(4.0).predict(image)
        assert (points.shape, scores.shape) == ((0, 2), (0,))


def training_images() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Blobs of 4 px among many smaller and some larger ones, under noise; images of two sizes, one without blobs."""
    draws = np.random.default_rng(1)
    truth = [np.array([[15.0, 20.0], [60.0, 40.0], [40.0, 12.0]]), np.array([[30.0, 30.0]]), np.zeros((0, 2))]
    images = []
    for points, hw in zip(truth, ((64, 80), (60, 60), (64, 80)), strict=True):
        small = blobs(*draws.uniform(5, 55, (6, 2)), hw=hw, sigma=1.0)
        images.append(blobs(*points, hw=hw) + small + draws.normal(0, 0.05, hw))
    return images, truth


def test_the_fit_takes_the_scale_and_polarity_of_the_objects():
    images, truth = training_images()
    detector = fit_blob_detector(images[:2], truth[:2])
    assert detector.polarity == "bright"
    assert 2.8 < detector.sigma < 5.7
    assert detector.f1 == 1
    dark = fit_blob_detector([1 - image for image in images[:2]], truth[:2])
    assert (dark.polarity, dark.sigma, dark.f1) == ("dark", detector.sigma, 1)


def test_the_f1_of_the_fit_is_that_of_its_predictions():
    images, truth = training_images()
    detector = fit_blob_detector(images, truth, radius=2.0)
    points, scores = zip(*map(detector.predict, images), strict=True)
    assert_allclose(score_points(points, truth, scores=scores, radius=2.0).micro.f1, detector.f1)


def test_what_cannot_be_fitted_is_refused():
    image, points = np.zeros((9, 9)), np.zeros((0, 2))
    for images, truth, sigmas in (([], [], (2.0,)), ([image], [points] * 2, (2.0,)), ([image], [points], ())):
        with pytest.raises(ValueError, match="need scales, and points of each image"):
            fit_blob_detector(images, truth, sigmas=sigmas)
    with pytest.raises(ValueError, match="polarity one of bright, dark"):
        BlobDetector(2.0, "grey")
