"""``detect anchors fit --for NAME``, as a user types it."""

from __future__ import annotations

import pytest
import yaml
from builders import coco_content, part_content, written

from detect.anchors.known import load_anchors
from detect.samples import sample_annotations

NUCLEI = str(sample_annotations("nuclei"))


@pytest.fixture
def few(tmp_path) -> str:
    """Some of the nuclei."""
    return str(written(tmp_path / "few.json", part_content("nuclei", step=4)))


def test_one_command_prints_the_text_where_it_goes_and_the_score_under_the_detectors_rule(detect, few):
    result = detect("anchors", "fit", few, "--for", "yolov5", "--start", "yolov5")
    assert result.code == 0
    assert "start yolov5: " in result.out
    assert result.out.count("\nyolov5 ") >= 2  # under the detector's rule: the start, and the stock anchors
    assert "resize letterbox:640" in result.out
    assert "as yolov5 matches" in result.out
    assert "For models/yolov5s.yaml, at anchors:" in result.out
    rows = yaml.safe_load(result.out[result.out.index("\nanchors:") :])["anchors"]
    assert [len(row) for row in rows] == [6, 6, 6]


def test_the_text_is_written_beside_our_own_file_and_both_hold_the_same_shapes(detect, few, tmp_path):
    result = detect("anchors", "fit", few, "--for", "yolov5", "-o", str(tmp_path / "out"), "--json")
    assert result.code == 0
    ours, theirs = (load_anchors(tmp_path / "out" / name) for name in ("anchors.yaml", "anchors.yolov5.yaml"))
    assert [level.stride for level in ours.levels] == [level.stride for level in theirs.levels] == [8, 16, 32]
    for own, other in zip(ours.shapes, theirs.shapes, strict=True):
        assert own == pytest.approx(other, abs=0.06)
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert '<div class="copy"><button type="button">Copy</button><pre>anchors:' in page
    content = result.json
    assert content["detector"] == "yolov5"
    assert content["text"].startswith("anchors:")
    fitted, stock = content["matching"]
    assert fitted["score"] >= stock["score"]
    assert sum(group["count"] for group in fitted["by_size"]) == content["boxes"]


def test_options_change_what_differs_in_ones_own_detector(detect):
    result = detect(
        "anchors", "fit", NUCLEI, "--for", "yolov5", "--size", "320", "--levels", "p2-p4", "--per-level", 2, "--json"
    )
    assert result.json["resize"] == "letterbox:320"
    assert [(level["stride"], len(level["shapes"])) for level in result.json["levels"]] == [(4, 2), (8, 2), (16, 2)]
    assert len(result.json["matching"]) == 1  # the stock anchors have other levels


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--for", "yolo5"), "no detector is named 'yolo5': did you mean yolov5"),
        (("--for", "yolo11"), "yolo11 has no anchors: `detect advise --for yolo11` tells what to set instead"),
        (("--for", "yolov5", "-k", 9), "detect: -k does not go with --for yolov5"),
        (("--for", "yolov5", "--method", "kmeans"), "--method does not go with --for yolov5"),
        (
            ("--for", "yolov5", "--size", 640, "--resize", "letterbox:640"),
            "--resize and --size both set the resize rule",
        ),
        (("--size", 640), "--size changes a detector's resize rule: name it with --for, or give --resize"),
        (("--for", "mmdet-ssd300", "--per-level", "4,6"), "mmdet-ssd300: per_level has 2 numbers for 6 strides"),
        (("--for", "mmdet-ssd300", "--size", 512), "mmdet-ssd300 has the strides of an input after stretch:300x300"),
        (("--for", "yolov5", "--start", "retinanet"), "start retinanet has 9 on stride 8"),
    ],
)
def test_what_does_not_go_together_is_one_line(refused, options, reason):
    assert reason in refused("anchors", "fit", NUCLEI, *options)


def test_what_is_not_proved_is_said_and_a_blended_objective_is_named(detect, few):
    assert "not proved on the grid: --certify 0.02" in detect("anchors", "fit", few, "--for", "effdet-d0").err
    told = detect("anchors", "fit", few, "--for", "mmdet-faster-rcnn", "--certify", 0.5).out
    assert "possible with 3 shapes on each level (0.5*iou+0.5*recall@0.7): within" in told


def test_of_many_categories_the_largest_are_printed_and_all_are_in_json(detect, tmp_path):
    ids = [*range(1, 26), 25]  # the last category has two boxes, the others one
    data = written(tmp_path / "many.json", coco_content([[5, 5, 30, 30]] * 26, category_ids=ids))
    arguments = ("anchors", "score", data, "--for", "yolov5", "--assigner", "max-iou")
    out = detect(*arguments).out
    assert out.count("the 20 largest of 25 categories; --json lists all") == 3
    learns = out[out.index("what it learns from") : out.index("the 20 largest")].splitlines()
    assert sum(line.startswith("type ") for line in learns) == 20
    assert any(line.startswith("type 25") for line in learns)
    (matching,) = detect(*arguments, "--json").json["matching"]
    assert len(matching["by_category"]) == 25


def test_without_a_detector_one_line_says_what_was_assumed_and_how_to_name_one(detect):
    result = detect("anchors", "fit", NUCLEI, "-k", 3, "--method", "kmeans")
    assert "fitted for no detector in particular: levels p3-p7" in result.err
    assert "--for" in result.err
