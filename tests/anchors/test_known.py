"""Anchors by name, and files and folders that are loaded instead."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.testing import assert_allclose

from detect.anchors.known import load_anchors, stock_anchors
from detect.catalog.detectors import anchor_detectors, find_detector
from detect.errors import AnchorFileError

FILE = "format: 1\nresize: none\nlevels: [{name: P3, stride: 8, shapes: [[10, 20]]}]\n"


def test_other_names_are_refused_with_those_that_are_known():
    with pytest.raises(AnchorFileError, match=r"yolov9: no such file; known by name: .*retinanet.*yolov3-darknet"):
        load_anchors("yolov9")
    with pytest.raises(AnchorFileError, match=r"^mine\.yaml: no such file$"):
        load_anchors("mine.yaml")


def test_a_folder_stands_for_the_file_in_it(tmp_path):
    (tmp_path / "anchors.yaml").write_text(FILE, "utf-8")
    assert load_anchors(str(tmp_path)).shapes.tolist() == [[10.0, 20.0]]


def test_a_file_of_another_framework_or_a_text_is_loaded_too(tmp_path):
    (tmp_path / "mine.cfg").write_text("[net]\nwidth=416\nheight=416\n[region]\nanchors = 1,2\n", "utf-8")
    assert load_anchors(tmp_path / "mine.cfg").shapes.tolist() == [[32.0, 64.0]]
    assert load_anchors("10,13 16,30").num_anchors == 2


def test_known_anchors_are_the_published_ones():
    # 32 px on P3 with ratio h/w = 1/2: 32 * sqrt(2) by 32 / sqrt(2); the last of P7 is 812.7 px with ratio 2
    retinanet = load_anchors("retinanet")
    assert retinanet.num_anchors == 45
    assert_allclose(retinanet.levels[0].shapes[0], [32 * 2**0.5, 32 / 2**0.5], rtol=1e-5)
    assert_allclose(np.prod(retinanet.levels[-1].shapes[-1]) ** 0.5, 512 * 2 ** (2 / 3), rtol=1e-5)
    # YOLO9000's VOC anchors are in cells of 32 px
    assert_allclose(load_anchors("yolov2-voc").shapes[0], [1.3221 * 32, 1.73145 * 32], rtol=1e-5)
    assert load_anchors("yolov3-coco").levels[2].shapes == [(116.0, 90.0), (156.0, 198.0), (373.0, 326.0)]


def test_torchvisions_stock_anchors_are_those_of_its_own_generators():
    pytest.importorskip("torchvision")
    from detect.ops.torchvision_import import import_torchvision

    detection = import_torchvision().models.detection
    sizes = detection.retinanet._default_anchorgen()
    level = stock_anchors(find_detector("torchvision-retinanet")).levels[2]
    half = sizes.cell_anchors[2].numpy()[:, 2:]
    assert_allclose(np.round(np.array(level.shapes) / 2), half, atol=0)
    boxes = detection.anchor_utils.DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]], scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    )
    for level, pairs in zip(stock_anchors(find_detector("torchvision-ssd300")).levels, boxes._wh_pairs, strict=True):
        assert_allclose(level.shapes, pairs.clamp(max=1).numpy() * 300, rtol=1e-5)


@pytest.mark.parametrize("name", list(anchor_detectors()))
def test_stock_anchors_fill_the_levels_of_their_detector(name: str):
    detector = anchor_detectors()[name]
    anchors = stock_anchors(detector)
    assert [len(level.shapes) for level in anchors.levels] == detector.numbers
    assert [level.stride for level in anchors.levels] == detector.strides
    assert anchors.name == name
    assert anchors.resize == detector.resize


def test_stock_anchors_of_the_wrong_number_are_refused():
    few = msgspec.structs.replace(anchor_detectors()["yolov5"], per_level=4)
    with pytest.raises(AnchorFileError, match=r"yolov5: stock anchors are 3, 3, 3 for levels of \[4, 4, 4\]"):
        stock_anchors(few)
