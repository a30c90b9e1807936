"""False positives by area: by hand, areas against a mask of pixels, and the interval against scipy's Poisson test."""

from __future__ import annotations

import numpy as np
import pytest
from builders import coco_content
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from detect.data import CocoResults, read_coco
from detect.evaluation.coco_points import point_results
from detect.evaluation.false_positives import FalsePositiveRate, area_outside, false_positives
from detect.keypoints.coco_keypoints import coco_keypoints


def found(points, scores) -> CocoResults:
    """Points (image row, x, y) as results of category 1."""
    tables = tuple(np.array([[x, y, 1.0]]) for _, x, y in points)
    rows, nothing = np.array([row for row, *_ in points], int), np.full((len(points), 4), np.nan)
    return CocoResults(
        np.arange(len(points)), rows, np.ones(len(points), int), np.array(scores, float), nothing, tables, ()
    )


def dataset():
    """Images of 100 x 50: one point and a crowd of 20 x 50 in the first, nothing in the second."""
    content = coco_content([[8, 8, 4, 4], [60, 0, 20, 50]], image_wh=(100, 50))
    content["images"].append({"id": 2, "width": 100, "height": 50})
    content["annotations"][0] |= {"keypoints": [10, 10, 2], "num_keypoints": 1}
    content["annotations"][1] |= {"iscrowd": 1}
    return read_coco(content, keypoints=True)


def test_rates_by_hand():
    """At 2 micrometres a pixel, 4,000 pixels are .016 mm2 and the empty image's 5,000 are .02."""
    truth = coco_keypoints(dataset())
    points = [(0, 11, 10), (0, 12, 12), (0, 70, 20), (0, 40, 40), (1, 5, 5), (1, 9, 9)]
    results = found(points, [0.9, 0.8, 0.9, 0.7, 0.6, 0.2])
    options = {"microns_per_pixel": 2.0, "threshold": 0.5}
    rates = false_positives(point_results(results, truth, radius=5.0), truth, truth.ignored_regions(), **options)
    assert rates.all_images.count == 3  # the second at the point, one far off, one in the empty image; not in the crowd
    assert_allclose(rates.all_images.area_mm2, 0.036)
    assert_allclose(rates.all_images.per_mm2, 3 / 0.036)
    assert rates.images_without_points.count == 1
    assert_allclose(rates.images_without_points.area_mm2, 0.02)


@given(st.integers(0, 10**6))
def test_the_area_is_that_of_the_pixels_outside(seed):
    draws = np.random.default_rng(seed)
    corners = draws.integers(-3, 14, (draws.integers(0, 5), 2))
    regions = np.concatenate([corners, corners + draws.integers(0, 8, corners.shape)], axis=1).astype(float)
    mask = np.ones((9, 11), bool)
    for x0, y0, x1, y1 in regions.astype(int).tolist():
        mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = False
    assert area_outside((11, 9), regions) == mask.sum()


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_the_interval_is_the_exact_one_of_a_poisson_count(count):
    rate = FalsePositiveRate.of(count, 2.5, 0.9)
    wanted = stats.chi2.ppf(0.05, 2 * count) / 2 if count else 0.0, stats.chi2.ppf(0.95, 2 * count + 2) / 2
    assert_allclose([rate.low, rate.high], np.array(wanted) / 2.5)


def test_without_an_empty_image_there_is_no_rate_of_them():
    content = coco_content([[8, 8, 4, 4]], image_wh=(100, 50))
    content["annotations"][0] |= {"keypoints": [10, 10, 2], "num_keypoints": 1}
    truth = coco_keypoints(read_coco(content, keypoints=True))
    points = point_results(found([], []), truth)
    rates = false_positives(points, truth, truth.ignored_regions(), microns_per_pixel=1.0)
    assert (rates.all_images.count, rates.images_without_points) == (0, None)
