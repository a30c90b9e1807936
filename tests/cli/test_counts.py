"""Calibrated counts as a user types them: from the evaluation of a run to other images, and what a mistake says."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from builders import written

from detect.data import read_coco, read_results
from detect.evaluation.count_intervals import CountCalibration
from detect.samples import sample_annotations

NUCLEI = sample_annotations("nuclei")
IMAGES = NUCLEI.parent / "images"
NAMES = {1: "nucleus"}


@pytest.fixture
def labels(tmp_path) -> Path:
    """The sample, with no nuclei left in every third image."""
    content = json.loads(NUCLEI.read_text("utf-8"))
    empty = {image["id"] for image in content["images"][::3]}
    kept = [each for each in content["annotations"] if each["image_id"] not in empty]
    return written(tmp_path / "labels.json", content | {"annotations": kept})


@pytest.fixture
def results(labels, tmp_path) -> Path:
    """Most of the nuclei with high scores, and false ones with low scores."""
    draws, found = np.random.default_rng(0), []
    for each in json.loads(labels.read_text("utf-8"))["annotations"]:
        x, y, _ = each["keypoints"]
        point = {"image_id": each["image_id"], "category_id": 1}
        if draws.random() < 0.85:
            found.append(point | {"keypoints": [x, y, 1], "score": float(draws.beta(6, 2))})
        if draws.random() < 0.2:
            found.append(point | {"keypoints": [127 - x, y, 1], "score": float(draws.beta(2, 6))})
    return written(tmp_path / "results.json", found)


def test_results_get_reliability_presence_and_false_positives(detect, labels, results, tmp_path):
    run = detect("evaluate", labels, "--results", results, "--task", "landmarks", "-o", tmp_path / "out", "--json")
    (counts,) = run.json["counts"].values()
    overall, empty = counts["bins"][:2]
    assert (overall["num_images"], empty["name"], empty["num_images"]) == (80, "no true point", 27)
    assert 0.85 < overall["coverage"] <= 1
    assert 0.8 < counts["slope"] < 1.2
    assert counts["presence"]["auc"] > 0.9
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("curves.csv", "metrics.json", "report.html", "scores.csv")
    ]
    scaled = ("evaluate", labels, "--results", results, "--task", "landmarks")
    scaled += ("--microns-per-pixel", 2.5, "--threshold", 0.5)
    text, rates = detect(*scaled).out, detect(*scaled, "--json").json["false_positives"]
    assert re.search(r"nucleus: 90% intervals hold \d+\.\d% of 80 images, each predicted from others, slope", text)
    assert "no probability of presence" not in text
    assert rates["all_images"]["area_mm2"] == pytest.approx(80 * (128 * 0.0025) ** 2)
    assert rates["images_without_points"]["area_mm2"] == pytest.approx(27 * (128 * 0.0025) ** 2)


def test_a_run_keeps_its_counts_and_predict_gives_them(detect, tmp_path, trained):
    folder = trained("landmarks", names=NAMES, threshold=0.0095)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, file in enumerate(sorted(IMAGES.iterdir())[:25]):
        shutil.copy(file, photos / f"{number:02d}.png")
    predict = ("predict", folder, photos, "-o", tmp_path / "out", "--num-pictures", 0)
    before = detect(*predict)
    assert "no intervals of counts: " in before.err
    assert f"detect evaluate --run {folder / 'best.pt'} calibrates them" in before.err
    assert not (tmp_path / "out" / "counts.csv").exists()
    assert detect("evaluate", "--run", folder).code == 0
    saved = json.loads((folder / "counts.json").read_text("utf-8"))
    assert saved["made_on"].startswith("80 images of ")
    run = detect(*predict)
    assert "5 more in counts.csv" in run.out
    assert "calibrated on 80 images of" in run.out
    with (tmp_path / "out" / "counts.csv").open() as stream:
        *rows, last = csv.DictReader(stream)
    dataset = read_coco(tmp_path / "out" / "images.json")
    found = read_results(tmp_path / "out" / "results.json", dataset)
    scores = [found.scores[found.image_rows == row] for row in range(25)]
    calibration = msgspec.convert(saved["types"]["nucleus"], CountCalibration)
    wanted, total = calibration.predict(scores), calibration.total(scores)
    assert [row["image"] for row in rows] == list(dataset.images.file_names)
    for name in ("count", "low", "high"):
        assert [int(row[name]) for row in rows] == getattr(wanted, name).tolist()
    assert (last["image"], int(last["low"]), int(last["high"])) == ("all images", total.low, total.high)
    assert detect(*predict, "--json").json["counts"]["nucleus"]["count"] == total.count


def test_counts_of_other_labels_stay_out_of_the_run_and_are_named(detect, labels, tmp_path, trained):
    folder, out = trained("landmarks", names=NAMES, threshold=0.0095), tmp_path / "out"
    assert detect("evaluate", labels, "--run", folder, "--images", IMAGES, "-o", out, "--num-pictures", 0).code == 0
    assert not (folder / "counts.json").exists()
    run = detect(
        "predict", folder, next(IMAGES.iterdir()), "-o", tmp_path / "found", "--counts", out, "--num-pictures", 0
    )
    assert re.search(r"all images +nucleus +\d", run.out)
    assert re.search(r"\.png +nucleus +\d+ +\d+ to \d+ +0?\.\d", run.out)  # with a probability that there is any


def test_turned_images_have_counts_of_their_own(detect, refused, tmp_path, trained):
    folder, photo = trained("landmarks", names=NAMES, threshold=0.0095, turns=True), next(IMAGES.iterdir())
    assert detect("evaluate", "--run", folder, "--turns").code == 0
    predict = ("predict", folder, photo, "-o", tmp_path / "out", "--num-pictures", 0)
    assert "counts.json: made with --turns; " in detect(*predict).err
    found = (tmp_path / "out" / "results.json").read_text("utf-8")
    turned = detect(*predict, "--turns")
    assert (turned.code, "no intervals" in turned.err, "calibrated on 80 images of" in turned.out) == (0, False, True)
    assert (tmp_path / "out" / "results.json").read_text("utf-8") != found
    assert "--turns: only for landmarks, " in refused(
        "predict", trained("boxes"), photo, "-o", tmp_path / "boxes", "--turns"
    )


def test_calibrations_that_do_not_apply_are_one_line(detect, refused, tmp_path, trained):
    folder, photo = trained("landmarks", names=NAMES, threshold=0.0095), next(IMAGES.iterdir())
    detect("evaluate", "--run", folder)
    predict = ("predict", folder, photo, "-o", tmp_path / "out", "--num-pictures", 0)
    tiled = detect(*predict, "--slice", "64:0.2")
    assert (tiled.code, "counts.json: made with whole images; " in tiled.err) == (0, True)
    turned = detect(*predict, "--turns")
    assert turned.code == 2
    assert "was trained without augment.turns, so it knows upright images alone" in turned.err.splitlines()[-1]
    assert "a confidence of 0.99 need 99 images" in refused(*predict, "--confidence", 0.99)
    given = (*predict, "--counts", folder)
    content = json.loads((folder / "counts.json").read_text("utf-8"))
    for changed, message in (
        (content | {"checkpoint": "other"}, "made with another checkpoint or version"),
        (content | {"format": 2}, "made with another checkpoint or version"),
        ({"format": 1}, "not calibrated counts"),
        ([], "not calibrated counts"),
    ):
        written(folder / "counts.json", changed)
        assert message in detect(*given).err
        assert (detect(*given).code, detect(*predict).code) == (2, 0)
    assert "No such file" in detect(*predict, "--counts", tmp_path / "none").err


def test_a_run_that_cannot_be_written_is_evaluated_all_the_same(detect, trained):
    folder = trained("landmarks", names=NAMES, threshold=0.0095)
    (folder / "counts.json").mkdir()
    run = detect("evaluate", "--run", folder)
    assert (run.code, "the run does not keep its counts" in run.err) == (0, True)
    assert "90% intervals hold" in run.out


def test_what_only_points_have_is_refused_for_boxes(detect, refused, tmp_path, trained):
    boxes = trained("boxes", names=NAMES)
    assert "--counts: only for landmarks" in refused(
        "predict", boxes, next(IMAGES.iterdir()), "-o", tmp_path / "out", "--counts", boxes
    )
    assert "--microns-per-pixel: only for landmarks" in refused("evaluate", "--run", boxes, "--microns-per-pixel", 1)
    run = detect("evaluate", "--run", boxes, "--json")
    assert "counts" not in run.json
    assert not (boxes / "counts.json").exists()


def test_images_that_do_not_allow_intervals_are_scored_without(detect, labels, results, tmp_path):
    few = json.loads(labels.read_text("utf-8"))
    few["images"] = few["images"][1:6]
    ids = {image["id"] for image in few["images"]}
    few["annotations"] = [each for each in few["annotations"] if each["image_id"] in ids]
    content = [each for each in json.loads(results.read_text("utf-8")) if each["image_id"] in ids]
    given = written(tmp_path / "few.json", few), "--results", written(tmp_path / "some.json", content)
    run = detect("evaluate", *given, "--task", "landmarks", "--json")
    assert "no intervals of counts of nucleus: counts at a confidence of 0.9 need 9 images" in run.err
    assert (run.code, "counts" in run.json) == (0, False)
    given = given[0], "--results", written(tmp_path / "some.json", [each | {"score": 7.0} for each in content])
    assert "scores of points to count are between 0 and 1" in detect("evaluate", *given, "--task", "landmarks").err
