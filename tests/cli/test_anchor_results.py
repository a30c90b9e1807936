"""What ``detect anchors`` reads, writes and puts into JSON objects."""

from __future__ import annotations

import csv

import pytest
from builders import part_content, written

from detect import AnchorSet
from detect.samples import sample_annotations

BCCD = str(sample_annotations("bccd"))
NUCLEI = str(sample_annotations("nuclei"))


def test_what_fit_writes_is_read_back_and_scores_the_same(detect, tmp_path):
    fit = detect("anchors", "fit", NUCLEI, "-k", 4, "--levels", "p2-p4", "-o", tmp_path / "out", "--json").json
    anchors = AnchorSet.load(tmp_path / "out" / "anchors.yaml")
    assert anchors.shapes.tolist() == fit["shapes"]
    assert anchors.sources[0].path == NUCLEI
    assert anchors.command.startswith(f"detect anchors fit {NUCLEI} -k 4")
    assert anchors.scores["average_iou"] == pytest.approx(fit["average_iou"], abs=1e-6)
    score = detect("anchors", "score", NUCLEI, "--anchors", tmp_path / "out", "--json").json["anchors"][0]
    assert score["average_iou"] == fit["average_iou"]
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert f"{fit['average_iou']:.3f}" in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["anchors.yaml", "report.html"]


def test_findings_are_named_printed_and_written(detect, tmp_path):
    result = detect("anchors", "fit", BCCD, "-k", 2, "--method", "kmeans", "-o", tmp_path, "--no-report", "--findings")
    assert "annotation 3951, image 300: width 0 and height 0 are not positive" in result.out
    assert "invalid: " in result.err
    with (tmp_path / "findings.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["kind"], row["annotation_id"]) for row in rows] == [("invalid", "3951"), ("invalid", "4005")]
    assert not (tmp_path / "report.html").exists()


def test_tiles_are_a_resize_rule(detect):
    content = detect("anchors", "score", BCCD, "--anchors", "retinanet", "--resize", "tiles:320:64", "--json").json
    assert content["anchors"][0]["boxes"] > 4886  # a box in several tiles counts in each


@pytest.mark.parametrize("assigner", ["max-iou", "atss"])
def test_scores_tell_what_a_matcher_would_do(detect, assigner, tmp_path):
    few = part_content("nuclei", step=8)
    file = written(tmp_path / "few.json", few)
    arguments = ("anchors", "score", file, "--anchors", "retinanet", "--assigner", assigner, "--resize", "none")
    (content,) = detect(*arguments, "--convention", "torchvision", "--json").json["anchors"]
    told = content["assignment"]
    levels, overall = told["levels"], told["overall"]
    assert sum(level["positives"] for level in levels) == pytest.approx(overall["positives"] * overall["count"])
    assert sum(group["count"] for group in told["by_size"]) == overall["count"] == len(few["annotations"])
    assert overall["low_quality_only"] == len(told["low_quality_only_ids"])
    assert told["even_coverage"] == pytest.approx(content["grid_average_iou"] * told["evenness"])
    out = detect(*arguments).out
    assert out.index("even coverage") < out.index("average IoU")
    assert "positives per box" in out
    assert "best anchor on" in out
