"""The catalog of detectors: known by name or alias, a user's own, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from detect.catalog.detectors import (
    AnchorDetector,
    anchor_detectors,
    detectors,
    find_detector,
    load_detector,
    with_anchors,
)
from detect.catalog.matching import MaxIoURule, SideRatio
from detect.data.resize import parse_resize
from detect.errors import CatalogError


def test_detectors_are_known_by_name_and_alias():
    assert load_detector("yolov5").matching == SideRatio(ratio=4.0, neighbours=2)
    assert load_detector("yolov5-coco") is load_detector("yolov5")
    assert load_detector("detectron2-faster-rcnn").matching == MaxIoURule(fg_iou_thresh=0.7, bg_iou_thresh=0.3)
    assert find_detector("resnet") is None


def test_an_unknown_name_is_refused_with_the_nearest_ones():
    with pytest.raises(CatalogError, match="no detector is named 'yolo5': did you mean yolov5 or "):
        load_detector("yolo5")
    with pytest.raises(CatalogError, match="no detector is named 'xyzzy': known: yolov5, "):
        load_detector("xyzzy")


@pytest.mark.parametrize("name", ["mine.yaml", "folder/mine.YML"])
def test_a_file_that_is_missing_is_told_without_the_known_names(name):
    with pytest.raises(CatalogError, match=f"^{name}: No such file or directory$"):
        load_detector(name)


def test_every_entry_names_its_source_and_where_its_text_goes():
    names = [alias for each in detectors().values() for alias in (each.name, *each.aliases)]
    assert len(names) == len(set(names))
    for each in detectors().values():
        assert each.about
        assert each.source
        assert str(parse_resize(each.resize)) == each.resize
        if isinstance(each, AnchorDetector):
            assert each.text.file
            assert each.text.key
            assert each.stock is not None


def test_the_fields_of_a_base_are_taken_and_replaced():
    d0, d7 = load_detector("effdet-d0"), load_detector("effdet-d7")
    assert (d7.strides, d7.matching, d7.text) == (d0.strides, d0.matching, d0.text)
    assert (d0.resize, d7.resize) == ("letterbox:512", "letterbox:1536")
    assert load_detector("yolov2-voc").aliases == []


def test_a_users_own_detector_is_a_file_with_the_same_fields(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: yolov7\nstrides: [4, 8, 16, 32]\nresize: letterbox:960\n", "utf-8")
    mine = load_detector(file)
    assert (mine.name, mine.num_anchors, mine.resize) == ("mine", 12, "letterbox:960")
    assert mine.matching == load_detector("yolov7").matching
    assert mine.stock is None  # the base's anchors are for other levels
    file.write_text("base: yolov7\nresize: letterbox:960\n", "utf-8")
    assert load_detector(file).stock == load_detector("yolov7").stock


def test_detectors_without_anchors_are_not_taken_for_others():
    assert "yolo11" not in anchor_detectors()
    assert with_anchors(load_detector("yolov5")) is load_detector("yolov5")
    with pytest.raises(CatalogError, match="yolo11 has no anchors: `detect advise --for yolo11`"):
        with_anchors(load_detector("yolo11"))


def test_releases_differ_in_the_boxes_that_they_widen():
    rules = [load_detector(name).matching for name in ("yolo11-8.3", "yolo11-8.4.0", "yolo11")]
    assert [(rule.widen_below, rule.widen_to) for rule in rules] == [(None, 1), (0, 1), (1, 1)]


def test_distances_reach_reg_max_or_one_bin_less():
    assert [load_detector(name).reach for name in ("yolo11", "ppyoloe", "yolo26")] == [15, 16, None]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("base: yolo", "mine: base 'yolo' is not in the catalog"),
        ("base: yolov5\nstrides: [32, 16, 8]", "strides must differ and go from fine to coarse"),
        ("base: yolov5\nper_level: [3, 3]", "per_level has 2 numbers for 3 strides"),
        ("base: yolov5\nper_level: [4, 3, 3]", "layout ranked needs the same number of anchors on every level"),
        ("base: mmdet-retinanet\nscales: 2", "layout octaves needs scales, which divide per_level"),
        ("base: fcos\nstrides: [8, 16]", "limits has 4 numbers between 2 levels"),
        ("base: rf-detr\nqueries: null", "a detector has queries if its matching rule is one-query, and only then"),
        (
            "base: mmdet-fcos\nmatching: {rule: fcos, limits: [512, 256, 128, 64]}",
            "limits must rise, got 512, 256, 128, 64",
        ),
        (
            "base: fcos\nfiner: {text: p2, cost: 2}",
            "finer needs an even finest stride, and anchors",
        ),
        ("base: mmdet-ssd300\nfiner: {text: p2, cost: 2}", "finer needs one number of anchors for all levels"),
        (
            "base: yolo11\nkeys: {size: 'imgsz={size}'}",
            "keys.size: expected text with {} for the number, got",
        ),
        ("base: yolo11\nkeys: {iou: 'iou={'}", "keys.iou: expected text with {} for the number"),
        ("base: yolo11\nper_level: 3", "Object contains unknown field per_level"),
        ("base: yolov5\nstride: [8]", "Object contains unknown field stride"),
        ("base: yolov5\nmatching: {rule: best}", "Invalid value 'best' - at $.matching.rule"),
        ("base: {a: 1}", "mine: base {'a': 1} is not in the catalog"),
        ("- yolov5", "expected fields such as `base: yolov5`, got list"),
        ("{", "not YAML"),
    ],
)
def test_a_wrong_description_is_one_line_that_names_the_file(tmp_path: Path, content: str, reason: str):
    file = tmp_path / "mine.yaml"
    file.write_text(content, "utf-8")
    with pytest.raises(CatalogError) as caught:
        load_detector(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
