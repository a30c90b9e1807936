"""``detect advise`` as a user types it: the verdict first, JSON, files, and what a mistake looks like."""

from __future__ import annotations

import csv
import json
import re

import pytest
from builders import part_content, written

from detect.samples import sample_annotations

NUCLEI = sample_annotations("nuclei")
BCCD = sample_annotations("bccd")


def test_the_verdict_stands_first_and_the_settings_below(detect):
    run = detect("advise", NUCLEI, "--for", "yolo11-8.3", "--size", 128)
    assert run.code == 0
    lines = run.out.splitlines()
    assert lines[0].startswith("318 boxes in 80 images, 1 category")
    assert "yolo11-8.3 at letterbox:128: of 318 objects, at least 12 (3.8%) get no cell in any assignment" in run.out
    assert "Set imgsz=" in run.out
    assert "labels" in run.out
    assert "-o FOLDER writes a page" in run.err


def test_several_detectors_are_answered_as_one_json_object(detect):
    answer = detect("advise", BCCD, "--for", "yolo11,fcos", "--for", "rf-detr", "--json").json
    assert [each["detector"] for each in answer["advice"]] == ["yolo11", "fcos", "rf-detr"]
    first = answer["advice"][0]
    assert first["objects"] == 4886
    lost = {each["reason"]: each for each in first["lost"]}
    assert lost["suppressed"]["at_least"] == 8
    assert len(lost["suppressed"]["contested_ids"]) == lost["suppressed"]["contested"] == 16
    sizes = next(each for each in first["settings"] if each["setting"] == "input size")
    assert sizes["now"]["text"] == "imgsz=640"
    assert not sizes["is_worth_it"]
    assert {sign["name"] for sign in answer["labels"]} >= {"near-duplicates of the same category"}
    assert answer["drift"] is None


def test_the_files_hold_every_lost_object(detect, tmp_path):
    folder = tmp_path / "advice"
    run = detect("advise", NUCLEI, "--for", "tood", "--size", 128, "--images", NUCLEI.parent / "images", "-o", folder)
    assert run.code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["advice.json", "lost.csv", "report.html"]
    (advice,) = json.loads((folder / "advice.json").read_text("utf-8"))["advice"]
    with (folder / "lost.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    (lost,) = [each for each in advice["lost"] if each["at_least"]]
    certain = [int(row["annotation_id"]) for row in rows if row["outcome"] == "lost"]
    assert certain == lost["lost_ids"]
    assert len(rows) == len(lost["lost_ids"]) + lost["contested"]
    ids = {each["id"] for each in json.loads(NUCLEI.read_text("utf-8"))["annotations"]}
    assert set(certain) <= ids
    assert "<svg" in (folder / "report.html").read_text("utf-8")


def test_costs_are_told_in_time_where_that_of_an_image_is_known(detect):
    run = detect("advise", NUCLEI, "--for", "tood", "--size", 128, "--image-ms", 10)
    assert "at 9 times the compute (90 ms an image)" in run.out


def test_validation_data_is_compared_with_the_training_data(detect):
    run = detect("advise", BCCD, "--val", BCCD, "--for", "rf-detr")
    assert "364 validation images have the name and size of a training image" in run.out


def test_a_detector_of_ones_own_is_a_file_of_the_same_fields(detect, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: yolo11\nmax_det: 10\nstrides: [16, 32]\n", "utf-8")
    run = detect("advise", BCCD, "--for", file)
    assert "mine at letterbox:640" in run.out
    assert "not returned: an image has 10 detections" in run.out


def test_a_training_configuration_is_advised_on_with_its_own_anchors(detect, tmp_path):
    file = tmp_path / "run.yaml"
    text = "data: {train: [a.json], images: images, resize: 'letterbox:96'}\nmodel: {levels: p4-p6, per_level: 1}\n"
    file.write_text(f"task: boxes\n{text}", "utf-8")
    run = detect("advise", written(tmp_path / "few.json", part_content("nuclei", step=8)), "--for", file)
    assert run.code == 0
    assert "get no anchor" in run.out
    assert "model.iou_threshold=0.5" in run.out
    file.write_text(f"task: landmarks\n{text}", "utf-8")
    run = detect("advise", NUCLEI, "--for", file)
    assert (run.code, run.err) == (
        2,
        "detect: run: advice is for detectors of boxes, and this configuration is for landmarks\n",
    )


def test_anchors_of_another_file_replace_the_stock_ones(detect):
    plain = detect("advise", NUCLEI, "--for", "yolov5", "--size", 128, "--json").json
    other = detect("advise", NUCLEI, "--for", "yolov5", "--size", 128, "--anchors", "yolov7", "--json").json
    lost = [each["advice"][0]["lost"][0]["at_least"] for each in (plain, other)]
    assert lost[0] != lost[1]


def test_few_validation_images_leave_no_infinite_number(detect, tmp_path):
    few = tmp_path / "few.json"
    content = json.loads(BCCD.read_text("utf-8"))
    content["images"] = content["images"][:2]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in ids]
    few.write_text(json.dumps(content), "utf-8")
    answer = detect("advise", BCCD, "--val", few, "--for", "rf-detr", "--json").json
    assert answer["drift"]["size"]["low"] is None
    detect("advise", BCCD, "--val", few, "--for", "rf-detr", "-o", tmp_path / "advice")
    assert "Infinity" not in (tmp_path / "advice" / "advice.json").read_text("utf-8")


def test_names_may_have_spaces_and_numbers_of_a_part_say_so(detect, monkeypatch):
    from detect.advice import trials

    monkeypatch.setattr(trials, "MAX_BOXES", 100)
    run = detect("advise", NUCLEI, "--for", "tood, rf-detr", "--size", 128)
    assert "rf-detr at stretch:128x128" in run.out
    assert re.search(r"input size 128 x 213 +\d+ of \d+ ", run.out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--for", "yolo12"], "no detector is named 'yolo12': did you mean "),
        (["--for", "yolo11,none.yaml"], "none.yaml: No such file or directory\n"),
        (["--for", ","], "--for: name a detector, such as yolo11; `detect anchors known --all` lists them"),
        (["--for", "effdet-d0", "--size", "16000", "--anchors", "none.yaml"], "none.yaml: no such file"),
        (["--for", "rf-detr", "--anchors", "yolov5"], "rf-detr has no anchors: "),
        (
            ["--for", "retinanet", "--anchors", "yolov5"],
            "--anchors yolov5: strides are 8, 16, 32; retinanet has 8",
        ),
    ],
)
def test_a_mistake_is_one_line(detect, arguments, message):
    run = detect("advise", NUCLEI, *arguments)
    assert run.code == 2
    assert run.err.startswith(f"detect: {message}")
    assert run.err.count("\n") == 1


def test_the_catalog_is_listed_with_and_without_anchors(detect):
    assert "yolo11" not in detect("anchors", "known").out
    everything = detect("anchors", "known", "--all").out
    assert "yolo11" in everything
    assert "no anchors" in everything
