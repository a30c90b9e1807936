"""YOLO's rows and darknet's sections: documented configurations, digits, and the order by size."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.known import load_anchors
from detect.errors import ConvertError
from detect.interop.yolo_text import check_rank, darknet, darknet_cells, is_ranked, printed_shapes, yolov5

STRIDES = (8, 16, 32)


def test_yolov5s_text_is_its_documented_configuration():
    # models/yolov5s.yaml
    assert yolov5(load_anchors("yolov5-coco")).text.splitlines() == [
        "anchors:",
        "  - [10,13, 16,30, 33,23]  # P3/8",
        "  - [30,61, 62,45, 59,119]  # P4/16",
        "  - [116,90, 156,198, 373,326]  # P5/32",
    ]


def test_the_order_of_a_level_is_that_of_the_heads_channels():
    anchors = AnchorSet.of([[(33, 23), (10, 13)]], strides=[8])
    assert yaml.safe_load(yolov5(anchors).text)["anchors"] == [[33, 23, 10, 13]]


def test_darknets_sections_are_those_of_its_configuration():
    # cfg/yolov3.cfg: mask = 6,7,8 at stride 32, 3,4,5 at 16, 0,1,2 at 8, and the same nine anchors in each
    text = darknet(load_anchors("yolov3-darknet")).text
    every = "10,13,  16,30,  33,23,  30,61,  62,45,  59,119,  116,90,  156,198,  373,326"
    assert re.findall(r"^anchors = (.*)$", text, re.MULTILINE) == [every] * 3
    assert re.findall(r"stride (\d+);.*\n\[yolo\]\nmask = (\S+)\n", text) == [
        ("8", "0,1,2"),
        ("16", "3,4,5"),
        ("32", "6,7,8"),
    ]
    assert text.count("num=9") == 3
    assert text.count("filters=(classes + 5) * 3") == 3
    assert "# pixels of [net] width=416 height=416" in text


def test_darknets_masks_follow_levels_of_different_numbers():
    text = darknet(AnchorSet.of([[(10, 13)], [(30, 61), (62, 45)]], strides=(16, 32), resize="letterbox:320")).text
    assert re.findall(r"^mask = (.*)$", text, re.MULTILINE) == ["0", "1,2"]
    assert "width=320 height=320" in text
    assert "[net]" not in darknet(AnchorSet.of([[(10, 13)]], strides=[32], resize="")).text


def test_yolov2s_anchors_are_in_cells():
    # cfg/yolov2-voc.cfg
    text = darknet_cells(load_anchors("yolov2-voc")).text
    stated = [1.3221, 1.73145, 3.19275, 4.00944, 5.05587, 8.09892, 9.47112, 4.84053, 11.2364, 10.0071]
    (printed,) = re.findall(r"^anchors = (.*)$", text, re.MULTILINE)
    np.testing.assert_allclose([float(each) for each in printed.split(",")], stated, rtol=1e-5)
    assert "num=5" in text


@given(
    sizes=st.lists(st.floats(2, 800), min_size=9, max_size=9, unique=True),
    ratio=st.floats(0.3, 3),
)
def test_printed_anchors_stay_different_and_in_order(sizes: list[float], ratio: float):
    ranked = [(size * ratio, size) for size in sorted(sizes)]
    anchors = AnchorSet.of([ranked[:3], ranked[3:6], ranked[6:]], strides=STRIDES)
    printed = printed_shapes(anchors)
    for level, own in zip(printed, anchors.levels, strict=True):
        assert len(set(level)) == len(set(own.shapes))
        np.testing.assert_allclose(level, own.shapes, atol=0.0501)
    assert is_ranked(printed) == is_ranked([level.shapes for level in anchors.levels])


def test_more_decimals_are_printed_where_one_would_make_two_anchors_equal():
    anchors = AnchorSet.of([[(10.04, 20), (10.01, 20)], [(30, 30.123), (40, 40)]], strides=(8, 16))
    assert printed_shapes(anchors)[0] == [(10.04, 20.0), (10.01, 20.0)]
    assert printed_shapes(anchors)[1] == [(30.0, 30.12), (40.0, 40.0)]


def test_an_anchor_below_one_of_a_finer_level_is_refused():
    check_rank(AnchorSet.of([[(10, 13)], [(13, 10)]], strides=(8, 16)))  # equal areas are in order
    with pytest.raises(ConvertError, match="here 10 x 12 on P4 is smaller than 10 x 13 on P3"):
        check_rank(AnchorSet.of([[(5, 5), (10, 13)], [(20, 20), (10, 12)]], strides=(8, 16)))
