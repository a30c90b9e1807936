from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors.instances import (
    ResizedInstances,
    area_ranges,
    banded,
    category_groups,
    instance_weights,
    ratio_bins,
    weighted_histograms,
)
from detect.data import read_coco
from detect.data.resize import parse_resize
from detect.errors import FitError


def test_a_value_on_an_edge_belongs_above_it():
    bands = banded(np.array([31.9, 32.0, 95.9, 96.0]), (32.0, 96.0), ("small", "medium", "large"))
    assert [(band.name, band.rows.tolist()) for band in bands] == [("small", [0]), ("medium", [1, 2]), ("large", [3])]


def test_every_instance_is_in_one_band_of_each_kind(bccd, nuclei):
    for instances in (bccd, nuclei):
        for bands in (area_ranges(instances), ratio_bins(instances), category_groups(instances)):
            rows = np.concatenate([band.rows for band in bands])
            assert sorted(rows.tolist()) == list(range(len(instances)))


def test_categories_are_named_in_the_order_of_their_ids(bccd):
    dataset = bccd.dataset
    bands = category_groups(bccd)
    assert [band.name for band in bands] == [dataset.categories[key] for key in sorted(dataset.categories)]
    for band, key in zip(bands, sorted(dataset.categories), strict=True):
        assert set(dataset.instances.category_ids[band.rows].tolist()) == {key}


def boxes(sides, categories):
    return ResizedInstances.of(
        read_coco(
            {
                "images": [{"id": 1, "width": 640, "height": 640}],
                "categories": [{"id": 3, "name": "dog"}, {"id": 7, "name": "small"}, {"id": 9, "name": "unused"}],
                "annotations": [
                    {"id": row, "image_id": 1, "category_id": category, "bbox": [0, 0, side, side]}
                    for row, (side, category) in enumerate(zip(sides, categories, strict=True), start=1)
                ],
            }
        ),
        parse_resize("none"),
    )


FOUR = boxes([10, 10, 10, 200], [3, 3, 3, 7])


def test_alike_by_default():
    assert_allclose(instance_weights(FOUR), [1, 1, 1, 1])


def test_each_category_counts_alike():
    # three dogs and one other: 1/3 each and 1, whose mean is 1/2
    assert_allclose(instance_weights(FOUR, balance="category"), [2 / 3, 2 / 3, 2 / 3, 2])


def test_each_size_counts_alike_and_one_without_boxes_takes_nothing():
    weights = instance_weights(
        boxes([10, 40, 40, 10, 10], [3] * 5), balance="size"
    )  # 1/3 three times, 1/2 twice: mean .4
    assert_allclose(weights, np.array([1 / 3, 1 / 2, 1 / 2, 1 / 3, 1 / 3]) / 0.4)


def test_factors_multiply():
    # 2 * 3 for the dogs, whose size is small as well, though a category has that name: it is the category that is meant
    assert_allclose(instance_weights(FOUR, factors={"dog": 3.0}), np.array([3, 3, 3, 1]) / 2.5)
    assert_allclose(instance_weights(FOUR, factors={"small": 5.0, "dog": 0.5}), np.array([0.5, 0.5, 0.5, 5]) / 1.625)
    assert_allclose(instance_weights(FOUR, factors={"large": 0.0}), np.array([1, 1, 1, 0]) * 4 / 3)


def test_a_category_without_boxes_may_be_named():
    assert_allclose(instance_weights(FOUR, factors={"unused": 9.0}), [1, 1, 1, 1])


def test_wrong_arguments_are_named():
    with pytest.raises(FitError, match="no category or size is named 'cat': dog, small, unused, small, medium, large"):
        instance_weights(FOUR, factors={"cat": 1.0})
    with pytest.raises(FitError, match="all instances have weight 0"):
        instance_weights(FOUR, factors={"dog": 0.0, "small": 0.0})
    with pytest.raises(ValueError, match="weight of 'dog' must be a finite number from 0, got -1"):
        instance_weights(FOUR, factors={"dog": -1.0})
    with pytest.raises(ValueError, match="balance 'colour' is not one of none, category, size"):
        instance_weights(FOUR, balance="colour")


def test_no_instances_have_no_weights():
    assert len(instance_weights(boxes([], []), balance="category")) == 0


@given(st.lists(st.tuples(st.integers(4, 600), st.sampled_from([3, 7])), min_size=1, max_size=30), st.booleans())
def test_bands_have_equal_weight_in_all_and_the_mean_is_one(drawn, by_size):
    instances = boxes(*zip(*drawn, strict=True))
    weights = instance_weights(instances, balance="size" if by_size else "category")
    assert_allclose(weights.mean(), 1)
    bands = [band for band in (area_ranges if by_size else category_groups)(instances) if len(band.rows)]
    assert_allclose([weights[band.rows].sum() for band in bands], len(instances) / len(bands))


def test_a_histogram_for_each_weight():
    shapes = np.array([[10.0, 10.0], [20.0, 20.0], [30.0, 30.0], [40.0, 40.0]])
    histograms, weights = weighted_histograms(shapes, np.array([1.0, 0.0, 3.0, 1.0]), 16)
    assert weights == [1.0, 3.0]
    assert_allclose(histograms[0].shapes, [[10, 10], [40, 40]])
    assert_allclose(histograms[1].shapes, [[30, 30]])
