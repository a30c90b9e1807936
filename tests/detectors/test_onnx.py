"""A detector exported to ONNX computes what it computes in PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from detect.detectors.backbones import build_backbone
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.onnx import export_onnx
from detect.errors import ExportError, MissingExtraError

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
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ExportError
from detect.heads.postprocess import PostProcess

name, folder, pictures = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
opened = [torch.from_numpy(numpy.array(Image.open(each).convert("L")))[None] / 255 for each in pictures]
images = [opened[0], opened[1], opened[2][:, :96, :64]]
image_hw = torch.tensor([[128, 128], [100, 90], [96, 60]])
random = torch.Generator().manual_seed(0)
detector = RetinaNetDetector(
    build_backbone(name, strides=(8, 16), in_channels=1, seed=0),
    AnchorSet.of([[(8, 8), (12, 9)], [(64, 64)]], strides=(8, 64)),
    2, num_convs=0, mean=(.1,), std=(.1,), post_process=PostProcess(detections_per_image=50), seed=0,
)
for output in detector.head.class_outputs:
    nn.init.normal_(output.weight, std=0.1, generator=random)
"""

EXPORT_ANY_SIZE = """
check = export_onnx(detector, str(folder / "boxes.onnx"), images, image_hw, size_multiple=32)
assert check.why_fixed is None, check
assert [(each.name, each.dtype, each.shape) for each in check.inputs] == [
    ("images", "float32", ("batch", 1, "height", "width")), ("image_hw", "int64", ("batch", 2))
], check.inputs
assert [(each.name, each.dtype) for each in check.outputs] == [
    ("boxes", "float32"), ("scores", "float32"), ("classes", "int64"), ("valid", "bool")
]
assert (check.num_images, check.num_found) == (3, 150), check
assert 0 < check.position_px < 0.05 and check.score < 1e-3, check
assert detector.training and [each.name for each in folder.iterdir()] == ["boxes.onnx"]

session = onnxruntime.InferenceSession(str(check.path))
detector.eval()
for batch, sizes in (
    (images[1][None], image_hw[1:2]),
    (torch.stack(images[:2]), image_hw[:2]),
    (torch.cat([images[0][None], images[1][None, :, :, :96]], dim=3), torch.tensor([[128, 220]])),
):  # any number and any size of images
    outputs = session.run(None, {"images": batch.numpy(), "image_hw": sizes.numpy()})
    for each, found_boxes, scores, classes, valid in zip(detector.detect(batch, sizes), *outputs, strict=True):
        assert len(each.scores) == 50
        scaled = [torch.cat([boxes, 100 * kinds[:, None]], dim=1)  # nearly equal scores may be in another order
                  for boxes, kinds in ((torch.from_numpy(found_boxes[valid]), torch.from_numpy(classes[valid])),
                                       (each.boxes, each.classes))]
        apart = torch.cdist(*scaled, p=torch.inf)
        assert torch.maximum(apart.amin(dim=0), apart.amin(dim=1)).max() < 0.01
        assert_close(torch.from_numpy(scores[valid]), each.scores, rtol=0, atol=1e-4)

find = RetinaNetDetector.detect
def elsewhere(self, images, image_hw):
    return [replace(found, boxes=found.boxes + 0.1) for found in find(self, images, image_hw)]
RetinaNetDetector.detect = elsewhere  # as if the file were of another network
class Written:
    def save(self, path):
        Path(path).write_bytes(Path(check.path).read_bytes())
torch.onnx.export = lambda *_, **__: Written()
try:
    export_onnx(detector, folder / "other.onnx", images[:2], image_hw[:2])
except ExportError as error:
    assert "in image 0 PyTorch finds" in str(error) and "nothing was written" in str(error), error
else:
    raise AssertionError("boxes a tenth of a pixel away are not the same")
assert [each.name for each in folder.iterdir()] == ["boxes.onnx"]
"""

EXPORT_ONE_SIZE = """
check = export_onnx(detector, str(folder / "boxes.onnx"), images[:2], image_hw[:2])
assert (check.num_images, check.num_found) == (2, 100), check
assert check.inputs[0].shape == ("batch", 1, 128, 128), check
"""

EXPORT_FIXED = """
def only_one_size(self, images):
    if images.shape[-1] != 128:
        raise RuntimeError("this network takes 128 pixels")
    return forward(self, images)
forward = type(detector.backbone).forward
type(detector.backbone).forward = only_one_size
check = export_onnx(detector, folder / "boxes.onnx", images, image_hw, size_multiple=32)
assert "this network takes 128 pixels" in check.why_fixed or "ONNX has no form" in check.why_fixed, check
assert check.inputs[0].shape == ("batch", 1, 128, 128) and check.num_images == 2, check
"""


def run_export(code: str, name: str, folder: Path) -> None:
    pictures = [str(each) for each in sorted(NUCLEI.iterdir())[:3]]
    command = [sys.executable, "-W", "error", "-c", EXPORT + code, name, str(folder), *pictures]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_box_detector_in_one_file_finds_at_any_size_what_pytorch_finds_and_a_file_of_others_is_refused(tmp_path):
    run_export(EXPORT_ANY_SIZE, "tiny", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:resnet18", "timm:tf_efficientnet_lite0", "torchvision:resnet18"])
def test_borrowed_backbones_are_exported_too(name, tmp_path):
    run_export(EXPORT_ANY_SIZE, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("code", [EXPORT_ONE_SIZE, EXPORT_FIXED], ids=["one size", "no other size"])
def test_a_file_for_one_size_names_it(code, tmp_path):
    run_export(code, "tiny", tmp_path)


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
