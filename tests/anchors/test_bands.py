from __future__ import annotations

import numpy as np

from detect.anchors.bands import banded, category_bands, ratio_bands, size_bands


def test_a_value_on_an_edge_belongs_above_it():
    bands = banded(np.array([31.9, 32.0, 95.9, 96.0]), (32.0, 96.0), ("small", "medium", "large"))
    assert [(band.name, band.rows.tolist()) for band in bands] == [("small", [0]), ("medium", [1, 2]), ("large", [3])]


def test_every_instance_is_in_one_band_of_each_kind(bccd, nuclei):
    for instances in (bccd, nuclei):
        for bands in (size_bands(instances), ratio_bands(instances), category_bands(instances)):
            rows = np.concatenate([band.rows for band in bands])
            assert sorted(rows.tolist()) == list(range(len(instances)))


def test_categories_are_named_in_the_order_of_their_ids(bccd):
    dataset = bccd.dataset
    bands = category_bands(bccd)
    assert [band.name for band in bands] == [dataset.categories[key] for key in sorted(dataset.categories)]
    for band, key in zip(bands, sorted(dataset.categories), strict=True):
        assert set(dataset.instances.category_ids[band.rows].tolist()) == {key}
