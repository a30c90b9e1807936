"""What ``detect anchors`` prints."""

from __future__ import annotations

import pytest
from builders import part_content, written

from detect.samples import sample_annotations

BCCD = str(sample_annotations("bccd"))
NUCLEI = str(sample_annotations("nuclei"))


def test_score_lists_groups_and_the_worst_instances(detect):
    out = detect("anchors", "score", BCCD, "--anchors", "yolov3-coco", "--resize", "letterbox:640", "--worst", 3).out
    assert "by size" in out
    assert "by category" in out
    assert "Platelets" in out
    assert out.count("annotation ") >= 3
    assert "BloodImage_00002.jpg" in out


def test_shapes_and_grid_parting_is_warned_of(detect):
    result = detect("anchors", "fit", NUCLEI, "-k", 5, "--levels", "p4-p5")
    assert "warning: fitted: by shape" in result.err
    assert "finer level than P4" in result.err
    assert "precision" not in result.err  # which did not follow coverage on the grid in docs/evidence.md
    assert "warning" not in detect("anchors", "fit", NUCLEI, "-k", 5, "--levels", "p2-p4").err


def test_a_layout_prints_its_penalty(detect):
    arguments = ("anchors", "fit", NUCLEI, "--levels", "p2-p3", "--layout", "grid", "--scales", 2, "--ratios", 1)
    octaves, grid = detect(*arguments, "--certify", 1, "--json").json["layouts"]
    assert (octaves["layout"], grid["layout"]) == ("octaves", "grid")
    assert [len(sizes) for sizes in grid["sizes"]] == [2, 2]
    assert grid["penalty"] == pytest.approx(grid["free_score"] - grid["score"])
    assert grid["default_score"] <= octaves["score"] <= grid["score"] <= grid["free_score"]
    lines = detect(*arguments, "--certify", 1).out.splitlines()
    (row,) = [line.split() for line in lines if line.startswith("grid")]
    assert row[1:3] == [f"{grid['score']:.4f}", f"{grid['penalty']:.4f}"]


def test_scores_warn_of_categories_that_few_anchors_learn(detect, tmp_path):
    cells = written(tmp_path / "cells.json", part_content("bccd", step=12))
    arguments = ("anchors", "score", cells, "--anchors", "retinanet", "--resize", "stretch:320x240", "--assigner")
    out = " ".join(detect(*arguments, "max-iou").out.split())
    assert (
        "uneven assignment: positive anchors per box: Platelets 4.5; mean of all boxes 33.7; in a sum of losses" in out
    )
    assert "uneven" not in detect(*arguments, "atss").out
