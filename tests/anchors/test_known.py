"""Anchors by name, and files and folders that are loaded instead."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from detect.anchors.known import KNOWN_ANCHORS, load_anchors
from detect.errors import AnchorFileError

FILE = "format: 1\nresize: none\nlevels: [{name: P3, stride: 8, shapes: [[10, 20]]}]\n"


def test_other_names_are_refused_with_those_that_are_known():
    with pytest.raises(AnchorFileError, match=r"yolov9: no such file; known by name: .*retinanet.*yolov3-coco"):
        load_anchors("yolov9")


def test_a_folder_stands_for_the_file_in_it(tmp_path):
    (tmp_path / "anchors.yaml").write_text(FILE, "utf-8")
    assert load_anchors(str(tmp_path)).shapes.tolist() == [[10.0, 20.0]]


def test_known_anchors_are_the_published_ones():
    # 32 px on P3 with ratio h/w = 1/2: 32 * sqrt(2) by 32 / sqrt(2); the last of P7 is 812.7 px with ratio 2
    retinanet = KNOWN_ANCHORS["retinanet"]
    assert retinanet.num_anchors == 45
    assert_allclose(retinanet.levels[0].shapes[0], [32 * 2**0.5, 32 / 2**0.5], rtol=1e-5)
    assert_allclose(np.prod(retinanet.levels[-1].shapes[-1]) ** 0.5, 512 * 2 ** (2 / 3), rtol=1e-5)
    # YOLO9000's VOC anchors are in cells of 32 px
    assert_allclose(KNOWN_ANCHORS["yolov2-voc"].shapes[0], [1.3221 * 32, 1.73145 * 32], rtol=1e-5)
    assert KNOWN_ANCHORS["yolov3-coco"].levels[2].shapes == [(116.0, 90.0), (156.0, 198.0), (373.0, 326.0)]
    assert all(name == anchors.name for name, anchors in KNOWN_ANCHORS.items())
