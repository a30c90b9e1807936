"""Objects lost by limits, suppression, mosaics and distances: plain loops, and every case of small inputs."""

from __future__ import annotations

import itertools
from collections import Counter

import msgspec
import numpy as np
import pytest
from builders import instances_of
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from detect.advice.lost_objects import (
    beyond_in_mosaics,
    beyond_limit,
    least_px,
    lost_to_nms,
    small_objects,
    too_large_objects,
)
from detect.advice.overlaps import overlapping_pairs
from detect.advice.unlearned import unlearned_objects
from detect.catalog.detectors import detectors, load_detector
from detect.data import read_coco
from detect.samples import sample_annotations


@given(st.lists(st.integers(1, 4), max_size=25).map(sorted), st.integers(1, 8))
def test_objects_beyond_the_limit_of_an_image_are_counted_one_by_one(image_ids, most):
    """Queries, detections and training objects are limited alike."""
    instances = instances_of([[0, 0, 8, 8]] * len(image_ids), image_ids=image_ids)
    seen = dict.fromkeys(image_ids, 0)
    num_lost = 0
    for image in image_ids:
        seen[image] += 1
        num_lost += seen[image] > most
    found = beyond_limit("not returned", instances, most)
    assert found is not None
    assert (found.reason, found.num_lost) == ("not returned", num_lost)
    assert_array_equal(found.contested, [k for k, image in enumerate(image_ids) if seen[image] > most])
    detector = msgspec.structs.replace(load_detector("rt-detr"), queries=most)
    assert unlearned_objects(instances, detector).num_lost == num_lost


def test_without_a_limit_nothing_is_counted():
    assert beyond_limit("dropped", instances_of([[0, 0, 8, 8]]), None) is None


COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=4)


@given(COUNTS, st.integers(0, 25), st.integers(2, 4))
def test_objects_beyond_the_queries_of_a_mosaic_are_those_of_every_combination(counts, queries, images):
    together = [sum(drawn) for drawn in itertools.product(counts, repeat=images)]
    beyond = sum(max(number - queries, 0) for number in together) / max(sum(together), 1)
    assert_allclose(beyond_in_mosaics(Counter(counts), queries, images), beyond, atol=1e-11)


def test_objects_beyond_the_queries_of_a_mosaic_are_those_of_random_mosaics():
    counts = np.bincount(read_coco(sample_annotations("bccd")).instances.image_rows)
    together = np.random.default_rng(0).choice(counts, (100_000, 4)).sum(axis=1)
    simulated = np.maximum(together - 60, 0).sum() / together.sum()
    found = beyond_in_mosaics(Counter(counts.tolist()), 60, 4)
    assert 0.02 < found < 0.5
    assert_allclose(found, simulated, rtol=0.03)


def test_mosaics_without_queries_or_objects_lose_nothing():
    assert beyond_in_mosaics({5: 1, 9: 1}, None, 4) == beyond_in_mosaics({301: 1}, 300, 1) == 0
    assert beyond_in_mosaics({0: 3}, 1, 4) == beyond_in_mosaics({}, 1, 4) == 0


def reaches(box: np.ndarray, canvas: int, strides: list[int], reach: int) -> bool:
    """Whether some cell of some level is within the reach of all four sides."""
    return any(
        max(x - box[0], y - box[1], box[2] - x, box[3] - y) <= reach * stride
        for stride in strides
        for x in (np.arange(-(-canvas // stride)) + 0.5) * stride
        for y in (np.arange(-(-canvas // stride)) + 0.5) * stride
    )


@pytest.mark.parametrize("reaches_reg_max", [False, True])
def test_an_object_is_too_large_if_no_cell_of_any_level_reaches_all_of_its_sides(reaches_reg_max):
    detector = msgspec.structs.replace(load_detector("yolov8"), reg_max=2, reaches_reg_max=reaches_reg_max)
    draws = np.random.default_rng(0)
    shapes = draws.integers(20, 120, (60, 2))
    corners = np.floor(draws.random((60, 2)) * (128 - shapes))
    instances = instances_of(np.concatenate([corners, shapes], axis=1).tolist(), image_wh=(128, 128))
    found = too_large_objects(instances, detector)
    assert found is not None
    reach = 2 if reaches_reg_max else 1
    fits = [reaches(box, 128, detector.strides, reach) for box in instances.boxes]
    assert_array_equal(found.lost, np.flatnonzero(~np.array(fits)))
    assert 0 < found.num_lost < len(fits)


def test_distances_without_bins_have_no_limit():
    assert too_large_objects(instances_of([[0, 0, 64, 64]]), load_detector("tood")) is None


def test_small_objects_are_under_eight_pixels_or_a_cell():
    assert [least_px([4, 8]), least_px([8]), least_px([16, 32])] == [8, 8, 16]
    instances = instances_of([[0, 0, 8, 8], [0, 0, 8, 7], [0, 0, 64, 1], [0, 0, 15, 16]])
    assert_array_equal(small_objects(instances, [8, 16]), [1])
    assert_array_equal(small_objects(instances, [16, 32]), [0, 1, 2, 3])


@pytest.mark.parametrize("name", detectors())
def test_of_no_objects_none_are_lost(name):
    none, detector = instances_of([]), load_detector(name)
    pairs = overlapping_pairs(none.boxes, none.dataset.instances.image_rows)
    found = [
        unlearned_objects(none, detector),
        too_large_objects(none, detector),
        lost_to_nms(pairs, 0.5),
        beyond_limit("not returned", none, detector.max_det),
    ]
    assert [each.num_lost for each in found if each] == [0] * sum(each is not None for each in found)
    assert all(len(each.contested) == 0 for each in found if each)
