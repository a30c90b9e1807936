"""Head, decoding and suppression in one: compiled, exported, and as ONNX, at sizes other than those of the trace."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.grid import AnchorGrid
from detect.heads.detection_head import DetectionHead
from detect.heads.detections import PostProcess
from detect.heads.retinanet import RetinaNetHead

# in a process of its own: what is exported is the code without the tests' checks of shapes
EXPORT = """
import sys
import onnxruntime, torch
from torch import nn
from torch.testing import assert_close
from detect import AnchorGrid, AnchorSet, PostProcess, RetinaNetHead
from detect.heads.detection_head import DetectionHead

grid = AnchorGrid(AnchorSet.of([[(10, 20), (20, 12)], [(30, 30)]], strides=(8, 16)))
random = torch.Generator().manual_seed(0)
head = RetinaNetHead(8, grid.num_anchors, 3, num_convs=1, prior=0.3, generator=random)
for output in head.class_outputs:
    nn.init.normal_(output.weight, std=1.0, generator=random)
model = DetectionHead(head, grid, PostProcess(score_threshold=0.2, detections_per_image=20), max_candidates=60).eval()

def inputs(num_images, height, width):
    features = [torch.rand(num_images, 8, height // s, width // s, generator=random) for s in (8, 16)]
    return features, torch.tensor([[height - 3, width]] * num_images)

def check(run):
    for sizes in ((1, 32, 48), (3, 64, 32), (2, 48, 80)):
        features, image_hw = inputs(*sizes)
        expected = model(features, image_hw)
        assert expected.valid.sum() > 5 * sizes[0]
        found = run(features, image_hw)
        for mine, theirs in zip(found, expected):
            assert_close(torch.as_tensor(mine), theirs, rtol=1e-4, atol=1e-4)

Dim = torch.export.Dim
b, h, w = Dim("b", max=8), Dim("h", max=64), Dim("w", max=64)
levels = [{0: b, 2: 2 * h, 3: 2 * w}, {0: b, 2: h, 3: w}]
with torch.no_grad():
    program = torch.export.export(model, inputs(2, 64, 96), dynamic_shapes=(levels, {0: b}))
    check(program.module())
    torch.onnx.export(program, dynamo=True, verbose=False).save(sys.argv[1])
    session = onnxruntime.InferenceSession(sys.argv[1])
    names = [value.name for value in session.get_inputs()]
    check(lambda features, hw: session.run(None, dict(zip(names, [f.numpy() for f in features] + [hw.numpy()]))))
"""


def test_exported_and_as_onnx_the_detections_are_the_same_at_any_size(tmp_path):
    command = [sys.executable, "-c", EXPORT, str(tmp_path / "detections.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_it_is_head_grid_and_post_processing():
    grid = AnchorGrid(AnchorSet.of([[(10, 20)], [(30, 30)]], strides=(8, 16)))
    random = torch.Generator().manual_seed(0)
    head = RetinaNetHead(16, grid.num_anchors, num_classes=2, prior=0.3, num_convs=0, generator=random)
    for output in head.class_outputs:
        torch.nn.init.normal_(output.weight, std=0.3, generator=random)  # scores well apart
    features = [torch.rand(1, 16, 4, 6, generator=random), torch.rand(1, 16, 2, 3, generator=random)]
    image_hw = [(32, 48)]
    found = DetectionHead(head, grid)(features, torch.tensor(image_hw))
    placed = grid.place([(4, 6), (2, 3)])
    (expected,) = PostProcess()(
        *head(features), anchors=placed.boxes, anchors_per_level=placed.num_per_level, image_hw=image_hw
    )
    assert_close(found.boxes[found.valid], expected.boxes)
    assert_close(found.scores[found.valid], expected.scores)
    assert len(expected.scores) > 10


def test_maps_may_come_in_a_mapping():
    grid = AnchorGrid(AnchorSet.of([[(10, 20)], [(30, 30)]], strides=(8, 16)))
    model = DetectionHead(RetinaNetHead(16, grid.num_anchors, num_classes=2, prior=0.3), grid)
    features, image_hw = [torch.rand(1, 16, 4, 6), torch.rand(1, 16, 2, 3)], torch.tensor([[32, 48]])
    expected = model(features, image_hw)
    assert expected.valid.any()
    assert_close(tuple(model({"p3": features[0], "p4": features[1]}, image_hw)), tuple(expected), rtol=0, atol=0)


def test_mistakes_are_named():
    sizes = [(32.0,), (64.0,)]
    with pytest.raises(ValueError, match="got 'floor'"):
        DetectionHead(RetinaNetHead(8, 3, 2), AnchorGrid.of_sizes(sizes, strides=(8, 16)))
    with pytest.raises(ValueError, match="anchors to a cell"):
        DetectionHead(RetinaNetHead(8, 2, 2), AnchorGrid.of_sizes(sizes, strides=(8, 16), dialect="mmdet"))
