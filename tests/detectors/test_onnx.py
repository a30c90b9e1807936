"""A detector exported to ONNX computes what it computes in PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.generator import AnchorGenerator
from detect.detectors.backbones import build_backbone
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.onnx import DetectionHead, export_onnx
from detect.errors import ExportError, MissingExtraError
from detect.heads.postprocess import PostProcess
from detect.heads.retinanet import RetinaNetHead

NUCLEI = Path(__file__).parents[2] / "data" / "nuclei" / "images"

# in a process of its own: what is exported is the code without the tests' checks of shapes
EXPORT = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy, onnxruntime, torch
from PIL import Image
from torch import nn
from torch.testing import assert_close
from detect.anchors.anchor_set import AnchorSet
from detect.detectors.backbones import build_backbone
from detect.detectors.onnx import export_onnx
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ExportError
from detect.heads.postprocess import PostProcess

name, folder, pictures = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
images = torch.stack([torch.from_numpy(numpy.array(Image.open(each).convert("L"))) for each in pictures])[:, None] / 255
image_hw = torch.tensor([[128, 128], [100, 90], [128, 128]])
random = torch.Generator().manual_seed(0)

def boxes(found):
    detector = RetinaNetDetector(
        build_backbone(name, strides=(4, 8, 16), in_channels=1, seed=0),
        AnchorSet.of([[(8, 8), (12, 9)], [(16, 16)], [(64, 64)]], strides=(4, 8, 64)),
        2, mean=(.1,), std=(.1,), post_process=PostProcess(detections_per_image=found), seed=0,
    )
    for output in detector.head.class_outputs:
        nn.init.normal_(output.weight, std=0.1, generator=random)
    return detector
"""

EXPORT_BOXES = """
detector = boxes(50)
check = export_onnx(detector, str(folder / "boxes.onnx"), images, image_hw)
assert (check.num_images, check.num_found) == (3, 150), check
assert 0 < check.position_px < 0.05 and check.score < 1e-3, check
assert detector.training and [each.name for each in folder.iterdir()] == ["boxes.onnx"]

session = onnxruntime.InferenceSession(str(check.path))
detector.eval()
for rows in ([1], [2, 0, 1]):  # any number of images
    expected = detector.detect(images[rows], image_hw[rows])
    outputs = session.run(None, {"images": images[rows].numpy(), "image_hw": image_hw[rows].numpy()})
    for each, found_boxes, scores, classes, valid in zip(expected, *outputs, strict=True):
        assert_close(torch.from_numpy(found_boxes[valid]), each.boxes, rtol=0, atol=1e-2)
        assert_close(torch.from_numpy(scores[valid]), each.scores, rtol=0, atol=1e-4)
        assert_close(torch.from_numpy(classes[valid]), each.classes)
"""

EXPORT_LANDMARKS = """
backbone = build_backbone(name, strides=(2, 4, 8), in_channels=1, seed=0)
detector = LandmarkDetector(backbone, 2, prior=.3, mean=(.1,), std=(.1,), seed=0)
nn.init.normal_(detector.head.heatmap_output.weight, std=0.2, generator=random)
check = export_onnx(detector, folder / "landmarks.onnx", images, image_hw)
assert check.num_images == 3 and check.num_found > 30, check
session = onnxruntime.InferenceSession(str(check.path))
(heatmaps,) = session.run(None, {"images": images[:2].numpy()})
with torch.no_grad():
    expected = detector.eval()(images[:2]).logits.sigmoid()
assert_close(torch.from_numpy(heatmaps), expected, rtol=0, atol=1e-3)

find = LandmarkDetector.detect
def elsewhere(self, images, image_hw):
    peaks = find(self, images, image_hw)
    return replace(peaks, cells=peaks.cells + 0.1)
LandmarkDetector.detect = elsewhere  # as if the file were of another network
try:
    export_onnx(detector, folder / "other.onnx", images, image_hw)
except ExportError as error:
    assert "in image 0 PyTorch finds" in str(error) and "nothing was written" in str(error), error
else:
    raise AssertionError("points a tenth of a pixel away are not the same")
assert [each.name for each in folder.iterdir()] == ["landmarks.onnx"]
"""


def run_export(code: str, name: str, folder: Path) -> None:
    pictures = [str(each) for each in sorted(NUCLEI.iterdir())[:3]]
    command = [sys.executable, "-W", "error", "-c", EXPORT + code, name, str(folder), *pictures]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_box_detector_in_one_file_finds_what_pytorch_finds(tmp_path):
    run_export(EXPORT_BOXES, "tiny", tmp_path)


def test_a_landmark_detector_in_a_file_gives_its_heatmaps_and_a_file_of_others_is_refused(tmp_path):
    run_export(EXPORT_LANDMARKS, "tiny", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_borrowed_backbones_are_exported_too(name, tmp_path):
    run_export(EXPORT_BOXES, name, tmp_path)


def small_landmarks() -> LandmarkDetector:
    return LandmarkDetector(build_backbone("tiny", strides=(2, 4), in_channels=1))


def test_what_has_no_form_in_onnx_is_told(tmp_path):
    class Odd(nn.Module):
        def forward(self, images):
            raise RuntimeError("an operator of my own\nwith details")

    detector = small_landmarks()
    detector.backbone.model = Odd()
    with pytest.raises(ExportError, match=r"odd\.onnx: ONNX has no form for the detector"):
        export_onnx(detector, tmp_path / "odd.onnx", torch.zeros(1, 1, 8, 8), torch.tensor([[8, 8]]))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime is not installed.*export"):
        export_onnx(small_landmarks(), tmp_path / "x.onnx", torch.zeros(1, 1, 8, 8), torch.tensor([[8, 8]]))


# in a process of its own: what is exported is the code without the tests' checks of shapes
EXPORTED = """
import sys
import onnxruntime, torch
from torch import nn
from torch.testing import assert_close
from detect import AnchorGenerator, AnchorSet, PostProcess, RetinaNetHead
from detect.detectors.onnx import DetectionHead

grid = AnchorGenerator(AnchorSet.of([[(10, 20), (20, 12)], [(30, 30)]], strides=(8, 16)))
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
    command = [sys.executable, "-c", EXPORTED, str(tmp_path / "detections.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_it_is_head_grid_and_post_processing():
    grid = AnchorGenerator(AnchorSet.of([[(10, 20)], [(30, 30)]], strides=(8, 16)))
    random = torch.Generator().manual_seed(0)
    head = RetinaNetHead(16, grid.num_anchors, num_classes=2, prior=0.3, num_convs=0, generator=random)
    for output in head.class_outputs:
        torch.nn.init.normal_(output.weight, std=0.3, generator=random)  # scores well apart
    features = [torch.rand(1, 16, 4, 6, generator=random), torch.rand(1, 16, 2, 3, generator=random)]
    image_hw = [(32, 48)]
    found = DetectionHead(head, grid)(features, torch.tensor(image_hw))
    (expected,) = PostProcess()(head(features), grid.generate([(4, 6), (2, 3)]), image_hw=image_hw)
    assert_close(found.boxes[found.valid], expected.boxes)
    assert_close(found.scores[found.valid], expected.scores)
    assert len(expected.scores) > 10


def test_maps_may_come_in_a_mapping():
    grid = AnchorGenerator(AnchorSet.of([[(10, 20)], [(30, 30)]], strides=(8, 16)))
    model = DetectionHead(RetinaNetHead(16, grid.num_anchors, num_classes=2, prior=0.3), grid)
    features, image_hw = [torch.rand(1, 16, 4, 6), torch.rand(1, 16, 2, 3)], torch.tensor([[32, 48]])
    expected = model(features, image_hw)
    assert expected.valid.any()
    assert_close(tuple(model({"p3": features[0], "p4": features[1]}, image_hw)), tuple(expected), rtol=0, atol=0)


def test_a_head_for_other_anchors_and_strides_that_need_a_size_are_refused():
    sizes = [(32.0,), (64.0,)]
    with pytest.raises(ValueError, match="got 'floor'"):
        DetectionHead(RetinaNetHead(8, 3, 2), AnchorGenerator.of_sizes(sizes, strides=(8, 16)))
    with pytest.raises(ValueError, match="anchors per cell"):
        DetectionHead(RetinaNetHead(8, 2, 2), AnchorGenerator.of_sizes(sizes, strides=(8, 16), convention="mmdet"))
