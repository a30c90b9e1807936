"""Evaluations and oracles as tables and files, and results that cannot be scored."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

from detect.cli.detectors import ResultMarks
from detect.cli.evaluation_results import (
    choose_radius,
    evaluate_results,
    files_of,
    print_evaluation,
    tables_of,
)
from detect.data import CocoDataset, CocoResults, read_coco
from detect.errors import ConfigError
from detect.keypoints.coco_keypoints import coco_keypoints
from detect.samples import sample_annotations

NUCLEI = str(sample_annotations("nuclei"))


@pytest.fixture(scope="module")
def dataset() -> CocoDataset:
    return read_coco(NUCLEI, keypoints=True)


@pytest.fixture(scope="module")
def perfect(dataset) -> CocoResults:
    """The annotations as results; scores fall from the first to the last."""
    own = dataset.instances
    scores = np.linspace(0.9, 0.1, len(own))
    tables = tuple(np.asarray(table, float) for table in own.keypoints or ())
    return CocoResults(np.arange(len(own)), own.image_rows, own.category_ids, scores, own.boxes_xywh, tables, ())


def test_boxes_and_points_are_evaluated_each_in_its_own_way(dataset, perfect):
    boxes = evaluate_results(perfect, dataset, None)
    assert boxes.overall.ap == pytest.approx(1)
    points = evaluate_results(perfect, dataset, coco_keypoints(dataset), radii=[2.0])
    assert [each.micro.f1 for each in points.overall] == [1.0]
    assert [each.title for each in tables_of(boxes)] == ["Boxes", "Score thresholds"]
    assert [each.title for each in tables_of(points)] == ["Points", "Counts", "Score thresholds"]


def test_the_score_of_the_confusions_has_a_row_beside_the_best_one(dataset, perfect):
    rows = tables_of(evaluate_results(perfect, dataset, None, min_score=0.5))[-1].rows
    assert [row[0] for row in rows] == ["all, best", "all, confusion matrix"]
    assert_allclose(rows[0][1:], [perfect.scores.min(), 1, 1, 1])
    recall = (perfect.scores >= 0.5).mean()
    assert_allclose(rows[1][1:], [0.5, 2 * recall / (1 + recall), 1, recall])


def test_counts_of_one_are_singular(dataset, perfect, capsys):
    print_evaluation(evaluate_results(perfect, dataset, None))
    assert "80 images, 1 category, 318 instances, 0 crowd regions, 318 results" in capsys.readouterr().out


def test_a_threshold_is_for_landmarks_and_finite(dataset, perfect):
    with pytest.raises(ConfigError, match="--threshold: only for landmarks"):
        evaluate_results(perfect, dataset, None, threshold=0.5)
    with pytest.raises(ConfigError, match="--threshold: expected a number, got nan"):
        evaluate_results(perfect, dataset, coco_keypoints(dataset), threshold=float("nan"))


def test_the_radius_of_a_choice_is_the_one_given_or_3_px():
    assert [choose_radius(radii) for radii in (None, [], [5.0], [1.0, 2.0])] == [3.0, 3.0, 5.0, 3.0]


def test_the_files_hold_the_numbers_and_the_curves(dataset, perfect):
    evaluation = evaluate_results(perfect, dataset, coco_keypoints(dataset), radii=[2.0])
    marks = ResultMarks(dataset, perfect, 0.3)
    files = files_of(evaluation, marks, name="perfect", images=None, num_pictures=12)
    assert list(files) == ["metrics.json", "curves.csv", "scores.csv", "report.html"]
    metrics = json.loads(files["metrics.json"])
    assert (metrics["source"], metrics["files"]) == ("perfect", [NUCLEI])
    assert metrics["overall"][0]["micro"]["f1"] == 1.0
    rows = list(csv.DictReader(str(files["curves.csv"]).splitlines()))
    assert_allclose([float(row["precision"]) for row in rows], 1.0)
    by_score = list(csv.DictReader(str(files["scores.csv"]).splitlines()))
    assert list(by_score[0]) == ["category", "at", "score", "precision", "recall", "f1"]
    assert (len(by_score), by_score[-1]["f1"]) == (len(perfect.scores), "1.0")
    assert "Truth thin" not in str(files["report.html"])  # there are no images to draw on


def test_a_perfect_network_finds_the_nuclei_at_stride_4_and_not_at_8(detect, tmp_path):
    arguments = ("heatmaps", "oracle", NUCLEI, "--strides", "4,8", "--sigmas", "2")
    content = detect(*arguments, "--json", "-o", tmp_path).json
    fine, coarse = content["settings"]
    assert fine["micro"]["f1"] >= 0.995 > coarse["micro"]["f1"]
    assert fine["merged"] < coarse["merged"]
    assert content["coarsest_good"] == {"stride": 4, "sigma": 2}
    assert "What a perfect network would reach" in (tmp_path / "report.html").read_text("utf-8")


def test_the_table_marks_the_coarsest_good_one_or_warns(detect, truth):
    result = detect("heatmaps", "oracle", truth, "--strides", "2,4", "--sigmas", "1,2")
    (marked,) = [line for line in result.out.splitlines() if line.endswith("<- coarsest good one")]
    assert marked.split()[:3] == ["4", "2", "1.0000"]
    assert result.err == ""
    coarse = detect("heatmaps", "oracle", truth, "--strides", "64", "--sigmas", "1", "--no-split", "--radius", 1)
    assert "warning: no setting reaches an F1 of 0.995" in coarse.err
