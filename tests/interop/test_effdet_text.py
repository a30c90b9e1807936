"""efficientdet-pytorch's fields hold octaves, or any shapes that all levels share in strides."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from frameworks import effdet_boxes, run
from numpy.testing import assert_allclose

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.generator import AnchorGenerator
from detect.anchors.known import load_anchors
from detect.errors import ConvertError
from detect.interop.effdet_text import effdet

STRIDES = (8, 16, 32, 64, 128)
FREE = [(3.1, 2.2), (1.25, 4.5), (6.0, 6.5), (2.0, 2.0)]  # in strides


def on_levels(shapes: list[tuple[float, float]], strides: tuple[int, ...] = STRIDES) -> AnchorSet:
    return AnchorSet.of([[(w * stride, h * stride) for w, h in shapes] for stride in strides], strides=strides)


def fields(anchors: AnchorSet) -> dict[str, object]:
    config = SimpleNamespace()
    run(effdet(anchors).text, config=config)
    return vars(config)


def test_d0s_text_is_its_documented_configuration():
    # effdet/config/model_config.py, default_detection_model_configs
    aspects = [(1.0, 1.0), (1.4, 0.7), (0.7, 1.4)]
    assert fields(load_anchors("effdet-d0")) == {"num_scales": 3, "anchor_scale": 4.0, "aspect_ratios": aspects}
    assert fields(load_anchors("effdet-d7")) == {"num_scales": 3, "anchor_scale": 5.0, "aspect_ratios": aspects}


def test_free_shapes_are_factors_of_the_stride_in_the_order_of_channels():
    assert fields(on_levels(FREE)) == {"num_scales": 1, "anchor_scale": 1.0, "aspect_ratios": FREE}


def test_the_package_makes_free_shapes_box_by_box():
    anchors = on_levels(FREE)
    made = np.concatenate(effdet_boxes(effdet(anchors).text, 256))
    generator = AnchorGenerator(anchors, convention="effdet")
    ours = generator.generate([(256 // stride, 256 // stride) for stride in STRIDES], (256, 256)).boxes.numpy()
    assert_allclose(made, ours, atol=1e-3)


def test_other_levels_than_p3_to_p7_are_set():
    found = fields(on_levels(FREE, (*STRIDES, 256)))
    assert (found["min_level"], found["max_level"], found["num_levels"]) == (3, 8, 6)


def test_another_place_than_the_middle_is_noted():
    anchors = AnchorSet.of([[(16, 16)]], strides=[8], center_offset=0.0)
    assert "middle of the cell" in effdet(anchors).notes[0]


def test_levels_of_their_own_shapes_are_refused():
    with pytest.raises(ConvertError, match="takes the same shapes in strides on every level; those of P4 differ"):
        effdet(AnchorSet.of([[(16, 16)], [(32, 33)]], strides=(8, 16)))
