"""Object keypoint similarity: by hand, and as pycocotools has it."""

from __future__ import annotations

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from persons import random_persons
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from detect.evaluation.oks import PERSON_SIGMAS, evaluate_oks

SIGMAS = np.array([0.03, 0.1, 0.05, 0.08])


def by_pycocotools(truth, results, sigmas, folder):
    """As its own documentation goes about it, from files."""
    for name, content in (("truth.json", truth), ("results.json", results)):
        (folder / name).write_text(json.dumps(content), "utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO(folder / "truth.json")
        evaluation = COCOeval(objects, objects.loadRes(str(folder / "results.json")), "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_the_sigmas_of_persons_are_pycocotools():
    assert_array_equal(PERSON_SIGMAS, Params(iouType="keypoints").kpt_oks_sigmas)


# evaluation


@pytest.mark.parametrize("seed", range(10))
def test_precision_and_recall_are_pycocotools(seed, tmp_path):
    truth, results = random_persons(seed)
    expected = by_pycocotools(truth, results, SIGMAS, tmp_path).stats
    found = evaluate_oks(results, truth, sigmas=SIGMAS)
    assert_allclose([-1 if number is None else number for number in found.to_dict().values()], expected)


def test_perfect_results_score_1_and_other_sigmas_change_others():
    truth, _ = random_persons(3)
    truth["annotations"] = [each for each in truth["annotations"] if each["num_keypoints"] and not each["iscrowd"]]
    results = [
        {"image_id": each["image_id"], "category_id": 1, "keypoints": each["keypoints"], "score": 0.5}
        for each in truth["annotations"]
    ]
    assert evaluate_oks(results, truth, sigmas=SIGMAS).ap == pytest.approx(1.0)
    shifted = [each | {"keypoints": (np.array(each["keypoints"]) + 5).tolist()} for each in results]
    strict, lenient = (evaluate_oks(shifted, truth, sigmas=factor * SIGMAS).ap for factor in (0.3, 3))
    assert strict < 0.5 < lenient


@pytest.mark.parametrize("change", [{"iscrowd": 1}, {"num_keypoints": 0}])
def test_crowds_and_objects_without_keypoints_are_ignored_with_what_finds_them(change):
    truth, _ = random_persons(0)
    annotation = truth["annotations"][0] | {
        "keypoints": [50.0, 50.0, 2] * 4,
        "num_keypoints": 4,
        "iscrowd": 0,
        "area": 5000.0,
    }
    far = annotation | {"id": 2, "keypoints": [150.0, 150.0, 2] * 4}
    results = [
        {"image_id": annotation["image_id"], "category_id": 1, "keypoints": each["keypoints"], "score": score}
        for each, score in ((annotation, 0.5), (far, 0.9))
    ]
    found = evaluate_oks(results, truth | {"annotations": [annotation, far | change]}, sigmas=SIGMAS)
    assert found.ap == pytest.approx(1.0)
    unseen = evaluate_oks(results[:1], truth | {"annotations": [annotation, far | change]}, sigmas=SIGMAS)
    assert unseen.ap == pytest.approx(1.0)  # not missed
    alone = evaluate_oks(results, truth | {"annotations": [annotation]}, sigmas=SIGMAS)
    assert alone.ap == pytest.approx(0.5)  # not ignored, the better score finds nothing


def test_keypoints_are_counted_where_the_file_does_not():
    truth, results = random_persons(1)
    plain = truth | {
        "annotations": [{k: v for k, v in each.items() if k != "num_keypoints"} for each in truth["annotations"]]
    }
    assert evaluate_oks(results, plain, sigmas=SIGMAS) == evaluate_oks(results, truth, sigmas=SIGMAS)


def test_nothing_found_scores_0_and_nothing_to_find_has_no_score():
    truth, results = random_persons(2)
    assert evaluate_oks([], truth, sigmas=SIGMAS).ap == 0.0
    nothing = evaluate_oks(results, truth | {"annotations": []}, sigmas=SIGMAS)
    assert set(nothing.to_dict().values()) == {None}


def test_inputs_stay_as_they_are_and_nothing_is_printed(capsys):
    truth, results = random_persons(2)
    before = copy.deepcopy((truth, results))
    evaluate_oks(results, truth, sigmas=SIGMAS.tolist())
    assert (truth, results) == before
    assert capsys.readouterr().out == ""


# refusals


def test_what_does_not_fit_the_sigmas_or_the_images_is_refused():
    truth, results = random_persons(2)
    with pytest.raises(ValueError, match="annotation 0 has 12 numbers in keypoints, not 3 for each of 17 sigmas"):
        evaluate_oks(results, truth)
    with pytest.raises(ValueError, match="result 1 has 3 numbers"):
        evaluate_oks([results[0], results[0] | {"keypoints": [1.0, 2.0, 1]}], truth, sigmas=SIGMAS)
    with pytest.raises(ValueError, match=r"not in the truth: \[99\]"):
        evaluate_oks([results[0] | {"image_id": 99}], truth, sigmas=SIGMAS)
