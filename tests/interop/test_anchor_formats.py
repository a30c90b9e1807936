"""A target takes only the sets that it can use, and the frameworks make the very anchors of a set from its text."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import msgspec
import pytest
from frameworks import GOLDEN, GOLDEN_NAMES, boxes_of, first_cells, fitted_like, names_of, our_boxes, sets_for
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors.anchor_readers import parse_anchors
from detect.anchors.anchor_set import AnchorSet
from detect.anchors.known import load_anchors
from detect.catalog.detectors import anchor_detectors, load_detector
from detect.errors import ConvertError
from detect.interop.anchor_formats import FORMATS, convert_anchors, place_of_text

UNEQUAL = AnchorSet.of([[(10.123, 20), (30, 20.5)], [(60, 61)]], strides=(8, 16), resize="letterbox:640")
ON_P3_TO_P5 = AnchorSet.of(
    [[(10, 13), (16, 30)], [(30, 61), (62, 45)], [(116, 90), (156, 198)]], strides=(8, 16, 32), resize="letterbox:640"
)
PACKAGES = names_of("yolov5", "mmdet", "mmdet-yolo", "mmdet-ssd", "effdet")
READ_BACK = ("yolov5", "yolov4-darknet", "yolov2-voc", "mmdet-yolov3", "mmdet-ssd300", "mmdet-retinanet", "retinanet")
READ_BACK += ("mmdet-faster-rcnn", "detectron2-retinanet", "detectron2-faster-rcnn")


@pytest.mark.parametrize("kind", ["stock", "fitted"])
@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_texts_and_anchors_are_those_that_the_packages_made(name: str, kind: str):
    """The file was written by ``tests/frameworks.py`` with yolov5 7.0.14, mmdet 3.3.0 and effdet 0.4.1: the anchors that
    each made, of its printed text, in the first cell of every level.
    """
    anchors = sets_for(name)[kind]
    golden = json.loads(GOLDEN.read_text("utf-8"))[f"{name} {kind}"]
    assert convert_anchors(anchors, load_detector(name)).text == golden["text"]
    for level, boxes, cell in zip(anchors.levels, our_boxes(name, anchors), golden["first_cells"], strict=True):
        assert_allclose(boxes[: len(level.shapes)], cell, atol=0.06 if name == "yolov5" else 2e-3 * level.stride / 8)


@pytest.mark.parametrize("kind", ["stock", "fitted"])
@pytest.mark.parametrize("name", PACKAGES)
def test_the_package_makes_our_anchors_box_by_box(name: str, kind: str):
    anchors = sets_for(name)[kind]
    made = boxes_of(name, convert_anchors(anchors, load_detector(name)).text)
    for theirs, ours in zip(made, our_boxes(name, anchors), strict=True):
        printed = 1.5e-5 * (ours[:, 2:] - ours[:, :2]).max()  # sizes and ratios have five or six digits
        one_decimal = load_detector(name).text.format == "yolov5"
        assert_allclose(theirs, ours, atol=0.026 if one_decimal else printed)


def test_the_golden_file_is_what_the_packages_make():
    golden = json.loads(GOLDEN.read_text("utf-8"))
    for case, content in golden.items():
        for theirs, kept in zip(first_cells(case.split()[0], content["text"]), content["first_cells"], strict=True):
            assert_allclose(theirs, kept, atol=1e-3)


@pytest.mark.parametrize("name", READ_BACK)
@settings(max_examples=6)
@given(seed=st.integers(0, 10_000))
def test_a_text_is_read_back_as_the_same_set(name: str, seed: int):
    detector = load_detector(name)
    anchors = fitted_like(detector, seed)
    read = parse_anchors(convert_anchors(anchors, detector).text)
    assert [level.stride for level in read.levels] == detector.strides
    for level, own in zip(read.levels, anchors.levels, strict=True):
        one_decimal = detector.text.format in ("yolov5", "darknet")
        assert_allclose(level.shapes, own.shapes, rtol=2e-5, atol=0.0501 if one_decimal else 0)
    if detector.text.format not in ("yolov5", "darknet", "darknet-cells"):  # which say nothing of the place in a cell
        assert read.center_offset == anchors.center_offset


@pytest.mark.parametrize("name", list(anchor_detectors()))
def test_every_detector_takes_the_anchors_that_it_ships_with(name: str):
    detector = load_detector(name)
    assert convert_anchors(load_anchors(name), detector) == convert_anchors(load_anchors(name), detector, fill=True)
    assert place_of_text(load_anchors(name), name).startswith(detector.text.file)


@pytest.mark.parametrize(
    ("anchors", "to", "message"),
    [
        (
            AnchorSet.of([[(9, 9)] * 7, [(30, 30)], [(90, 90)]], strides=(8, 16, 32)),
            "yolov5-p6",
            "yolov5-p6 takes 3 anchors on each of strides 8, 16, 32, 64; this set has 7, 1, 1 on strides 8, 16, 32: "
            "`detect anchors fit DATA --for yolov5-p6`",
        ),
        (
            ON_P3_TO_P5,
            "yolov7",
            "yolov7 takes 3 anchors on each of strides 8, 16, 32; this set has 2, 2, 2: "
            "`detect anchors fit DATA --for yolov7`",
        ),
        (
            UNEQUAL,
            "yolov5",
            "yolov5 takes anchors on strides 8, 16, 32 or 8, 16, 32, 64; this set has strides 8, 16: "
            "`detect anchors fit DATA --for yolov5`",
        ),
        (
            UNEQUAL,
            "torchvision",
            "torchvision takes the same number of anchors on every level; this set has 2, 1: "
            "`detect anchors fit DATA --levels 8,16 --per-level 2`",
        ),
        (
            UNEQUAL,
            "mmdet-ssd300",
            "mmdet-ssd300 takes 4, 6, 6, 6, 4, 4 anchors on strides 8, 16, 32, 64, 100, 300; this set has 2, 1 on strides "
            "8, 16: `detect anchors fit DATA --for mmdet-ssd300`",
        ),
        (
            AnchorSet.of([[(10, 13)], [(9, 9)], [(20, 20)]], strides=(8, 16, 32)),
            "yolov5",
            "yolov5 takes anchors by size, the smallest on the finest level; here 9 x 9 on P4 is smaller than 10 x 13 on "
            "P3: `detect anchors fit DATA --for yolov5`",
        ),
        (
            AnchorSet.of([[(10, 13), (10, 13)]], strides=[8]),
            "mmdet",
            "mmdet takes different anchors; P3 holds 10 x 13 twice: `detect anchors fit DATA --levels 8 --per-level 2`",
        ),
        (
            AnchorSet.of([[(0.5, 3)]], strides=[32]),
            "darknet-cells",
            "darknet-cells takes no anchors below one pixel; P5 holds 0.5 x 3: "
            "`detect anchors fit DATA --for yolov2-darknet`",
        ),
    ],
)
def test_a_set_that_a_target_cannot_use_is_refused_with_the_command_that_fits_one(
    anchors: AnchorSet, to: str, message: str
):
    with pytest.raises(ConvertError, match=f"^{re.escape(message)}$"):
        convert_anchors(anchors, to)


def test_a_format_takes_what_the_framework_reads_and_a_detector_its_own_levels_and_numbers():
    assert "[10,13, 16,30]" in convert_anchors(ON_P3_TO_P5, "yolov5").text  # two anchors in a cell are fine for YOLOv5
    with pytest.raises(ConvertError, match="yolov5 takes 3 anchors"):
        convert_anchors(ON_P3_TO_P5, load_detector("yolov5"))


def test_a_users_own_detector_is_a_target(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: yolov5\nper_level: 2\n", "utf-8")
    assert convert_anchors(ON_P3_TO_P5, str(file)).text == convert_anchors(ON_P3_TO_P5, "yolov5").text
    with pytest.raises(ConvertError, match=r"mine takes 2 anchors .* `detect anchors fit DATA --for mine.yaml`"):
        convert_anchors(UNEQUAL, str(file))


def test_levels_are_filled_only_when_that_is_asked_for():
    conversion = convert_anchors(UNEQUAL, "mmdet", fill=True)
    # P4 takes the shape of P3 that is nearest to four strides, 64 px, in size: 30 x 20.5
    assert "[(60, 61), (30, 20.5)],  # P4" in conversion.text
    assert conversion.notes[0] == "levels of 2, 1 anchors are filled with shapes of other levels to 2, 2"
    same = AnchorSet.of([[(10, 13)], [(10, 13)]], strides=(8, 16))
    assert convert_anchors(same, "mmdet", fill=True).notes == ()


def test_levels_are_filled_up_to_what_a_detector_takes():
    few = AnchorSet.of([[(10, 13)], [(30, 61)], [(116, 90)]], strides=(8, 16, 32))
    assert parse_anchors(convert_anchors(few, "yolov7", fill=True).text).num_anchors == 9
    with pytest.raises(ConvertError, match="this set has 2, 2, 2"):  # there are no more than two different shapes
        convert_anchors(AnchorSet.of([[(10, 13)], [(30, 61)], [(30, 61)]], strides=(8, 16, 32)), "yolov7", fill=True)


def test_another_resize_rule_than_the_detectors_is_told():
    rows = load_anchors("yolov5")
    (note,) = convert_anchors(replace(rows, resize="letterbox:960"), "yolov7").notes
    assert note == "the shapes are in pixels after letterbox:960; yolov7 resizes by letterbox:640 unless told"
    assert convert_anchors(replace(rows, resize=""), "yolov7").notes == ()


def test_our_own_formats_hold_any_set():
    content = json.loads(convert_anchors(UNEQUAL, "json").text)
    assert content["resize"] == "letterbox:640"
    assert content["levels"][1] == {"name": "P4", "stride": 16, "shapes": [[60.0, 61.0]]}
    tiny = AnchorSet.of([[(0.1, 0.1), (0.1, 0.1)]], strides=[4])
    for to in ("json", "anchors.yaml"):
        assert parse_anchors(convert_anchors(tiny, to).text).levels == tiny.levels
        assert place_of_text(tiny, to) == ""


def test_a_format_goes_where_the_first_detector_with_these_levels_has_it():
    assert place_of_text(load_anchors("yolov5-p6"), "yolov5") == "models/hub/yolov5s6.yaml, anchors"
    assert place_of_text(UNEQUAL, "mmdet") == ""


def test_an_unknown_target_is_refused_with_those_that_are_known():
    with pytest.raises(ConvertError, match=re.escape(f"Text formats: {', '.join(FORMATS)}")) as caught:
        convert_anchors(UNEQUAL, "yolov3")
    assert "no detector is named 'yolov3': did you mean" in str(caught.value)
    with pytest.raises(ConvertError, match=r"tells what to set instead\. Text formats: yolov5, "):
        convert_anchors(UNEQUAL, "yolov8")
    yolov5 = load_detector("yolov5")
    other = msgspec.structs.replace(yolov5, text=msgspec.structs.replace(yolov5.text, format="x"))
    with pytest.raises(ConvertError, match="yolov5: text format 'x' is not one of"):
        convert_anchors(UNEQUAL, other)
