"""Blur, Otsu, connected components, by hand; and fitted to boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detect.detectors.component_detector import find_components, fit_component_detector, otsu_threshold


def test_otsu_parts_where_the_classes_differ_most():
    values = np.random.default_rng(0).normal(size=500) + np.repeat([0.0, 4.0], 250)
    low, high = values.min(), values.max()
    edges = np.linspace(low, high, 33)
    middles = (edges[1:] + edges[:-1]) / 2
    binned = middles[np.clip(((values - low) / (high - low) * 32).astype(int), 0, 31)]
    between = {}
    for middle in middles[:-1]:  # the definition, of the binned values: variance within is least
        below, above = binned[binned <= middle], binned[binned > middle]
        between[middle] = len(below) * below.var() + len(above) * above.var()
    assert_allclose(otsu_threshold(values, bins=32), min(between, key=between.__getitem__))


def test_otsu_of_a_flat_image_finds_nothing():
    assert otsu_threshold(np.full((4, 4), 0.3)) == 0.3
    assert len(find_components(np.full((4, 4), 0.3), 1.0).scores) == 0


def test_components_have_edges_and_centroids_of_pixel_indices():
    image = np.zeros((10, 20))
    image[2:5, 4:8], image[7:9, 15:17] = 1.0, 0.8
    found = find_components(image, 0.0)
    assert_array_equal(found.boxes, [[4, 2, 8, 5], [15, 7, 17, 9]])
    assert_allclose(found.centroids, [[5.5, 3.0], [15.5, 7.5]])
    assert_allclose(found.scores, [math.sqrt(12 / 200), 0.8 * math.sqrt(4 / 200)])  # brightness outside is 0
    assert_array_equal(found.at_least(5).areas, [12])


def squares(places: list[tuple[int, int]], side: int = 12, *, dark: bool = False) -> np.ndarray:
    """Squares with their first corner at places (x, y), and specks of one pixel."""
    image = np.full((64, 64), 10.0)
    for x, y in places:
        image[y : y + side, x : x + side] = 200.0
    image[60, ::9] = 200.0
    return 255 - image if dark else image


@pytest.mark.parametrize("dark", [False, True])
def test_a_fit_leaves_out_what_is_too_small_and_finds_bright_or_dark_objects(dark):
    places = [(5, 5), (30, 20), (40, 40)]
    truth = np.array([[x, y, 12.0, 12.0] for x, y in places])
    detector = fit_component_detector([squares(places, dark=dark)], [truth])
    assert (detector.polarity, detector.f1) == ("dark" if dark else "bright", 1.0)
    found = detector.predict(squares([(10, 30)], dark=dark))
    assert_allclose(found.boxes, [[10, 30, 22, 42]], atol=1)
    assert str(detector).startswith("dark components" if dark else "bright components")


def test_images_without_objects_fit_to_an_f1_of_0():
    assert fit_component_detector([np.zeros((8, 8))], [np.array([[0.0, 0, 4, 4]])]).f1 == 0.0
