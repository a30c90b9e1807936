"""detectron2's YAML is its documented configuration; free shapes are a class whose anchors are the set's."""

from __future__ import annotations

import ast
import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from frameworks import names_of, our_boxes, run, sets_for
from numpy.testing import assert_allclose

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.known import load_anchors
from detect.interop.detectron2_text import ORDER, detectron2

FREE = AnchorSet.of([[(10.123, 20), (30, 20.5)], [(60, 61), (5, 7)]], strides=(8, 16))


@pytest.mark.parametrize("kind", ["stock", "fitted"])
@pytest.mark.parametrize("name", names_of("detectron2"))
def test_sizes_and_ratios_mean_our_anchors(name: str, kind: str):
    """By the documentation of DefaultAnchorGenerator: for each size s and ratio r, w = sqrt(s * s / r) and h = r * w, around
    OFFSET strides from the corner of the cell.
    """
    anchors = sets_for(name)[kind]
    conversion = detectron2(anchors)
    generator = yaml.safe_load(conversion.text)["MODEL"]["ANCHOR_GENERATOR"]
    assert generator["NAME"] == "DefaultAnchorGenerator"
    assert conversion.notes == ()
    rows = zip(generator["SIZES"], generator["ASPECT_RATIOS"], our_boxes(name, anchors), anchors.levels, strict=True)
    for sizes, ratios, boxes, level in rows:
        widths = [math.sqrt(size**2 / ratio) for size in sizes for ratio in ratios]
        heights = [math.sqrt(size**2 * ratio) for size in sizes for ratio in ratios]
        first = boxes[: len(level.shapes)]
        assert_allclose(first[:, 2] - first[:, 0], widths, rtol=2e-5)
        assert_allclose(first[:, 3] - first[:, 1], heights, rtol=2e-5)
        assert_allclose((first[:, 0] + first[:, 2]) / 2, generator["OFFSET"] * level.stride, atol=1e-4)


def test_retinanets_text_is_its_documented_configuration():
    # configs/Base-RetinaNet.yaml: SIZES [[x, x * 2**(1/3), x * 2**(2/3)] for x in 32, 64, 128, 256, 512]
    generator = yaml.safe_load(detectron2(load_anchors("detectron2-retinanet")).text)["MODEL"]["ANCHOR_GENERATOR"]
    assert_allclose(
        generator["SIZES"], [[x * 2 ** (i / 3) for i in range(3)] for x in (32, 64, 128, 256, 512)], rtol=1e-5
    )
    assert generator["ASPECT_RATIOS"] == [[0.5, 1, 2]] * 5
    assert generator["OFFSET"] == 0


def test_another_order_of_channels_is_told():
    assert detectron2(load_anchors("retinanet")).notes == (ORDER,)


def test_free_shapes_are_a_generator_of_the_very_cells(monkeypatch: pytest.MonkeyPatch):
    """The class runs with stand-ins for the four names that it takes from detectron2."""
    module = ModuleType("detectron2.modeling.anchor_generator")
    module.ANCHOR_GENERATOR_REGISTRY = SimpleNamespace(register=lambda: lambda cls: cls)  # type: ignore[attr-defined]
    module.BufferList = list  # type: ignore[attr-defined]
    module.DefaultAnchorGenerator = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "detectron2", ModuleType("detectron2"))
    monkeypatch.setitem(sys.modules, "detectron2.modeling", ModuleType("detectron2.modeling"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = run(detectron2(FREE).text)
    cells = names["FittedAnchorGenerator"]()._calculate_anchors(None, None)
    for cell, level in zip(cells, FREE.levels, strict=True):
        torch.testing.assert_close(cell[:, 2:] - cell[:, :2], torch.tensor(level.shapes))
        torch.testing.assert_close(cell[:, 2:], -cell[:, :2])
    config = SimpleNamespace(MODEL=SimpleNamespace(ANCHOR_GENERATOR=SimpleNamespace()))
    names["use_fitted_anchors"](config)
    assert vars(config.MODEL.ANCHOR_GENERATOR) == {"NAME": "FittedAnchorGenerator", "OFFSET": 0.5}


def test_the_class_of_free_shapes_lists_levels_from_fine_to_coarse():
    (cls,) = [node for node in ast.parse(detectron2(FREE).text).body if isinstance(node, ast.ClassDef)]
    (shapes,) = [node for node in cls.body if isinstance(node, ast.Assign)]
    assert ast.literal_eval(shapes.value) == [[[10.123, 20], [30, 20.5]], [[60, 61], [5, 7]]]
