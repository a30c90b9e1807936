"""Blur, Otsu, connected components, by hand."""

from __future__ import annotations

import math

import numpy as np
from evidence_parts import classical
from numpy.testing import assert_allclose, assert_array_equal


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
    assert_allclose(classical.otsu_threshold(values, bins=32), min(between, key=between.__getitem__))


def test_otsu_of_a_flat_image_finds_nothing():
    assert classical.otsu_threshold(np.full((4, 4), 0.3)) == 0.3
    assert len(classical.find_components(np.full((4, 4), 0.3), 1.0).scores) == 0


def test_components_have_edges_and_centroids_of_pixel_indices():
    image = np.zeros((10, 20))
    image[2:5, 4:8], image[7:9, 15:17] = 1.0, 0.8
    found = classical.find_components(image, 0.0)
    assert_array_equal(found.boxes, [[4, 2, 8, 5], [15, 7, 17, 9]])
    assert_allclose(found.centroids, [[5.5, 3.0], [15.5, 7.5]])
    assert_allclose(found.scores, [math.sqrt(12 / 200), 0.8 * math.sqrt(4 / 200)])  # brightness outside is 0
    assert_array_equal(found.at_least(5).areas, [12])
