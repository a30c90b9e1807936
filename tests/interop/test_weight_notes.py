"""Notes on a conversion: what weights cannot carry."""

from __future__ import annotations

import pytest
from retinanets import assert_same, noted, tiny, unfilled

from detect.interop.weights import convert_weights


@pytest.mark.parametrize(
    ("name", "to", "words"),
    [
        ("torchvision v1", "detectron2", ["P6 is computed from P5", "LastLevelP6P7(256, 256, in_feature='p5')"]),
        ("torchvision v1", "mmdet", ["P6 is computed from P5", "on_output"]),
        ("torchvision v1", "mmdet", ["relu_before_extra_convs=True"]),
        ("torchvision v1", "detectron2", ["STRIDE_IN_1X1: False"]),
        ("torchvision v1", "detectron2", ["eps of the source taken as 1e-05"]),
        ("torchvision v1", "detectron2", ["the 11 that no category has are left out"]),
        ("torchvision v1", "detectron2", ["ratios by sizes to sizes by ratios"]),
        ("torchvision v1", "ours", ["91 rows pass unchanged"]),
        ("torchvision v1", "ours", ["generate them as torchvision does", "convention='torchvision'"]),
        ("detectron2", "ours", ["generate them as detectron2 does", "convention='mmdet'"]),
        ("torchvision v2", "ours", ["RetinaNetHead(norm='group')"]),
        ("torchvision v2", "mmdet", ["GroupNorm", "type='GN', num_groups=32"]),
        ("torchvision v2", "detectron2", ["stem", "now wants BGR from 0 to 255"]),
        ("detectron2", "torchvision", ["stem", "taken to want BGR", "now wants RGB"]),
        ("detectron2", "torchvision", ["stride", "conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)"]),
        ("detectron2", "torchvision", ["get weight 0 and the bias of a score of 0.01"]),
        ("detectron2", "torchvision", ["no function of torchvision's makes this"]),
        ("mmdet", "detectron2", ["P7", "no ReLU", "LastLevelP6P7"]),
        ("mmdet", "ours", ["P7", "no ReLU", "relu_before_p7=False"]),
        ("mmdet", "ours", ["P6 is computed from C5", "FeaturePyramid(extra='c5')"]),
    ],
)
def test_what_weights_cannot_carry_is_said(name: str, to: str, words: list[str]) -> None:
    notes = convert_weights(unfilled(name).state_dict(), to).notes
    assert noted(notes, *words), notes


def test_a_conversion_to_the_same_framework_says_nothing_and_does_nothing() -> None:
    state = unfilled("mmdet").state_dict()
    converted = convert_weights(state, "mmdet")
    assert_same(converted.state, state)
    assert converted.notes == ()


def test_towers_of_another_depth_are_told() -> None:
    assert noted(convert_weights(tiny("ours", 9, 80), "detectron2").notes, "have 1 convolutions, not 4: set NUM_CONVS")


def test_the_builder_of_torchvision_is_named() -> None:
    for name, builder in (("v1", "retinanet_resnet50_fpn("), ("v2", "retinanet_resnet50_fpn_v2(")):
        ours = convert_weights(unfilled(f"torchvision {name}").state_dict(), "ours").state
        assert noted(convert_weights(ours, "torchvision").notes, f"build: {builder}")
