"""mmdetection's texts are its documented configurations; what its generators cannot say is refused or written otherwise."""

from __future__ import annotations

import re

import pytest
from frameworks import pasted
from numpy.testing import assert_allclose

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.known import load_anchors
from detect.errors import ConvertError
from detect.interop.mmdet_text import mmdet, mmdet_ssd, mmdet_yolo


def test_retinanets_text_is_its_documented_configuration():
    # configs/_base_/models/retinanet_r50_fpn.py
    assert pasted(mmdet(load_anchors("mmdet-retinanet")).text)["anchor_generator"] == {
        "type": "AnchorGenerator",
        "octave_base_scale": 4,
        "scales_per_octave": 3,
        "ratios": [0.5, 1.0, 2.0],
        "strides": [8, 16, 32, 64, 128],
        "center_offset": 0,
    }


def test_faster_rcnns_text_is_its_documented_configuration():
    # configs/_base_/models/faster-rcnn_r50_fpn.py
    generator = pasted(mmdet(load_anchors("mmdet-faster-rcnn")).text)["anchor_generator"]
    assert (generator["scales"], generator["ratios"]) == ([8], [0.5, 1.0, 2.0])
    assert generator["strides"] == [4, 8, 16, 32, 64]


def test_sizes_that_are_no_octaves_are_scales():
    factors = [(scale / root, scale * root) for root in (0.8, 1.25) for scale in (3, 5.5)]
    anchors = AnchorSet.of([[(x * stride, y * stride) for x, y in factors] for stride in (8, 16)], strides=(8, 16))
    generator = pasted(mmdet(anchors).text)["anchor_generator"]
    assert_allclose(generator["scales"], [3, 5.5], rtol=1e-5)
    assert_allclose(generator["ratios"], [0.64, 1.5625], rtol=1e-5)
    assert generator["center_offset"] == 0.5
    assert "scale_major" not in generator


def test_the_order_of_channels_is_kept_or_told():
    factors = [(scale / root, scale * root) for scale in (3, 5.5) for root in (0.8, 1.25)]
    by_size = AnchorSet.of([[(x * 8, y * 8) for x, y in factors]], strides=[8])
    assert pasted(mmdet(by_size).text)["anchor_generator"]["scale_major"] is False
    assert mmdet(by_size).notes == ()
    mixed = AnchorSet.of([[(x * 8, y * 8) for x, y in (factors[0], factors[3], factors[2], factors[1])]], strides=[8])
    assert "orders the anchors of a cell by ratio" in mmdet(mixed).notes[0]


def test_yolov3s_text_is_its_documented_configuration_from_coarse_to_fine():
    # configs/yolo/yolov3_d53_8xb8-ms-608-273e_coco.py; the first map of YOLOV3Neck is the coarsest (its forward begins with
    # feats[-1]), and YOLOV3Head compares the number of levels alone
    assert pasted(mmdet_yolo(load_anchors("mmdet-yolov3")).text) == {
        "anchor_generator": {
            "type": "YOLOAnchorGenerator",
            "base_sizes": [
                [(116, 90), (156, 198), (373, 326)],
                [(30, 61), (62, 45), (59, 119)],
                [(10, 13), (16, 30), (33, 23)],
            ],
            "strides": [32, 16, 8],
        },
        "featmap_strides": [32, 16, 8],
    }


def test_yolov3_has_its_own_text_even_where_scales_and_ratios_would_do():
    head = pasted(mmdet_yolo(load_anchors("retinanet")).text)
    assert head["anchor_generator"]["type"] == "YOLOAnchorGenerator"
    assert head["featmap_strides"] == head["anchor_generator"]["strides"] == [128, 64, 32, 16, 8]


def test_heads_over_an_fpn_have_free_shapes_from_fine_to_coarse():
    # the first map of mmdetection's FPN is the finest; AnchorHead, like YOLOV3Head, compares the number of levels alone
    text = mmdet(load_anchors("yolov3-coco")).text
    generator = pasted(text)["anchor_generator"]
    assert generator["strides"] == [8, 16, 32]
    assert generator["base_sizes"][0] == [(10, 13), (16, 30), (33, 23)]
    assert re.match("# levels from fine to coarse, .*YOLOV3Head.* mmdet-yolo\n", text)


def test_ssds_text_has_the_sizes_and_ratios_of_its_documented_configuration():
    # configs/_base_/models/ssd300.py: basesize_ratio_range=(0.15, 0.9) of 300 pixels, and 7 % to 15 % on the first level
    assert pasted(mmdet_ssd(load_anchors("mmdet-ssd300")).text)["anchor_generator"] == {
        "type": "SSDAnchorGenerator",
        "scale_major": False,
        "input_size": 300,
        "min_sizes": [21, 45, 99, 153, 207, 261],
        "max_sizes": [45, 99, 153, 207, 261, 315],
        "ratios": [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        "strides": [8, 16, 32, 64, 100, 300],
    }


def test_ssds_input_size_is_written_where_it_is_known():
    shapes = [(20, 20), (30, 30)]
    for resize, size in (("stretch:512x512", 512), ("stretch:300x200", None), ("letterbox:300", None), ("", None)):
        text = mmdet_ssd(AnchorSet.of([shapes], strides=[8], resize=resize)).text
        assert pasted(text)["anchor_generator"].get("input_size") == size


@pytest.mark.parametrize(
    "shapes",
    [
        [(20, 20)],
        [(20, 20), (30, 30.5)],
        [(20, 20), (18, 18)],
        [(20, 20), (30, 30), (28, 14)],
        [(20, 20), (30, 30), (28.2843, 14.1421), (14.1421, 28)],
        [(20, 20), (30, 30), (40, 20), (20, 40)],
    ],
)
def test_shapes_that_are_no_squares_and_pairs_are_refused_for_ssd(shapes):
    with pytest.raises(ConvertError, match=r"takes a square, a larger square, and pairs .*; P3 holds others"):
        mmdet_ssd(AnchorSet.of([shapes], strides=[8]))
