"""Converted anchors against the frameworks themselves (torchvision) and against their documented examples."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.testing import assert_allclose
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.known import load_anchors
from detect.errors import ConvertError
from detect.fitting.fit import fit_anchors
from detect.interop.anchor_formats import FORMATS, convert_anchors

UNEQUAL = AnchorSet.of([[(10.123, 20), (30, 20.5)], [(60, 61)]], strides=(8, 16), resize="letterbox:640")


def run(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(text, names)  # noqa: S102 - the text is what a user would paste
    return names


def pasted(text: str) -> dict[str, Any]:
    """Keyword arguments as they stand in a configuration of mmdetection."""
    return eval(f"dict(\n{text}\n)")  # noqa: S307 - likewise


def laid_out(anchors: AnchorSet, height: int, width: int) -> np.ndarray:
    """Every anchor as a box, in torchvision's order: level, row, column, shape."""
    boxes = []
    for level in anchors.levels:
        for row in range(height // level.stride):
            for column in range(width // level.stride):
                x, y = (np.array([column, row]) + anchors.center_offset) * level.stride
                boxes += [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for w, h in level.shapes]
    return np.array(boxes)


@pytest.mark.parametrize("name", ["retinanet", "yolov3-coco", "faster-rcnn-fpn", "unequal", "fitted"])
def test_torchvisions_text_builds_a_generator_of_the_same_boxes(name, bccd):
    anchors = {"unequal": UNEQUAL, "fitted": fit_anchors(bccd, k=9)}.get(name) or load_anchors(name)
    generator = run(convert_anchors(anchors, "torchvision").text)["anchor_generator"]
    assert isinstance(generator, AnchorGenerator)
    assert generator.num_anchors_per_location() == [len(level.shapes) for level in anchors.levels]
    image = ImageList(torch.zeros(1, 3, 128, 256), [(128, 256)])
    maps = [torch.zeros(1, 1, 128 // level.stride, 256 // level.stride) for level in anchors.levels]
    assert_allclose(generator(image, maps)[0].numpy(), laid_out(anchors, 128, 256), rtol=1e-5, atol=1e-4)


def test_torchvisions_sizes_and_ratios_make_the_same_shapes_up_to_its_rounding():
    text = convert_anchors(load_anchors("retinanet"), "torchvision").text
    generator = run(text)["anchor_generator"]
    exact = [cell.clone() for cell in generator.cell_anchors]
    for level, (sizes, ratios) in enumerate(zip(generator.sizes, generator.aspect_ratios, strict=True)):
        rounded = generator.generate_anchors(sizes, ratios)  # torchvision's own rule: ratio outer, size inner, rounded
        assert_allclose(rounded.numpy(), exact[level].numpy(), atol=0.51)


def test_mmdetections_retinanet_is_its_documented_configuration():
    # configs/_base_/models/retinanet_r50_fpn.py: octave_base_scale=4, scales_per_octave=3, ratios .5, 1, 2, strides 8..128;
    # its scales are 4 * 2**(i / 3)
    text = convert_anchors(load_anchors("retinanet"), "mmdet").text
    generator = pasted(text)["anchor_generator"]
    assert generator["type"] == "AnchorGenerator"
    assert_allclose(generator["scales"], [4 * 2 ** (i / 3) for i in range(3)], rtol=1e-4)
    assert generator["ratios"] == [0.5, 1, 2]
    assert generator["strides"] == [8, 16, 32, 64, 128]
    assert generator["center_offset"] == 0


def test_mmdetections_yolov3_is_its_documented_configuration_from_coarse_to_fine():
    # configs/yolo/yolov3_d53_8xb8-ms-608-273e_coco.py; the first map of YOLOV3Neck is the coarsest (its forward begins with
    # feats[-1]), and YOLOV3Head compares the number of levels alone
    head = pasted(convert_anchors(load_anchors("yolov3-coco"), "mmdet-yolo").text)
    assert head == {
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


def test_mmdetections_yolo_has_its_own_format_even_where_scales_and_ratios_would_do():
    head = pasted(convert_anchors(load_anchors("retinanet"), "mmdet-yolo").text)
    assert head["anchor_generator"]["type"] == "YOLOAnchorGenerator"
    assert head["featmap_strides"] == head["anchor_generator"]["strides"] == [128, 64, 32, 16, 8]


def test_mmdetections_heads_over_an_fpn_have_free_shapes_from_fine_to_coarse():
    # the first map of mmdetection's FPN is the finest; AnchorHead, like YOLOV3Head, compares the number of levels alone
    text = convert_anchors(load_anchors("yolov3-coco"), "mmdet").text
    generator = pasted(text)["anchor_generator"]
    assert generator["strides"] == [8, 16, 32]
    assert generator["base_sizes"][0] == [(10, 13), (16, 30), (33, 23)]
    assert re.match("# levels from fine to coarse, .*YOLOV3Head.* mmdet-yolo\n", text)


def test_detectron2s_retinanet_is_its_documented_configuration():
    # configs/Base-RetinaNet.yaml: SIZES [[x, x * 2**(1/3), x * 2**(2/3)] for x in 32, 64, 128, 256, 512]
    text = convert_anchors(load_anchors("retinanet"), "detectron2").text
    generator = yaml.safe_load(text)["MODEL"]["ANCHOR_GENERATOR"]
    assert generator["NAME"] == "DefaultAnchorGenerator"
    assert_allclose(
        generator["SIZES"], [[x * 2 ** (i / 3) for i in range(3)] for x in (32, 64, 128, 256, 512)], rtol=1e-4
    )
    assert generator["ASPECT_RATIOS"] == [[0.5, 1, 2]] * 5
    assert generator["OFFSET"] == 0


def test_detectron2s_free_shapes_are_a_generator_that_python_reads():
    text = convert_anchors(UNEQUAL, "detectron2").text
    tree = ast.parse(text)
    (cls,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    (shapes,) = [node for node in cls.body if isinstance(node, ast.Assign)]
    assert ast.literal_eval(shapes.value) == [[[10.123, 20], [30, 20.5]], [[60, 61]]]
    assert "cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5" in text


@pytest.mark.parametrize("to", ["yolov5", "ultralytics-yaml"])
def test_yolos_coco_anchors_are_its_documented_configuration(to):
    # models/yolov5s.yaml
    text = convert_anchors(load_anchors("yolov5-coco"), to).text
    assert text.splitlines() == [
        "anchors:",
        "  - [10,13, 16,30, 33,23]  # P3/8",
        "  - [30,61, 62,45, 59,119]  # P4/16",
        "  - [116,90, 156,198, 373,326]  # P5/32",
    ]


@pytest.mark.parametrize("to", ["yolov5", "ultralytics-yaml"])
def test_yolo_rows_of_other_strides_than_its_models_have_are_told(to):
    # YOLOv5 takes the strides of its own layers, whatever the comments beside the rows say
    on_p2 = AnchorSet.of([[(8, 8)], [(16, 16)], [(32, 32)]], strides=(4, 8, 16))
    (told,) = [note for note in convert_anchors(on_p2, to).notes if "stride" in note]
    assert "4, 8, 16" in told
    assert "8, 16, 32" in told


@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64)])
def test_yolo_rows_of_the_strides_of_its_models_need_no_note(strides):
    anchors = AnchorSet.of([[(stride, stride)] for stride in strides], strides=strides)
    assert convert_anchors(anchors, "yolov5").notes == ()


def test_it_is_told_that_the_ultralytics_package_reads_no_anchors():
    # ultralytics 8.4: its model files, of YOLOv3 and YOLOv5 too, have no field anchors, and nothing reads one
    assert "reads no anchors" in convert_anchors(load_anchors("yolov5-coco"), "ultralytics-yaml").notes[0]


# which way the framework's own configuration lists levels: +1 from fine to coarse, -1 from coarse to fine. torchvision: the
# maps of its FPN in turn; detectron2: IN_FEATURES p3 to p7; mmdetection: its FPN's and YOLOV3Neck's maps in turn;
# YOLOv5: Detect's layers, P3 to P5
ORDERS = {
    "torchvision": 1,
    "detectron2": 1,
    "mmdet": 1,
    "mmdet-yolo": -1,
    "yolov5": 1,
    "ultralytics-yaml": 1,
    "json": 1,
}


def widths_by_level(text: str, to: str) -> list[float]:
    """The width of the first shape of each level, in the order of the text."""
    if to == "torchvision":
        return [float(cell[0, 2] - cell[0, 0]) for cell in run(text)["anchor_generator"].cell_anchors]
    if to == "detectron2":
        (rows,) = re.findall(r"SHAPES = (\[.*?\n    \])", text, flags=re.DOTALL)
        return [level[0][0] for level in ast.literal_eval(rows)]
    if to.startswith("mmdet"):
        return [level[0][0] for level in pasted(text)["anchor_generator"]["base_sizes"]]
    if to == "json":
        return [level["shapes"][0][0] for level in json.loads(text)["levels"]]
    return [row[0] for row in yaml.safe_load(text)["anchors"]]


@pytest.mark.parametrize("to", FORMATS)
def test_levels_are_in_the_order_in_which_the_framework_takes_them(to):
    anchors = AnchorSet.of([[(10, 13), (16, 30)], [(30, 61), (62, 45)], [(116, 90), (156, 198)]], strides=(8, 16, 32))
    assert widths_by_level(convert_anchors(anchors, to).text, to) == [10, 30, 116][:: ORDERS[to]]


def test_levels_that_have_fewer_are_filled_up_and_it_is_said():
    conversion = convert_anchors(UNEQUAL, "yolov5")
    rows = yaml.safe_load(conversion.text)["anchors"]
    # P4 takes the shape of P3 that is nearest to four strides, 64 px, in size: 30 x 20.5
    assert rows == [[10.1, 20, 30, 20.5], [30, 20.5, 60, 61]]
    assert "P3 2, P4 1: filled up to 2" in conversion.notes[0]
    assert "--per-level" in conversion.notes[0]


@pytest.mark.parametrize("to", ["torchvision", "detectron2"])
def test_unequal_levels_are_said_where_they_are_kept(to):
    assert "P3 2, P4 1" in convert_anchors(UNEQUAL, to).notes[0]
    assert convert_anchors(load_anchors("yolov3-coco"), to).notes == ()


def test_json_holds_the_levels():
    content = json.loads(convert_anchors(UNEQUAL, "json").text)
    assert content["resize"] == "letterbox:640"
    assert content["levels"][1] == {"name": "P4", "stride": 16, "shapes": [[60.0, 61.0]]}


def test_tiny_and_huge_shapes_keep_their_digits():
    anchors = AnchorSet.of([[(1.5, 0.8), (12345.6, 9.9)]], strides=[4])
    generator = run(convert_anchors(anchors, "torchvision").text)["anchor_generator"]
    sizes = generator.cell_anchors[0][:, 2:] - generator.cell_anchors[0][:, :2]
    assert_allclose(sizes.numpy(), [[1.5, 0.8], [12345.6, 9.9]], rtol=1e-5)


def test_an_unknown_format_is_refused_with_those_that_are_known():
    with pytest.raises(ConvertError, match=re.escape(f"format 'caffe' is not one of {', '.join(FORMATS)}")):
        convert_anchors(UNEQUAL, "caffe")
