"""Anchor generators of mmdetection's configs, read without running them."""

from __future__ import annotations

import pytest
from builders import read_edited_anchors
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors.anchor_readers import parse_anchors
from detect.anchors.known import load_anchors
from detect.anchors.mmdet_config import parse_mmdet
from detect.errors import AnchorFileError

# configs/_base_/models/retinanet_r50_fpn.py and ssd300.py of mmdetection 3.3.0, in parts
RETINANET = """\
# model settings
model = dict(
    type='RetinaNet',
    bbox_head=dict(
        type='RetinaHead',
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128]),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)))
"""
SSD300 = """\
input_size = 300
model = dict(
    bbox_head=dict(
        type='SSDHead',
        anchor_generator=dict(
            type='SSDAnchorGenerator',
            scale_major=False,
            input_size=input_size,
            basesize_ratio_range=(0.15, 0.9),
            strides=[8, 16, 32, 64, 100, 300],
            ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]])))
"""
YOLOV3 = """\
        anchor_generator=dict(
            type='YOLOAnchorGenerator',
            base_sizes=[[(116, 90), (156, 198), (373, 326)],
                        [(30, 61), (62, 45), (59, 119)],
                        [(10, 13), (16, 30), (33, 23)]],
            strides=[32, 16, 8]),
"""


@pytest.mark.parametrize(
    ("text", "name"), [(RETINANET, "mmdet-retinanet"), (SSD300, "mmdet-ssd300"), (YOLOV3, "mmdet-yolov3")]
)
def test_a_config_or_a_part_of_one_holds_the_stock_anchors(text: str, name: str):
    anchors, stock = parse_mmdet(text), load_anchors(name)
    assert anchors.center_offset == stock.center_offset
    for level, own in zip(anchors.levels, stock.levels, strict=True):
        assert level.stride == own.stride
        assert_allclose(level.shapes, own.shapes, rtol=1e-5)


def test_only_a_stated_input_size_is_a_resize_rule():
    assert parse_mmdet(SSD300).resize == "stretch:300x300"
    assert parse_mmdet(RETINANET).resize == ""


def test_scales_base_sizes_order_and_offset_are_read():
    text = "{'anchor_generator': {'type': 'mmdet.AnchorGenerator', 'scales': [2, 4], 'ratios': [1, 4], 'scale_major': False,"
    text += "'base_sizes': [10], 'strides': [(8, 8)], 'center_offset': 0.5}}"
    (level,) = parse_mmdet(text).levels
    assert level.shapes == [(20.0, 20.0), (10.0, 40.0), (40.0, 40.0), (20.0, 80.0)]
    assert level.stride == 8
    assert parse_mmdet(text).center_offset == 0.5


def test_sizes_of_ssd512_are_made_as_mmdetection_makes_them():
    # configs/ssd/ssd512_coco.py
    text = SSD300.replace("= 300", "= 512").replace("(0.15, 0.9)", "(0.1, 0.9)")
    text = text.replace("100, 300]", "128, 256, 512]").replace("[2], [2]]", "[2, 3], [2], [2]]")
    squares = [level.shapes[0][0] for level in parse_mmdet(text).levels]
    assert squares == [20, 51, 133, 215, 296, 378, 460]


def test_the_same_generator_twice_is_one():
    assert parse_mmdet(f"dict({YOLOV3}) or dict({YOLOV3})").num_anchors == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = dict()", "no anchor_generator in it; files of _base_ are not read"),
        (
            RETINANET + RETINANET.replace("octave_base_scale=4", "octave_base_scale=5"),
            "2 different anchor_generators in it",
        ),
        ("anchor_generator=dict(ratios=[1])", "anchor_generator without a type; files of _base_ are not read"),
        (
            "anchor_generator=dict(type='MlvlPointGenerator')",
            "of type MlvlPointGenerator is not one of AnchorGenerator, YOLO",
        ),
        ("anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[1])", "AnchorGenerator without strides"),
        ("anchor_generator=AnchorGenerator(sizes=((8,),))", "anchor_generator in line 1 is no dict of literals"),
        (RETINANET.replace("[8, 16, 32, 64, 128]", "strides()"), "strides in line 11 is not written in numbers"),
        (RETINANET.replace("=3", "=10**9"), "scales_per_octave in line 9 is not written in numbers"),
        (RETINANET.replace("=3", "=1000000000"), "scales_per_octave=1000000000"),
        (RETINANET.replace("[8,", "[8.5,"), "are not whole numbers"),
        (RETINANET.replace("0.5", "-1"), "AnchorGenerator: math domain error"),
        (SSD300.replace("(0.15", "(0.3"), "basesize_ratio_range .* for an input of 300 is not one of mmdetection's"),
        (YOLOV3.replace("[32, 16, 8]", "[32, 16]"), "3 levels of shapes for 2 strides"),
        (YOLOV3.replace("(10, 13)", "(10, -13)"), "> 0"),
        ("anchor_generator = = 1", "no Python with an anchor_generator"),
        ("anchor_generator = " + "(" * 5000, "no Python with an anchor_generator"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, message: str):
    with pytest.raises(AnchorFileError, match=message) as caught:
        parse_anchors(text, name="config.py")
    assert str(caught.value).startswith("config.py: ")


def test_nothing_of_the_file_is_run(tmp_path):
    mark = tmp_path / "mark"
    text = f"open({str(mark)!r}, 'w')\nanchor_generator = dict(type='AnchorGenerator', scales=open({str(mark)!r}, 'w'))"
    with pytest.raises(AnchorFileError):
        parse_mmdet(text)
    assert not mark.exists()


@pytest.mark.parametrize("text", [RETINANET, SSD300, YOLOV3])
@given(edits=st.lists(st.tuples(st.integers(0, 400), st.text(max_size=4)), min_size=1, max_size=3))
def test_no_edit_raises_anything_else(text: str, edits: list[tuple[int, str]]):
    read_edited_anchors(text, edits, "config.py")
