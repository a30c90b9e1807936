"""Results scored as points of a dataset: grouped by hand, ignored regions, and OKS as pycocotools has it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from rods import BALL, ROD, dataset_of, landmarks, results_of

from detect.data import read_coco
from detect.evaluation.angles import AngleScores
from detect.evaluation.coco_points import LandmarkEvaluation, evaluate_landmarks, point_results
from detect.keypoints.coco_keypoints import box_keypoints, coco_keypoints


def test_points_stand_with_those_of_their_image_and_type(tmp_path):
    found = landmarks(ROD, BALL)
    entries = [
        {"image_id": 2, "category_id": 5, "score": 0.4, "keypoints": [51, 61, 1]},
        {"image_id": 2, "category_id": 1, "score": 0.7, "keypoints": [1, 2, 1, 3, 4, 1]},
        {"image_id": 1, "category_id": 1, "score": 0.9, "keypoints": [5, 6, 1, 7, 8, 1]},
    ]
    points = point_results(results_of(found, entries, tmp_path), found)
    # groups: rod 0, rod 1, ball of image 1, then of image 2
    assert [own.tolist() for own in points.predicted] == [[[5, 6]], [[7, 8]], [], [[1, 2]], [[3, 4]], [[51, 61]]]
    assert [own.tolist() for own in points.scores] == [[0.9], [0.9], [], [0.7], [0.7], [0.4]]
    assert [own.tolist() for own in points.truth] == [[[12, 13]], [[14, 15]], [], [], [], [[50, 60]]]
    ball = points.of_type(2)
    assert (ball.num_types, [own.tolist() for own in ball.predicted]) == (1, [[], [[51, 61]]])
    assert [own.tolist() for own in ball.truth] == [[], [[50, 60]]]


def test_points_without_a_label_are_no_truth_and_occluded_ones_are(tmp_path):
    found = landmarks({"keypoints": [12, 13, 0, 14, 15, 1]})
    points = point_results(results_of(found, [], tmp_path), found)
    assert [own.tolist() for own in points.truth] == [[], [[14, 15]], [], []]


def test_centres_of_boxes_are_points(tmp_path):
    found = box_keypoints(read_coco(dataset_of({"bbox": [10, 10, 20, 30]})))
    entries = [{"image_id": 1, "category_id": 1, "score": 0.4, "bbox": [0, 2, 10, 20]}]
    points = point_results(results_of(found, entries, tmp_path), found, source="boxes")
    assert_array_equal(points.predicted[0], [[5, 12]])
    assert_array_equal(points.truth[0], [[20, 25]])


CROWD = {"keypoints": [0] * 6, "bbox": [100, 100, 40, 40], "iscrowd": 1}
SILENT = {"keypoints": [0] * 6, "bbox": [100, 100, 40, 40]}


@pytest.mark.parametrize("region", [CROWD, SILENT])
@pytest.mark.parametrize(
    ("x", "y", "num_left"),
    [
        (120, 120, 0),  # inside, far from the point of its type
        (141, 120, 1),  # outside: the box ends at 140 - .5, for pixel indices
        (110, 113, 1),  # inside, 3 from the point
        (110, 113.5, 0),
    ],
)
def test_predictions_in_a_region_nobody_labelled_do_not_count_unless_a_true_point_is_near(
    tmp_path, region, x, y, num_left
):
    found = landmarks({"keypoints": [110, 110, 2, 190, 190, 2]}, region)
    entries = [{"image_id": 1, "category_id": 1, "score": 0.4, "keypoints": [x, y, 1, 5, 5, 1]}]
    points = point_results(results_of(found, entries, tmp_path), found, radius=3.0)
    assert [len(own) for own in points.predicted] == [num_left, 1, 0, 0]
    assert points.num_ignored == 1 - num_left


def test_near_means_a_point_of_the_same_type(tmp_path):
    found = landmarks({"keypoints": [110, 110, 2, 190, 190, 2]}, CROWD)
    entries = [{"image_id": 1, "category_id": 1, "score": 0.4, "keypoints": [190, 190, 1, 110, 110, 1]}]
    points = point_results(results_of(found, entries, tmp_path), found)
    assert [len(own) for own in points.predicted] == [1, 0, 0, 0]


def test_a_region_says_nothing_of_other_images(tmp_path):
    found = landmarks(ROD, CROWD)
    entries = [{"image_id": 2, "category_id": 1, "score": 0.4, "keypoints": [120, 120, 1, 120, 120, 1]}]
    assert point_results(results_of(found, entries, tmp_path), found).num_ignored == 0


@given(st.lists(st.tuples(st.integers(1, 2), st.floats(0, 199), st.floats(0, 199), st.floats(0, 1)), max_size=12))
def test_every_prediction_counts_or_is_ignored_or_refused(tmp_path_factory, rows):
    found = landmarks({**BALL, "image_id": 1}, {**CROWD, "keypoints": [0, 0, 0], "category_id": 5})
    entries = [
        {"image_id": image, "category_id": 5, "score": score, "keypoints": [x, y, 1]} for image, x, y, score in rows
    ]
    strange = {"image_id": 1, "category_id": 5, "score": 0.5, "keypoints": []}
    points = point_results(results_of(found, [*entries, strange], tmp_path_factory.mktemp("a")), found)
    assert sum(map(len, points.predicted)) + points.num_ignored == len(rows)
    assert [len(own) for own in points.predicted] == [len(own) for own in points.scores]
    assert len(points.invalid) == 1
    inside = sum(image == 1 and 99.5 <= x <= 139.5 and 99.5 <= y <= 139.5 for image, x, y, _ in rows)
    assert points.num_ignored == inside  # (50, 60) is far from it


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"keypoints": [1, 2, 3]}, "category 1 has 2 keypoints in the truth, this has 1"),
        ({"bbox": [1, 2, 3, 4]}, "category 1 has 2 keypoints in the truth, this has 0"),
        ({"keypoints": [1, 2, 3], "category_id": 5}, "category 5 has 0 keypoints in the truth"),
    ],
)
def test_results_without_the_points_of_their_category_are_refused_with_their_place(tmp_path, entry, reason):
    found = landmarks(ROD)
    rubbish: Any = "rubbish"
    entries = [rubbish, {"image_id": 2, "category_id": 1, "score": 0.4, **entry}]
    points = point_results(results_of(found, entries, tmp_path), found)
    assert not any(map(len, points.predicted))
    finding = points.invalid[1]
    assert finding.image_id == 2
    assert finding.reason.startswith("entry 1 of the results: ")
    assert reason in finding.reason


def test_another_source_is_refused(tmp_path):
    found = landmarks(ROD)
    with pytest.raises(ValueError, match="source is one of keypoints, boxes, got 'masks'"):
        point_results(results_of(found, [], tmp_path), found, source="masks")


# evaluations


def points(**changes: Any) -> dict[str, Any]:
    """Three images with two points, one and none; ids with a gap."""
    rows = [(1, 10, 10), (1, 50, 50), (2, 20, 20)]
    annotations = [
        {"id": number, "image_id": image, "category_id": 5, "keypoints": [x, y, 2], "bbox": [x - 5, y - 4, 10, 8]}
        for number, (image, x, y) in enumerate(rows, 1)
    ]
    images = [{"id": number, "width": 100, "height": 100, "file_name": f"{number}.png"} for number in range(1, 4)]
    return {"images": images, "categories": [{"id": 5, "name": "kind 5"}], "annotations": annotations, **changes}


def found_points() -> list[dict[str, Any]]:
    rows = [(1, 10, 10, 0.9), (1, 52, 50, 0.8), (2, 20, 24, 0.4), (3, 5, 5, 0.3)]  # 0, 2 and 4 px off, and a false one
    return [
        {"image_id": image, "category_id": 5, "score": score, "keypoints": [x, y, 1]} for image, x, y, score in rows
    ]


def landmarks_evaluated(folder: Path, truth: Any, results: Any, **options: Any) -> LandmarkEvaluation:
    found = coco_keypoints(read_coco(truth, keypoints=True))
    return evaluate_landmarks(results_of(found, results, folder), found, **options)


def test_landmarks_by_hand(tmp_path):
    """Within 1, 2 and 5 px 1, 2 and 3 of 3 points are found, with 4 results; image 3 has one too many."""
    found = landmarks_evaluated(tmp_path, points(), found_points(), radii=(1.0, 2.0, 5.0))
    assert_allclose([each.micro.f1 for each in found.overall], [2 / 7, 4 / 7, 6 / 7])
    assert_allclose([each.mean_average_precision for each in found.overall], [1 / 3, 2 / 3, 1])
    assert [each.count.mae for each in found.overall] == [1 / 3] * 3
    assert [each.num_images for each in found.overall] == [3] * 3
    assert [curve.at for curve in found.curves] == ["within 1 px", "within 2 px", "within 5 px"]
    assert_allclose(found.curves[1].recall, [1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert_allclose(found.curves[1].precision, [1, 1, 2 / 3, 1 / 2])
    assert_allclose(found.curves[1].scores, [0.9, 0.8, 0.4, 0.3])


def test_each_type_of_landmark_is_scored_by_itself(tmp_path):
    """Kind 5 is found, kind 9 is not: its one result lies 30 px off."""
    truth = points(categories=[{"id": number, "name": f"kind {number}"} for number in (5, 9)])
    truth["annotations"].append(
        {"id": 9, "image_id": 3, "category_id": 9, "keypoints": [70, 70, 2], "bbox": [60, 60, 20, 20]}
    )
    results = [*found_points()[:2], {"image_id": 3, "category_id": 9, "score": 0.7, "keypoints": [40, 70, 1]}]
    found = landmarks_evaluated(tmp_path, truth, results, radii=(3.0,))
    assert {name: scores[0].num_matched for name, scores in found.by_type.items()} == {"kind 5": 2, "kind 9": 0}
    assert found.overall[0].num_matched == 2
    assert found.overall[0].num_images == 3
    assert [curve.category for curve in found.curves] == ["", "kind 5", "kind 9"]


def test_the_threshold_is_chosen_on_the_data_and_told(tmp_path):
    # within 5 px by falling score: found, found, found, false, of 3: F1 is 1 between .4 and .3
    best = landmarks_evaluated(tmp_path, points(), found_points(), radii=(5.0,), choose="f1", choose_radius=5.0)
    assert (best.threshold, best.overall[0].micro.f1) == (0.35, 1)
    assert best.to_dict()["threshold"] == best.to_dict()["overall"][0]["threshold"] == 0.35
    # within 3 px only two are found: F1 4/5 between .8 and .4
    assert landmarks_evaluated(tmp_path, points(), found_points(), choose="f1").threshold == pytest.approx(0.6)
    assert landmarks_evaluated(tmp_path, points(), found_points(), choose="count").threshold == 0.35


def test_oks_is_added_where_sigmas_are_given(tmp_path):
    found = landmarks_evaluated(tmp_path, points(), found_points(), oks_sigmas=[0.5])
    assert 0.9 < found.oks.ap < 1  # two of three results are off
    assert found.to_dict()["oks"] == asdict(found.oks)
    assert "oks" not in landmarks_evaluated(tmp_path, points(), found_points()).to_dict()


def test_a_radius_is_needed_and_a_threshold_is_given_or_chosen_not_both(tmp_path):
    with pytest.raises(ValueError, match=r"one radius or more"):
        landmarks_evaluated(tmp_path, points(), [], radii=())
    with pytest.raises(ValueError, match=r"a threshold or a goal, got .* threshold=0.5, choose='f1'"):
        landmarks_evaluated(tmp_path, points(), [], threshold=0.5, choose="f1")


def test_angles_of_results_are_scored_within_each_radius(tmp_path):
    """The middles are (20, 10) and (50, 50); the results lie 1 and 4 px off, with errors of 10 and 170 degrees."""
    rods = [{"keypoints": [30, 10, 2, 10, 10, 2]}, {"keypoints": [50, 60, 2, 50, 40, 2]}]
    entries = [
        {"image_id": 1, "category_id": 1, "keypoints": [20, 11, 1], "score": 0.9, "angle": -10.0},
        {"image_id": 1, "category_id": 1, "keypoints": [54, 50, 1], "score": 0.8, "angle": 260.0},
    ]
    directed, axis = (landmarks(*rods, orientation=each) for each in ("directed", "axis"))
    found = evaluate_landmarks(results_of(directed, entries, tmp_path), directed, radii=(2.0, 5.0))
    assert [each.angle for each in found.overall] == [AngleScores(10, 10, 1), AngleScores(90, 90, 2)]
    assert found.to_dict()["by_type"]["rod"][1]["angle"] == {"mean": 90.0, "median": 90.0, "num_pairs": 2}
    half = evaluate_landmarks(results_of(axis, entries, tmp_path), axis, radii=(5.0,), threshold=0.85)
    assert half.overall[0].angle == AngleScores(10, 10, 1)
    half = evaluate_landmarks(results_of(axis, entries, tmp_path), axis, radii=(5.0,))
    assert half.overall[0].angle == AngleScores(10, 10, 2)
    del entries[0]["angle"], entries[1]["angle"]
    assert evaluate_landmarks(results_of(axis, entries, tmp_path), axis).overall[0].angle is None
