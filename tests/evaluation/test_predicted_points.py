"""What results predict of partly labelled objects, and points in regions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rods import ROD, dataset_of, landmarks, results_of

from detect.data import read_coco
from detect.evaluation.coco_points import evaluate_landmarks, point_results
from detect.evaluation.predicted_points import inside_any
from detect.keypoints.coco_keypoints import coco_keypoints


def test_a_keypoint_without_confidence_or_position_is_not_predicted(tmp_path):
    found = landmarks(ROD)
    entries = [
        {"image_id": 1, "category_id": 1, "score": 0.4, "keypoints": [0, 0, 0, 14, 15, 1]},
        {"image_id": 1, "category_id": 1, "score": 0.9, "keypoints": [12, 13, 0.3, float("nan"), 15, 1]},
        {"image_id": 2, "category_id": 1, "score": 0.8, "keypoints": [12, 13, 0, 14, 15, 0.95]},  # 0 for no number
    ]
    points = point_results(results_of(found, entries, tmp_path), found)
    assert [own.tolist() for own in points.predicted] == [[[12, 13]], [[14, 15]], [[12, 13]], [[14, 15]]]
    assert [own.tolist() for own in points.scores] == [[0.3], [0.4], [0.8], [0.8]]  # a keypoint's own if that is lower
    assert not points.invalid


PARTLY = [  # the head of the first rod and the tail of the second have no label
    {"keypoints": [0, 0, 0, 30, 32, 2], "bbox": [10, 10, 30, 30]},
    {"keypoints": [110, 111, 1, 0, 0, 0], "bbox": [100, 100, 30, 30]},
]


def test_a_perfect_prediction_of_partly_labelled_objects_scores_1(tmp_path):
    """Three keypoints, of which each object has some that no label tells of: found or not, they cost nothing."""
    full = dataset_of(
        {"keypoints": [12, 13, 2, 0, 0, 0, 30, 32, 2], "bbox": [10, 10, 30, 30]},
        {"keypoints": [0, 0, 0, 110, 111, 1, 0, 0, 0], "bbox": [100, 100, 30, 30]},
    )
    found = coco_keypoints(read_coco(full, keypoints=True))
    everywhere = [
        {"image_id": 1, "category_id": 1, "score": 0.9, "keypoints": [12, 13, 1, 20, 20, 1, 30, 32, 1]},
        {"image_id": 1, "category_id": 1, "score": 0.8, "keypoints": [105, 105, 1, 110, 111, 1, 120, 125, 1]},
    ]
    known = [
        {"image_id": 1, "category_id": 1, "score": 0.9, "keypoints": [12, 13, 1, 0, 0, 0, 30, 32, 1]},
        {"image_id": 1, "category_id": 1, "score": 0.8, "keypoints": [0, 0, 0, 110, 111, 1, 0, 0, 0]},
    ]
    for entries, num_ignored in ((everywhere, 3), (known, 0)):
        scores = evaluate_landmarks(results_of(found, entries, tmp_path), found, oks_sigmas=[0.05] * 3)
        assert scores.overall[0].micro.f1 == 1
        assert scores.oks is not None
        assert scores.oks.ap == pytest.approx(1)
        assert scores.num_ignored == num_ignored


def test_an_unlabelled_keypoint_may_be_wrong_and_is_so_elsewhere(tmp_path):
    found = landmarks(*PARTLY)
    entries = [
        {"image_id": 1, "category_id": 1, "score": 0.9, "keypoints": [15, 15, 1, 30, 32, 1]},
        {
            "image_id": 1,
            "category_id": 1,
            "score": 0.8,
            "keypoints": [110, 111, 1, 25, 15, 1],
        },  # a tail in the first box
    ]
    results = results_of(found, entries, tmp_path)
    by_choice = {
        choice: [len(own) for own in point_results(results, found, unlabelled=choice).predicted]
        for choice in ("ignore", "wrong")
    }
    assert by_choice == {"ignore": [1, 2, 0, 0], "wrong": [2, 2, 0, 0]}
    with pytest.raises(ValueError, match="unlabelled is one of ignore, wrong, got 'never'"):
        point_results(results, found, unlabelled="never")


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(0, 8))
def test_points_in_regions_by_hand(seed, num_points, num_regions):
    random = np.random.default_rng(seed)
    points, corners = random.integers(0, 9, (num_points, 2)), random.integers(0, 9, (num_regions, 2, 2))
    regions = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(float)
    inside = inside_any(points.astype(float), regions)
    assert inside.tolist() == [any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in regions) for x, y in points]
