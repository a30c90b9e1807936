"""Files of other frameworks are read as what they are; every other text is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from builders import read_edited_anchors
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors.anchor_readers import anchors_from_torchvision, is_plain, parse_anchors, read_anchors
from detect.anchors.anchor_set import AnchorSet
from detect.anchors.known import load_anchors
from detect.errors import AnchorFileError
from detect.ops.torchvision_import import import_torchvision

YOLOV5S = """\
# Parameters
nc: 80  # number of classes
depth_multiple: 0.33  # model depth multiple
anchors:
  - [10,13, 16,30, 33,23]  # P3/8
  - [30,61, 62,45, 59,119]  # P4/16
  - [116,90, 156,198, 373,326]  # P5/32
backbone:
  [[-1, 1, Conv, [64, 6, 2, 2]]]  # 0-P1/2
"""
YOLOV3_TINY = """\
anchors:
  - [10,14, 23,27, 37,58]  # P4/16
  - [81,82, 135,169, 344,319]  # P5/32
"""
FASTER_RCNN = """\
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  ANCHOR_GENERATOR:
    SIZES: [[32], [64], [128], [256], [512]]
    ASPECT_RATIOS: [[0.5, 1.0, 2.0]]
"""
PLAIN = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"


def strides_of(anchors: AnchorSet) -> list[int]:
    return [level.stride for level in anchors.levels]


def test_the_rows_of_yolov5_are_on_the_levels_of_their_comments():
    yolov5 = parse_anchors(YOLOV5S)
    assert yolov5.levels == load_anchors("yolov5").levels
    assert yolov5.resize == ""
    assert yolov5.assumed == ()
    assert strides_of(parse_anchors(YOLOV3_TINY)) == [16, 32]


def test_rows_without_comments_are_on_yolov5s_levels_which_is_told():
    anchors = parse_anchors(YOLOV5S.replace("# P", "# "))
    assert strides_of(anchors) == [8, 16, 32]
    assert parse_anchors("anchors: [[1,2], [3,4], [5,6], [7,8]]").assumed == (
        "strides 8, 16, 32, 64, by the number of rows",
    )


def test_nine_plain_shapes_are_dealt_out_by_area_as_yolos_are():
    anchors = parse_anchors(PLAIN)
    assert anchors.levels == load_anchors("yolov5").levels
    assert anchors.assumed == ("three shapes by area on each of strides 8, 16, 32, as in YOLOv5",)


@pytest.mark.parametrize(
    "text",
    [
        "20,20 70,70",
        "20 20\n70 70\n",
        "[[20,20],[70,70]]",
        "- [20, 20]\n- [70, 70]  # px",
        "(2e1,20);(70.0,70)",
        "20x20  70x70",
    ],
)
def test_other_numbers_of_plain_shapes_go_to_the_levels_of_their_sizes(text: str):
    anchors = parse_anchors(text)
    assert [(level.name, level.shapes) for level in anchors.levels] == [("P3", [(20.0, 20.0)]), ("P4", [(70.0, 70.0)])]
    assert anchors.assumed == ("each shape on the level of its size, from P3 to P7",)


def test_a_list_of_shapes_is_one_whatever_field_holds_it():
    assert parse_anchors("anchors: [[20, 20], [70, 70]]").levels == parse_anchors("20,20 70,70").levels


@pytest.mark.parametrize(
    ("addition", "strides", "assumed"),
    [
        ("", [4, 8, 16, 32, 64], True),
        ("  RPN:\n    IN_FEATURES: [p3, p4, p5, p6, p7]\n", [8, 16, 32, 64, 128], False),
        ("# on strides 2, 4, 8, 16, 32\n", [2, 4, 8, 16, 32], False),
    ],
)
def test_detectron2s_levels_are_stated_or_the_usual_ones(addition: str, strides: list[int], assumed: bool):
    anchors = parse_anchors(FASTER_RCNN + addition)
    assert strides_of(anchors) == strides
    assert bool(anchors.assumed) == assumed
    assert_allclose(anchors.levels[1].shapes, load_anchors("detectron2-faster-rcnn").levels[1].shapes, rtol=1e-5)
    assert anchors.center_offset == 0


def test_detectron2s_retinanet_is_known_by_its_name_or_three_sizes():
    assert strides_of(parse_anchors(FASTER_RCNN.replace("GeneralizedRCNN", "RetinaNet")))[0] == 8
    sizes = ", ".join(f"[{size}, {size * 1.26}, {size * 1.59}]" for size in (32, 64, 128, 256, 512))
    anchors = parse_anchors(f"MODEL: {{ANCHOR_GENERATOR: {{SIZES: [{sizes}], OFFSET: 0.5}}}}")
    assert (strides_of(anchors)[0], anchors.num_anchors, anchors.center_offset) == (8, 45, 0.5)


def test_levels_without_our_header_are_read_and_state_no_resize_rule():
    anchors = parse_anchors("- {stride: 16, shapes: [[70, 70]]}\n- {stride: 8, shapes: [[20, 20]]}\n", name="mine.yaml")
    assert [level.name for level in anchors.levels] == ["P3", "P4"]
    assert anchors.name == "mine.yaml"
    with pytest.raises(AnchorFileError, match=r"^mine\.yaml states no resize rule: give --resize$"):
        _ = anchors.resize_rule
    stated = parse_anchors("levels: [{stride: 8, shapes: [[20, 20]]}]\nresize: letterbox:640\ncenter_offset: 0\n")
    assert (str(stated.resize_rule), stated.center_offset) == ("letterbox:640", 0)


def test_our_own_file_is_read_whole(tmp_path: Path):
    anchors = AnchorSet.of([[(10, 20)]], strides=[8], resize="letterbox:640", command="detect anchors fit", version="1")
    anchors.save(tmp_path / "anchors.yaml")
    read = read_anchors(tmp_path / "anchors.yaml")
    assert read == AnchorSet.load(tmp_path / "anchors.yaml")
    assert read.command == "detect anchors fit"


def test_a_set_that_states_no_resize_rule_is_saved_and_read(tmp_path: Path):
    parse_anchors(PLAIN).save(tmp_path / "anchors.yaml")
    assert load_anchors(tmp_path).resize == ""


def test_text_is_taken_in_place_of_a_file():
    assert load_anchors(PLAIN).num_anchors == 9
    assert not is_plain("yolov5-p6")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not an anchors file"),
        ("10,13 16", "3 numbers, not pairs"),
        ("10,-13", "> 0"),
        ("0,0 1,1", "> 0"),
        ("anchors: 3", "leaves the shapes to YOLOv5"),
        ("anchors: [[1,2,3], [1,2], [1,2]]", "rows of 3, 2, 2 numbers, not pairs"),
        ("anchors: [[1,2,3,4], [1,2]]", "2 rows; write the stride of each beside it, as in # P3/8"),
        ("anchors: []", "length >= 1"),
        ("anchors: [[], [], []]", "no anchors in it, or a level without any"),
        ("anchors: [[1, x]]", "Expected float, got str"),
        ("levels: []", "no anchors in it"),
        (
            "levels: [{stride: 8, shapes: [[1, 2]]}, {stride: 8, shapes: [[1, 2]]}]",
            "strides 8, 8: each may be there once",
        ),
        ("levels: [{stride: 8, shapes: [[1, 2]]}]\nresize: big", "resize rule 'big' is not known"),
        ("levels: [{stride: 8, shapes: [[1, 2]]}]\ncenter_offset: 2", "center offset 2 is not in"),
        ("format: 2\nlevels: []", "length >= 1|missing required field"),
        ("nc: 80", "it has none of format, levels, anchors and MODEL.ANCHOR_GENERATOR"),
        ("MODEL: {ANCHOR_GENERATOR: {SIZES: [[32], [64]]}}", "SIZES for 2 levels; write beside them # strides"),
        ("MODEL: {ANCHOR_GENERATOR: {SIZES: [[32], [64]]}}\n# strides 8", "2 lists for 1 levels"),
        ("MODEL: {ANCHOR_GENERATOR: {SIZES: [[32]], NAME: Rotated}}", "NAME is Rotated"),
        ("MODEL:\n  ANCHOR_GENERATOR:\n    SIZES: !!python/object/apply:eval ['1']", "not YAML"),
        ("a: [", "not YAML"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_names_the_file(tmp_path: Path, text: str, message: str):
    file = tmp_path / "some.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(AnchorFileError, match=message) as caught:
        load_anchors(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


WORDS = re.split(
    r"\s+",
    """[yolo] [net] [route] [convolutional] [region] anchors mask num width layers stride anchor_generator dict( type=
    'AnchorGenerator' 'SSDAnchorGenerator' scales ratios strides base_sizes MODEL ANCHOR_GENERATOR SIZES levels shapes format
    resize octave_base_scale scales_per_octave input_size 1e999 1j .inf .nan -1 0 8 10,13 16 [ ] { } ( ) ? ' =""",
)
SIGNS = (", ", ": ", "- ", "\n", "\n  ", "# P3/8", "&a ", "*a ", "!!int ", "!!timestamp ", "\x00", "\ud800", "é")
ALPHABET = st.sampled_from((*WORDS, *SIGNS))


@given(text=st.lists(ALPHABET, max_size=40).map("".join) | st.text(max_size=60))
def test_no_text_raises_anything_else(text: str):
    try:
        anchors = parse_anchors(text)
    except AnchorFileError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most texts are refused, some are not
    else:
        assert np.isfinite(anchors.shapes).all()
        assert anchors.shapes.min() > 0


@given(edits=st.lists(st.tuples(st.integers(0, 250), ALPHABET), min_size=1, max_size=3))
@pytest.mark.parametrize("text", [YOLOV5S, FASTER_RCNN, PLAIN])
def test_no_edit_of_a_file_raises_anything_else(text: str, edits: list[tuple[int, str]]):
    read_edited_anchors(text, edits, "anchors.yaml")


def test_a_generator_of_torchvision_is_taken_as_it_generates():
    made = import_torchvision().models.detection.retinanet._default_anchorgen()
    anchors = anchors_from_torchvision(made, (8, 16, 32, 64, 128), resize="shortest:800:1333")
    assert (anchors.num_anchors, anchors.center_offset, anchors.resize) == (45, 0, "shortest:800:1333")
    corners = made.cell_anchors[1].numpy()
    assert_allclose(anchors.levels[1].shapes, corners[:, 2:] - corners[:, :2])
    with pytest.raises(AnchorFileError, match="the generator has 5 levels, there are 3 strides"):
        anchors_from_torchvision(made, (8, 16, 32))
    made.cell_anchors[0] = made.cell_anchors[0] + 4
    with pytest.raises(AnchorFileError, match="different places in their cells"):
        anchors_from_torchvision(made, (8, 16, 32, 64, 128))
