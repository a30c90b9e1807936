"""Boxes scored: by hand, and as pycocotools scores files."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detect.data import CocoResults, read_coco, read_results
from detect.evaluation.boxes import evaluate_boxes

GAPPED = (3, 7, 90)  # ids of categories as COCO's own: with gaps
AREAS = ("all", "small", "medium", "large")


def boxes_at_random(seed: int, *, results: int | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Six images, one of them without boxes: objects of all sizes, crowds, ties of scores, boxes near the right ones.

    The last category has no instance.
    """
    draws = np.random.default_rng(seed)
    images = [{"id": 10 * number, "width": 400, "height": 300, "file_name": f"{number}.png"} for number in range(1, 7)]
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in images[:-1]:
        for _ in range(int(draws.integers(1, 9))):
            width, height = (float(value) for value in np.exp(draws.uniform(np.log(8), np.log(180), 2)))
            x, y = float(draws.uniform(0, 400 - width)), float(draws.uniform(0, 300 - height))
            category = int(draws.choice(GAPPED[:2]))
            own = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": category}
            area, crowd = width * height * float(draws.uniform(0.5, 1)), int(draws.random() < 0.15)
            annotations.append({**own, "bbox": [x, y, width, height], "area": area, "iscrowd": crowd})
            for _ in range(int(draws.integers(0, 4))):
                moved = np.array([x, y, width, height]) * draws.normal(1, 0.08, 4)
                wrong = draws.random() < 0.15
                found.append(result(image["id"], int(draws.choice(GAPPED)) if wrong else category, moved, draws))
    found += [result(60, 3, np.array([5.0, 5, 40, 40]), draws)]
    return {"images": images, "categories": named(GAPPED), "annotations": annotations}, found[:results]


def result(image: int, category: int, box: np.ndarray, draws: np.random.Generator) -> dict[str, Any]:
    score = round(float(draws.uniform(0.05, 1)), 1)
    return {"image_id": image, "category_id": category, "bbox": box.tolist(), "score": score}


def named(categories: tuple[int, ...]) -> list[dict[str, Any]]:
    return [{"id": category, "name": f"kind {category}"} for category in categories]


def by_hand(truth: Path, results: Path, category: int | None = None) -> COCOeval:
    """As pycocotools' own documentation goes about it, from files."""
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO(str(truth))
        evaluation = COCOeval(objects, objects.loadRes(str(results)), "bbox")
        if category is not None:
            evaluation.params.catIds = [category]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def written(folder: Path, truth: Any, results: Any) -> tuple[Path, Path]:
    paths = folder / "truth.json", folder / "results.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(content), "utf-8")
    return paths


def numbers(scores: Any) -> list[float]:
    """The twelve, as pycocotools spells none."""
    return [-1.0 if value is None else value for value in astuple(scores)]


def evaluated(folder: Path, truth: Any, results: Any) -> Any:
    paths = written(folder, truth, results)
    dataset = read_coco(paths[0])
    return evaluate_boxes(read_results(paths[1], dataset), dataset)


def one_object(**changes: Any) -> dict[str, Any]:
    """A square of 20 pixels in one image of two."""
    annotation = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
    images = [{"id": number, "width": 100, "height": 100, "file_name": f"{number}.png"} for number in (1, 2)]
    return {"images": images, "categories": named((3,)), "annotations": [annotation | changes]}


def test_one_object_by_hand(tmp_path):
    """IoU 20 * 15 / 400 = .75: found at .50 .. .75, six of the ten thresholds, with a false one of a higher score."""
    results = [
        {"image_id": 2, "category_id": 3, "bbox": [0, 0, 30, 30], "score": 0.9},
        {"image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 15], "score": 0.5},
    ]
    found = evaluated(tmp_path, one_object(), results)
    scores = found.overall
    assert_allclose([scores.ap, scores.ap50, scores.ap75, scores.ap_small], [0.3, 0.5, 0.5, 0.3])  # precision 1 / 2
    assert_allclose([scores.ar1, scores.ar10, scores.ar100, scores.ar_small], 0.6)
    assert [scores.ap_medium, scores.ap_large, scores.ar_medium, scores.ar_large] == [None] * 4
    at = found.curves[0]
    assert (at.category, at.at) == ("", "IoU .50")
    assert_allclose(at.recall, np.linspace(0, 1, 101))
    assert_allclose(at.precision, 0.5)
    assert_allclose(at.scores, [0.9] + [0.5] * 100)  # the least score that is needed
    assert np.isnan(found.curves[2].scores).all()  # a mean over thresholds


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_the_twelve_numbers_are_those_of_pycocotools_run_by_hand(tmp_path_factory, seed):
    truth, results = boxes_at_random(seed)
    folder = tmp_path_factory.mktemp("by-hand")
    found = evaluated(folder, truth, results)
    paths = written(folder, truth, results)
    assert_array_equal(numbers(found.overall), by_hand(*paths).stats)
    assert list(found.by_category) == list(GAPPED)
    for category, scores in found.by_category.items():
        assert_array_equal(numbers(scores), by_hand(*paths, category).stats)


def test_curves_are_those_of_pycocotools_and_average_to_its_precision(tmp_path):
    truth, results = boxes_at_random(3)
    found = evaluated(tmp_path, truth, results)
    curves = {(curve.category, curve.at): curve for curve in found.curves}
    table = by_hand(*written(tmp_path, truth, results)).eval["precision"][..., 0, -1]
    assert_array_equal(curves["kind 7", "IoU .50"].precision, table[0, :, 1])
    assert_allclose(curves["", "IoU .50"].precision.mean(), found.overall.ap50)
    assert_allclose(curves["", "IoU .75"].precision.mean(), found.overall.ap75)
    assert_allclose(curves["", "IoU .50 to .95"].precision.mean(), found.overall.ap)
    assert ("kind 90", "IoU .50") not in curves  # no instance: nothing to recall
    for name in ("kind 3", "kind 7"):
        own = curves[name, "IoU .50"]
        assert_array_equal(np.isnan(own.scores), own.precision == 0)
    assert np.isnan(curves["", "IoU .50"].scores).all()


def test_an_empty_results_file_misses_everything(tmp_path):
    truth, _ = boxes_at_random(5)
    found = evaluated(tmp_path, truth, [])
    assert found.overall.ap == found.overall.ar100 == 0
    assert found.by_category[90].ap is None
    assert found.num_results == 0
    assert all(np.isnan(curve.scores).all() for curve in found.curves)
    # pycocotools itself cannot read an empty list; with one box in an image of nothing it says the same
    nothing = [{"image_id": 60, "category_id": 3, "bbox": [1, 1, 9, 9], "score": 0.1}]
    assert_array_equal(numbers(found.overall), by_hand(*written(tmp_path, truth, nothing)).stats)


def test_crowds_swallow_what_lies_in_them(tmp_path):
    truth = one_object()
    crowd = {"id": 2, "image_id": 1, "category_id": 3, "bbox": [40, 40, 60, 60], "area": 3600, "iscrowd": 1}
    truth["annotations"].append(crowd)
    results = [
        {"image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20], "score": 0.5},
        {"image_id": 1, "category_id": 3, "bbox": [45, 45, 20, 20], "score": 0.9},
        {"image_id": 1, "category_id": 3, "bbox": [70, 70, 20, 20], "score": 0.8},
    ]
    assert_allclose(evaluated(tmp_path, truth, results).overall.ap, 1)
    truth["annotations"].pop()
    assert_allclose(evaluated(tmp_path, truth, results).overall.ap, 1 / 3)


def test_an_annotation_with_the_id_0_counts_like_any_other(tmp_path):
    """pycocotools takes it for no match at all."""
    results = [{"image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20], "score": 0.5}]
    assert_allclose(evaluated(tmp_path, one_object(id=0), results).overall.ap, 1)
    assert by_hand(tmp_path / "truth.json", tmp_path / "results.json").stats[0] == 0


def test_a_box_that_reaches_outside_is_clipped_as_it_was_read(tmp_path):
    results = [{"image_id": 1, "category_id": 3, "bbox": [0, 10, 20, 20], "score": 0.5}]
    found = evaluated(tmp_path, one_object(bbox=[-10, 10, 30, 20]), results)
    assert_allclose(found.overall.ap, 1)
    assert "clipped" in found.dataset.suspicious[0].reason


@pytest.mark.parametrize("content", ["no annotations", "no categories", "no images"])
def test_a_dataset_with_nothing_in_it_has_no_numbers(tmp_path, content):
    truth: dict[str, Any] = {**one_object(), "annotations": []}
    truth |= {"categories": []} if content == "no categories" else {}
    truth |= {"images": []} if content == "no images" else {}
    found = evaluated(tmp_path, truth, [])
    assert numbers(found.overall) == [-1] * 12
    assert found.curves == ()


def test_results_without_a_box_and_of_unknown_images_are_told(tmp_path):
    results = [
        {"image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20], "score": 0.5},
        {"image_id": 1, "category_id": 3, "keypoints": [1, 2, 1], "score": 0.9},
        {"image_id": 5, "category_id": 3, "bbox": [10, 10, 20, 20], "score": 0.9},
        {"image_id": 1, "category_id": 3, "bbox": [30, 10, -20, 20], "score": 0.9},
    ]
    found = evaluated(tmp_path, one_object(), results)
    assert found.num_results == 1
    assert found.confusion.counts.sum() == 1
    assert_allclose(found.overall.ap, 1)
    assert [each["reason"] for each in found.to_dict()["invalid_results"]] == [
        "entry 2 of the results: no image has this id",
        "entry 3 of the results: no bbox of four finite numbers without a negative size",
        "entry 1 of the results: no bbox of four finite numbers without a negative size",
    ]


def test_a_file_without_categories_is_scored_by_the_ids_of_its_annotations():
    images = [{"id": 1, "width": 50, "height": 50, "file_name": "a.png"}]
    annotations = [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [3, 4, 20, 10]}]
    dataset = read_coco({"images": images, "annotations": annotations})
    columns = np.zeros(1, np.int64), np.array([5]), np.array([0.9]), dataset.annotations.boxes_xywh
    found = CocoResults(np.zeros(1, np.int64), *columns, (np.zeros((0, 3)),), ())
    assert evaluate_boxes(found, dataset).overall.ap == pytest.approx(1.0)


def test_nothing_is_printed_and_the_object_is_plain_json(tmp_path, capsys):
    content = evaluated(tmp_path, *boxes_at_random(1)).to_dict()
    assert capsys.readouterr().out == ""
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert [each["id"] for each in content["by_category"]] == list(GAPPED)


@pytest.mark.parametrize("seed", range(3))
def test_recall_at_a_score_is_pycocotools_without_the_results_below_it(tmp_path, seed):
    truth, results = boxes_at_random(seed, results=60)
    found = evaluated(tmp_path, truth, results)
    recalls = []
    for threshold in (0.2, 0.4, 0.6):
        kept = [each for each in results if each["score"] >= threshold]
        for curve in found.by_score[1:]:
            category = next(each["id"] for each in truth["categories"] if each["name"] == curve.category)
            recall = by_hand(*written(tmp_path, truth, kept), category).eval["recall"][0, 0, 0, -1]
            reached = int((curve.scores >= threshold).sum())
            if recall >= 0:  # there are objects
                recalls.append(recall)
                assert (curve.recall[reached - 1] if reached else 0.0) == pytest.approx(recall)
    assert max(recalls) > 0
    assert found.best_f1.value == pytest.approx(found.by_score[0].f1.max())
