"""The commands as a user types them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from builders import part_content, written

from detect.anchors.anchor_set import AnchorSet
from detect.samples import sample_annotations

BCCD = str(sample_annotations("bccd"))
NUCLEI = str(sample_annotations("nuclei"))


def test_score_compares_sets_side_by_side_by_their_own_resize_rules_unless_told(detect):
    command = ("anchors", "score", BCCD, "--anchors", "retinanet", "--anchors", "yolov3-coco", "--json")
    own, sets = (detect(*command, *rule).json["anchors"] for rule in ((), ("--resize", "letterbox:640")))
    assert [each["name"] for each in sets] == ["retinanet", "yolov3-coco"]
    assert [len(each["shapes"]) for each in sets] == [45, 9]
    assert {each["resize"] for each in sets} == {"letterbox:640"}
    assert [each["resize"] for each in own] == ["shortest:800:1333", "stretch:416x416"]


@pytest.mark.parametrize(
    "to", ["torchvision", "detectron2", "mmdet", "mmdet-yolo", "yolov5", "darknet", "yolov7", "json"]
)
def test_convert_prints_text_alone_on_stdout(detect, to):
    result = detect("anchors", "convert", "yolov3-coco", "--to", to)
    assert result.code == 0
    assert "116" in result.out or "-62, -83" in result.out
    assert all(line.startswith(("note: ", "goes into ")) for line in result.err.splitlines())


def test_convert_says_where_the_text_goes(detect):
    result = detect("anchors", "convert", "yolov5", "--to", "yolov5")
    assert result.err == "goes into models/yolov5s.yaml, anchors\n"
    assert detect("anchors", "convert", "yolov5", "--to", "json").err == ""


def test_convert_writes_a_file_when_it_is_given_one(detect, tmp_path):
    result = detect("anchors", "convert", "yolov5", "--to", "yolov7", "-o", tmp_path / "new" / "rows.yaml")
    assert result.out == ""
    assert f"wrote {tmp_path / 'new' / 'rows.yaml'}" in result.err
    printed = detect("anchors", "convert", "yolov5", "--to", "yolov7").out
    assert (tmp_path / "new" / "rows.yaml").read_text("utf-8") == printed


def test_convert_fills_levels_only_when_it_is_asked_to(detect, refused, tmp_path):
    (tmp_path / "few.yaml").write_text(
        "- {stride: 8, shapes: [[10, 13], [16, 30]]}\n- {stride: 16, shapes: [[30, 61]]}\n", "utf-8"
    )
    assert "this set has 2, 1: `detect anchors fit DATA --levels 8,16 --per-level 2`" in refused(
        "anchors", "convert", tmp_path / "few.yaml", "--to", "mmdet"
    )
    result = detect("anchors", "convert", tmp_path / "few.yaml", "--to", "mmdet", "--fill")
    assert "levels of 2, 1 anchors are filled with shapes of other levels to 2, 2" in result.err


def test_anchors_of_another_framework_are_scored_under_a_resize_rule_that_is_given(detect, tmp_path):
    (tmp_path / "yolov5s.yaml").write_text(
        "anchors:\n  - [10,13, 16,30]\n  - [30,61, 62,45]\n  - [116,90, 156,198]\n", "utf-8"
    )
    asked = detect("anchors", "score", BCCD, "--anchors", tmp_path / "yolov5s.yaml")
    assert (asked.code, "yolov5s.yaml states no resize rule: give --resize" in asked.err) == (2, True)
    result = detect(
        "anchors", "score", BCCD, "--anchors", tmp_path / "yolov5s.yaml", "--resize", "letterbox:640", "--json"
    )
    assert len(result.json["anchors"][0]["shapes"]) == 6
    assert "yolov5s.yaml: assumed strides 8, 16, 32, by the number of rows" in result.err
    for command in (("levels", "--anchors", "10,13 16,30"), ("sweep", "--sizes", "320", "--anchors", "10,13 16,30")):
        result = detect("anchors", command[0], BCCD, *command[1:])
        assert (result.code, result.err.splitlines()[-1]) == (
            2,
            "detect: 10,13 16,30 states no resize rule: give --resize",
        )


def test_fitted_anchors_that_are_scored_after_another_resize_rule_are_noted(detect, tmp_path):
    file = tmp_path / "mine.yaml"
    AnchorSet.of([[(60, 60)]], strides=[16], resize="letterbox:640", version="1").save(file)
    arguments = ("anchors", "score", NUCLEI, "--anchors", file, "--anchors", "yolov5", "--worst", 0)
    told = f"note: {file} was fitted to boxes after letterbox:640, and is scored after letterbox:320\n"
    assert detect(*arguments, "--resize", "letterbox:320").err == told
    assert detect(*arguments, "--for", "yolov5").err == ""


def test_known_lists_names(detect):
    assert re.search(
        r"^retinanet +RetinaNet of the paper.* P3, P4, P5, P6, P7", detect("anchors", "known").out, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "nothing.json"), "nothing.json: No such file"),
        (("fit", "no*.json"), "no*.json: no file matches this pattern"),
        (("fit", NUCLEI, "--resize", "big"), "resize rule 'big' is not known: use none, stretch"),
        (("fit", NUCLEI, "--levels", "p9-p1"), "levels 'p9-p1'"),
        (("fit", NUCLEI, "-k", "999"), "999 clusters need 999 distinct shapes"),
        (("fit", NUCLEI, "--compare", "yolov9"), "yolov9: no such file; known by name"),
        (("score", NUCLEI), "no anchors given"),
        (("score", NUCLEI, "--anchors", "yolov9"), "yolov9: no such file"),
        (("convert", "yolov9", "--to", "json"), "yolov9: no such file"),
        (("fit", "--config", "nothing.yaml"), "nothing.yaml: No such file"),
        (("fit", NUCLEI, "--for", "nothing.yaml"), "detect: nothing.yaml: No such file or directory"),
        (("sweep", BCCD, "--sizes", "320,x"), "--sizes: expected numbers of 1 or more between commas, got '320,x'"),
        (("sweep", BCCD, "--sizes", "320", "--resize", "none"), "resize rule 'none' has no size to change"),
        (("levels", BCCD, "--anchors", "nothing"), "nothing"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(detect, arguments, message):
    result = detect("anchors", *arguments)
    assert result.code == 2
    assert result.out == ""
    lines = [line for line in result.err.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1
    assert lines[0].startswith("detect: ")
    assert message in lines[0]


@pytest.mark.usefixtures("unchecked")  # hundreds of images, whose checks take three quarters of the time
def test_levels_are_told_in_words_and_as_an_object(detect, tmp_path):
    arguments = ("--anchors", "retinanet", "--resize", "letterbox:640")
    result = detect("anchors", "levels", BCCD, *arguments)
    assert result.code == 0
    assert "keep P3, P4, P5: 1 instance is lost: annotation 4133" in " ".join(result.out.split())
    cells = written(tmp_path / "cells.json", part_content("bccd", step=18))
    content = detect(
        "anchors", "levels", cells, *arguments, "--convention", "torchvision", "--assigner", "atss", "--json"
    ).json
    assert [level["name"] for level in content["levels"]] == ["P3", "P4", "P5", "P6", "P7"]
    assert sum(level["positives"] for level in content["levels"]) == pytest.approx(1)
    assert content["suggested"] == [0, 1, 2]


def test_levels_without_anchors_are_those_of_anchors_fitted_to_the_boxes(detect, tmp_path):
    cells = written(tmp_path / "cells.json", part_content("bccd", step=18))
    result = detect("anchors", "levels", cells, "--resize", "letterbox:640", "--json")
    assert result.err.splitlines()[-1] == "note: no --anchors given: 3 are fitted for each of p3-p7"
    fitting = ("--levels", "p3-p7", "--per-level", 3, "--max-strides", 4, "--certify", 1)
    fit = detect("anchors", "fit", cells, "--resize", "letterbox:640", *fitting, "-o", tmp_path)
    assert fit.code == 0
    given = detect("anchors", "levels", cells, "--anchors", tmp_path / "anchors.yaml", "--json")
    assert [level["preferred"] for level in result.json["levels"]] == pytest.approx(
        [level["preferred"] for level in given.json["levels"]], abs=0.01
    )


def test_a_sweep_shows_what_a_larger_input_buys(detect):
    arguments = ("anchors", "sweep", BCCD, "--sizes", "320,640", "--anchors", "retinanet", "--resize", "letterbox:640")
    small, large = detect(*arguments, "--json").json["settings"]
    assert (small["resize"], large["resize"]) == ("letterbox:320", "letterbox:640")
    assert large["flops"] == pytest.approx(4 * small["flops"], rel=0.01)  # but for cells at the edge
    assert small["missed"] > large["missed"]
    lines = detect(*arguments).out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("letterbox")] == ["letterbox:320", "letterbox:640"]
    ending = ("--levels", "p2-p4", "--resize", "letterbox:640", "--json")
    fitted = detect("anchors", "sweep", NUCLEI, "--sizes", "128,256", "-k", 3, *ending).json
    shapes = [[shape for level in each["levels"] for shape in level["shapes"]] for each in fitted["settings"]]
    np.testing.assert_allclose(2 * np.array(shapes[0]), shapes[1], rtol=0.02)  # twice the size, the same shapes


def test_a_convention_moves_scores_on_the_grid_but_not_those_by_shape(detect):
    arguments = ("anchors", "score", NUCLEI, "--anchors", "retinanet", "--resize", "none", "--json")
    (exact,), (rounded,) = (
        detect(*arguments, "--convention", convention).json["anchors"] for convention in ("exact", "torchvision")
    )
    assert exact["average_iou"] == rounded["average_iou"]
    assert exact["grid_average_iou"] != rounded["grid_average_iou"]


def test_levels_write_a_page(detect, tmp_path):
    result = detect("anchors", "levels", NUCLEI, "--anchors", "retinanet", "-o", tmp_path / "out")
    assert result.code == 0
    assert "P3" in (tmp_path / "out" / "report.html").read_text("utf-8")
