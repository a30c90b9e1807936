from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from builders import coco_content
from numpy.testing import assert_allclose, assert_array_equal

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.head_cost import HeadSize
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.anchors.metrics import anchor_metrics
from detect.anchors.sweep import rules_of_sizes, sweep_resize
from detect.data import read_coco
from detect.errors import ResizeError
from detect.fitting.fit import fit_anchors


def test_numbers_by_hand():
    content = coco_content([[0, 0, 16, 16], [0, 0, 8, 8]], ids=[7, 8], image_ids=[1, 1])
    content["images"].append({"id": 2, "width": 64, "height": 64})
    dataset = read_coco(content)
    rules = rules_of_sizes("letterbox:64", [64, 128])
    small, large = sweep_resize(dataset, AnchorSet.of([[(16, 16)]], strides=[16]), rules=rules, head=HeadSize(1))
    # at 64: the first is a cell, the second has 64 / 256; at 128 the second is a cell and the first 256 / 1024
    assert (small.grid_recall, small.grid_average_iou, small.missed.tolist()) == (0.5, 0.625, [8])
    assert (large.grid_recall, large.grid_average_iou, large.missed.tolist()) == (0.5, 0.625, [7])
    # sizes 16 and 8, then 32 and 16: under 8, under 16, under 32 px
    assert (small.under_px, large.under_px) == ((0, 0.5, 1), (0, 0, 0.5))
    assert (small.num_anchors, large.num_anchors) == (16, 64)
    assert (small.flops, large.flops) == tuple(cells * HeadSize(1).flops_per_cell(1) for cells in (16, 64))


@pytest.mark.parametrize("fitted", [False, True])
def test_each_setting_has_the_metrics_under_its_rule(bccd, fitted):
    fit = partial(fit_anchors, k=3, strides=(8, 16, 32))
    rules = rules_of_sizes("shortest:320:512", [200, 320])
    settings = sweep_resize(
        bccd.dataset, fit if fitted else load_anchors("yolov3-coco"), rules=rules, convention="torchvision"
    )
    for rule, setting in zip(rules, settings, strict=True):
        instances = ResizedInstances.of(bccd.dataset, rule)
        score = anchor_metrics(
            instances, fit(instances) if fitted else load_anchors("yolov3-coco"), convention="torchvision"
        )
        assert setting.resize == str(rule)
        assert_allclose(setting.grid_recall, score.grid_recall(0.5))
        assert_allclose(setting.grid_average_iou, score.grid_average_iou)
        assert_array_equal(setting.missed, bccd.dataset.instances.ids[score.grid_best_iou < 0.5])


def test_a_larger_input_has_fewer_small_boxes_and_costs_its_area(bccd):
    rules = rules_of_sizes("letterbox:640", [160, 320, 640])
    settings = sweep_resize(bccd.dataset, load_anchors("yolov5-coco"), rules=rules)
    shares = np.array([setting.under_px for setting in settings])
    assert (np.diff(shares, axis=0) <= 0).all()
    assert (np.diff(shares, axis=1) >= 0).all()
    assert_allclose([setting.flops / settings[0].flops for setting in settings], [1, 4, 16])


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        ("letterbox:640", 1024, "letterbox:1024"),
        ("stretch:400x300", 200, "stretch:200x150"),
        ("shortest:800:1333", 800, "shortest:800:1333"),
        ("shortest:600:1000:mmdet", 300, "shortest:300:500:mmdet"),
    ],
)
def test_the_other_size_keeps_its_ratio(rule, size, expected):
    assert str(rules_of_sizes(rule, [size])[0]) == expected


@pytest.mark.parametrize(
    ("rule", "size", "message"),
    [
        ("none", 640, "'none' has no size to change"),
        ("letterbox:640", 0, "for size 0"),
        ("shortest:8:16", 60_000, "120000"),
    ],
)
def test_wrong_sizes_are_named(rule, size, message):
    with pytest.raises(ResizeError, match=message):
        rules_of_sizes(rule, [size])


def test_no_instances_and_json(bccd):
    empty = read_coco({"images": [], "annotations": [], "categories": []})
    (setting,) = sweep_resize(empty, load_anchors("retinanet"), rules=["none"])
    assert np.isnan(setting.grid_recall)
    assert len(setting.missed) == 0
    (setting,) = sweep_resize(bccd.dataset, load_anchors("retinanet"), rules=["letterbox:200"])
    content = json.loads(json.dumps(setting.to_dict()))
    assert content["missed"] == len(setting.missed)
    assert list(content["under_px"]) == ["8", "16", "32"]
