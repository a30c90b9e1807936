"""Object keypoint similarity: by hand, and as pycocotools has it."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from persons import random_persons
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rods import ROD, landmarks, results_of

from detect.data import read_coco
from detect.errors import CocoError
from detect.evaluation.oks import OksScores, evaluate_oks
from detect.keypoints.coco_keypoints import coco_keypoints

SIGMAS = (0.03, 0.1, 0.05, 0.08)


@pytest.fixture
def score(tmp_path):
    """Score results of the form of COCO's files against annotations of that form."""

    def evaluated(results: list[dict[str, Any]], truth: dict[str, Any], sigmas=SIGMAS) -> OksScores:
        found = coco_keypoints(read_coco(truth, keypoints=True))
        return evaluate_oks(results_of(found, results, tmp_path), found, sigmas=sigmas)

    return evaluated


def test_what_is_not_predicted_is_far_away(tmp_path):
    found = landmarks(ROD)
    for other in ([float("nan"), 15, 1], [0, 0, 0]):
        entries = [{"image_id": 1, "category_id": 1, "score": 0.9, "keypoints": [12, 13, 1, *other]}]
        oks = evaluate_oks(results_of(found, entries, tmp_path), found, sigmas=[0.05, 0.05])
        assert (oks.ap50, oks.ap75) == (pytest.approx(1), 0)  # one of two keypoints: .5


@pytest.mark.parametrize("seed", range(10))
def test_precision_and_recall_are_pycocotools_of_the_files(seed, score, tmp_path, capsys):
    truth, results = random_persons(seed)
    for name, content in (("truth.json", truth), ("found.json", results)):
        (tmp_path / name).write_text(json.dumps(content), "utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO(tmp_path / "truth.json")
        evaluation = COCOeval(objects, objects.loadRes(str(tmp_path / "found.json")), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(SIGMAS)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert_allclose([-1 if each is None else each for each in astuple(score(results, truth))], evaluation.stats)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("change", [{"iscrowd": 1}, {"keypoints": [0, 0, 0] * 4}])
def test_crowds_and_objects_without_keypoints_are_ignored_with_what_finds_them(score, change):
    near, far = (
        {"id": number, "image_id": 1, "category_id": 1, "keypoints": [at, at, 2] * 4, "area": 5000.0, "bbox": box}
        for number, at, box in ((1, 50.0, [0, 0, 90, 90]), (2, 150.0, [100, 100, 90, 90]))
    )
    results = [
        {"image_id": 1, "category_id": 1, "keypoints": each["keypoints"], "score": score_}
        for each, score_ in ((near, 0.5), (far, 0.9))
    ]
    truth = {"images": [{"id": 1, "height": 200, "width": 200}], "categories": [{"id": 1, "name": "thing"}]}
    both = truth | {"annotations": [near, far | change]}
    assert score(results, both).ap == pytest.approx(1.0)
    assert score(results[:1], both).ap == pytest.approx(1.0)  # not missed
    assert score(results, truth | {"annotations": [near]}).ap == pytest.approx(0.5)  # the better score finds nothing


def test_nothing_found_scores_0_and_nothing_to_find_has_no_score(score):
    truth, results = random_persons(2)
    assert score([], truth).ap == 0.0
    for each in truth["annotations"][1:]:
        each["iscrowd"] = 1
    alone = score(results, truth)
    assert alone.ap is not None
    assert None in (alone.ap_medium, alone.ap_large)


def test_refused_results_take_no_part(score):
    truth, results = random_persons(3)
    short, unknown = {**results[0], "keypoints": [1, 2, 1]}, {**results[0], "keypoints": [float("nan")] * 12}
    assert score([short, *results, unknown], truth) == score(results, truth)


def test_one_sigma_is_needed_for_each_keypoint(score):
    with pytest.raises(CocoError, match="one sigma for each of 4 keypoints of 'thing', got 1"):
        score([], random_persons(2)[0], [0.1])
