"""What a perfect network would reach: on points laid so that the answer is known, and on the samples."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.data import read_coco
from detect.errors import CocoError
from detect.evaluation.oracle import (
    batches_of_one_size,
    check_map_sizes,
    coarsest_good,
    nearest_neighbors,
    oracle_round_trip,
)
from detect.keypoints.coco_keypoints import CocoKeypoints, coco_keypoints
from detect.keypoints.peaks import find_peaks
from detect.samples import sample_annotations


def landmarks_of(*images, wh=(64, 48)) -> CocoKeypoints:
    """Images with these points, as pixel indices."""
    points = [(image, *xy) for image, own in enumerate(images) for xy in own]
    content = {
        "images": [{"id": number, "width": wh[0], "height": wh[1] + number} for number in range(len(images))],
        "categories": [{"id": 1, "name": "spot"}],
        "annotations": [
            {"id": row, "image_id": image, "category_id": 1, "keypoints": [x, y, 2], "bbox": [0, 0, 9, 9]}
            for row, (image, x, y) in enumerate(points)
        ],
    }
    return coco_keypoints(read_coco(content, keypoints=True))


@pytest.fixture(scope="module")
def nuclei() -> CocoKeypoints:
    return coco_keypoints(read_coco(sample_annotations("nuclei"), keypoints=True))


def test_points_apart_lose_nothing():
    found = oracle_round_trip(landmarks_of([(10, 10), (40, 30)], [(5, 7)]), stride=4, sigma=1.5)
    assert found.scores.micro.f1 == 1
    assert (found.merged, found.same_cell, found.outside) == (0, 0, 0)
    assert found.scores.error.mean < 0.01


def test_points_in_one_cell_are_one_and_points_outside_none():
    # at stride 8 cell 1 covers pixels 8 to 15; x = 70 is outside the 64 pixels
    found = oracle_round_trip(landmarks_of([(10, 10), (13, 12), (40, 30), (70, 20)]), stride=8, radius=1.0)
    assert (found.same_cell, found.outside) == (1, 1)
    assert found.merged >= 1
    assert found.scores.num_matched == 4 - found.merged - found.farther - found.outside


def test_a_peak_of_its_own_that_is_too_far_is_not_merged():
    found = oracle_round_trip(landmarks_of([(10.3, 10.7), (40.1, 31.9)]), stride=4, sigma=1.5, radius=1e-9)
    assert (found.merged, found.farther) == (0, 2)


def test_merged_points_have_no_peak_of_their_own():
    pairs, alone = [(10, 10), (13, 10)], [(40, 20), (56, 30)]  # a pair less than a cell apart has one peak
    found = oracle_round_trip(landmarks_of([*pairs, *alone], [*pairs, (30, 30), (33, 30)]), stride=4, split=False)
    assert (found.merged, found.farther) == (3, 0)


def test_a_peak_too_many_elsewhere_hides_no_merged_point(monkeypatch):
    def with_another(*args, **options):
        peaks = find_peaks(*args, **options)
        return replace(
            peaks, **{name: np.concatenate([getattr(peaks, name)] * 2) for name in ("scores", "image", "types")},
            cells=np.concatenate([peaks.cells, np.full_like(peaks.cells, 14.0)]), covariance=None,
        )  # fmt: skip

    monkeypatch.setattr("detect.evaluation.oracle.find_peaks", with_another)
    assert oracle_round_trip(landmarks_of([(10, 10), (13, 10)]), stride=2, sigma=1, split=False).merged == 1


def test_sigma_may_differ_along_the_axes():
    truth = landmarks_of([(10.2, 10.7), (40.1, 31.9)], [(5, 7)])
    found = oracle_round_trip(truth, stride=4, sigma=(1.5, 3.0))
    assert found.scores.micro.f1 == 1
    assert found.scores.error.mean < 0.01
    assert found.sigma == (1.5, 3.0)
    assert found.mean_sigma == pytest.approx(math.sqrt(4.5))
    assert oracle_round_trip(truth, stride=4, sigma=(2.0, 2.0)).scores == oracle_round_trip(truth, stride=4).scores
    assert coarsest_good([found, oracle_round_trip(truth, stride=4, sigma=2.0)]) is found


def test_the_samples_lose_less_than_one_in_two_hundred_at_stride_4(nuclei):
    assert oracle_round_trip(nuclei, stride=4, sigma=2, radius=3).scores.micro.f1 >= 0.995
    assert oracle_round_trip(nuclei, stride=2, sigma=2, radius=3).scores.micro.f1 == 1


def test_peaks_alone_merge_what_is_closer_than_two_cells(nuclei):
    alone, split = (oracle_round_trip(nuclei, stride=4, split=choice) for choice in (False, True))
    assert alone.merged == 5
    assert split.merged <= 2
    assert split.scores.error.mean < alone.scores.error.mean


def test_the_convention_of_pixels_does_not_matter_as_long_as_it_is_kept():
    dataset = landmarks_of([(10.3, 10.2), (40, 30)]).dataset
    errors = [
        oracle_round_trip(coco_keypoints(dataset, pixel_origin=pixel_origin)).scores.error.mean
        for pixel_origin in ("center", "corner")
    ]
    assert max(errors) < 0.02


def test_images_without_points_and_progress():
    done = []
    found = oracle_round_trip(landmarks_of([(10, 10)], [], []), on_progress=done.append)
    assert found.scores.num_images == 3
    assert found.scores.count.mae == 0
    assert done == [1, 2, 3]  # of three sizes


def test_the_coarsest_good_one_is_chosen(nuclei):
    every = [oracle_round_trip(nuclei, stride=stride, sigma=sigma) for stride in (2, 4, 8) for sigma in (1, 2)]
    best = coarsest_good(every)
    assert (best.stride, best.sigma) == (4, 1)  # of stride 4, where sigma 1 loses less
    assert coarsest_good(every[-2:]) is None
    assert coarsest_good(every[:2]).sigma == 2  # as good as sigma 1 at stride 2, and larger


def test_batches_hold_images_of_one_size_and_every_image_once():
    found = landmarks_of([], [(1, 1)], [], [])
    batches = list(batches_of_one_size(found, 2))
    assert sorted(row for batch in batches for row in batch) == [0, 1, 2, 3]
    for batch in batches:
        assert len(np.unique(found.dataset.images.wh[batch], axis=0)) == 1


def test_nearest_neighbours_by_hand():
    truth = landmarks_of([(10, 10), (13, 14), (60, 10)], [(10, 10)])
    assert_allclose(nearest_neighbors(truth), [5, 5, np.hypot(47, 4), np.inf])


def test_points_without_a_label_are_no_neighbours():
    truth = landmarks_of([(10, 10), (13, 14), (60, 10)])
    truth.landmarks.visibility[1] = 0
    assert_allclose(nearest_neighbors(truth), [50, 50])


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 98), st.integers(0, 98)), min_size=1, max_size=20))
def test_neighbours_have_the_least_of_all_distances_in_the_image(points):
    truth = landmarks_of(*([(x, y) for own, x, y in points if own == image] for image in (0, 1)), wh=(100, 100))
    place, image = np.asarray(truth.landmarks.points), np.asarray(truth.landmarks.image)
    every = np.linalg.norm(place[:, None] - place, axis=2)
    every[image[:, None] != image] = np.inf
    np.fill_diagonal(every, np.inf)
    assert_allclose(nearest_neighbors(truth), every.min(axis=1))


def test_maps_that_no_memory_holds_are_refused_by_the_name_of_the_image():
    found = landmarks_of([(4, 4)], wh=(10**6, 10**6))
    message = r"image 0, '', is 1,000,000 x 1,000,000 px: its maps at stride 4 would take 232\.8 GiB"
    with pytest.raises(CocoError, match=message):
        oracle_round_trip(found)
    check_map_sizes(found, 1e6 / 2**15)  # 2**15 cells a side: 2**32 bytes
    with pytest.raises(CocoError, match="image 0"):
        check_map_sizes(found, 1e6 / 2**15 - 1e-3)
