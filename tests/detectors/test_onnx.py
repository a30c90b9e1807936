"""A detector exported to ONNX computes what it computes in PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import random_images
from torch import nn

from detect.detectors.backbones import build_backbone
from detect.detectors.exported import ExportedPoints
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.onnx import TensorInfo, export_onnx
from detect.errors import ExportError, MissingExtraError

NUCLEI = Path(__file__).parents[2] / "data" / "nuclei" / "images"

# in a process of its own: what is exported is the code without the tests' checks of shapes
EXPORT = """
import sys
from pathlib import Path
import numpy, onnxruntime, torch
from PIL import Image
from torch import nn
from torch.testing import assert_close
from detect.anchors.anchor_set import AnchorSet
from detect.cli.terminal import silence_warnings
from detect.detectors.backbones import build_backbone
from detect.detectors.onnx import export_onnx
from detect.detectors.retinanet import RetinaNetDetector
from detect.heads.postprocess import PostProcess

silence_warnings()  # those of the exporter
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
    nn.init.normal_(output.weight, generator=random)
with torch.no_grad():  # scores are well apart, and none is 1
    spread = detector.eval()(images[0][None]).logits.std()
    for output in detector.head.class_outputs:
        output.weight /= spread
detector.train()
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
assert check.num_images == 3 and check.num_found > 20, check
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
        assert len(each.scores) > 5
        scaled = [torch.cat([boxes, 100 * kinds[:, None]], dim=1)  # nearly equal scores may be in another order
                  for boxes, kinds in ((torch.from_numpy(found_boxes[valid]), torch.from_numpy(classes[valid])),
                                       (each.boxes, each.classes))]
        apart = torch.cdist(*scaled, p=torch.inf)
        assert torch.maximum(apart.amin(dim=0), apart.amin(dim=1)).max() < 0.01
        assert_close(torch.from_numpy(scores[valid]), each.scores, rtol=0, atol=1e-4)
"""


def run_export(code: str, name: str, folder: Path) -> None:
    pictures = [str(each) for each in sorted(NUCLEI.iterdir())[:3]]
    command = [sys.executable, "-W", "error", "-c", EXPORT + code, name, str(folder), *pictures]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow  # files for one size are exported in tests/cli/test_export.py
@pytest.mark.parametrize("name", ["tiny", "timm:resnet18", "timm:tf_efficientnet_lite0", "torchvision:resnet18"])
def test_a_box_detector_in_one_file_finds_at_any_size_what_pytorch_finds(name, tmp_path):
    run_export(EXPORT_ANY_SIZE, name, tmp_path)


class WrittenFile:
    """Stands for the exporter and for onnxruntime: a file that finds points this far from those of the detector."""

    def __init__(self, detector: LandmarkDetector, shift_px: float, refused: int = 0, turn_deg: float = 0.0) -> None:
        self.exported, self.shift_px, self.refused = ExportedPoints(detector.eval()), shift_px, refused
        self.turn_deg = turn_deg

    def export(self, *_: Any, **__: Any) -> WrittenFile:
        self.refused -= 1
        if self.refused >= 0:
            raise RuntimeError("sizes must be known\nwith details")
        return self

    def save(self, path: str) -> None:
        Path(path).touch()

    def get_inputs(self) -> list[SimpleNamespace]:
        images = SimpleNamespace(name="images", type="tensor(float)", shape=["s1", 1, 24, 32])
        return [images, SimpleNamespace(name="image_hw", type="tensor(int64)", shape=["s1", 2])]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="points", type="tensor(float)", shape=["s1", "Min(1000, 192)", 2])]

    def run(self, names: list[str], inputs: dict[str, Any]) -> list[Any]:
        with torch.no_grad():
            outputs = self.exported(*map(torch.from_numpy, inputs.values()))
        found = dict(zip(self.exported.outputs, outputs, strict=True))
        found["points"] = found["points"] + self.shift_px
        if "angles" in found:
            found["angles"] = found["angles"] + self.turn_deg
        return [found[name].numpy() for name in names]


@pytest.fixture
def written(monkeypatch):
    def as_if(orientation: str = "none", **options: Any) -> LandmarkDetector:
        backbone = build_backbone("tiny", strides=(2, 4), in_channels=1, seed=0)
        detector = LandmarkDetector(backbone, prior=0.3, orientation=orientation, seed=0)
        nn.init.normal_(detector.head.heatmap_output.weight, std=0.2, generator=torch.Generator().manual_seed(0))
        file = WrittenFile(detector, **options)
        monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=lambda *_, **__: file))
        monkeypatch.setattr(torch.onnx, "export", file.export)
        return detector

    return as_if


IMAGES, IMAGE_HW = random_images(3, 1, 24, 32), torch.tensor([[24, 32], [20, 30], [24, 32]])


def test_a_file_is_written_if_it_finds_the_same_and_the_check_names_its_inputs(tmp_path, written):
    check = export_onnx(written(shift_px=0.01), tmp_path / "new" / "same.onnx", IMAGES, IMAGE_HW)
    assert (tmp_path / "new" / "same.onnx").exists()
    assert (check.num_images, check.num_found > 20, check.why_fixed) == (3, True, None)
    assert check.position_px == pytest.approx(0.01, abs=1e-3)
    images, image_hw = (
        TensorInfo("images", "float32", ("batch", 1, 24, 32)),
        TensorInfo("image_hw", "int64", ("batch", 2)),
    )
    assert check.inputs == (images, image_hw)
    assert check.outputs == (TensorInfo("points", "float32", ("batch", "results", 2)),)


def test_a_file_that_finds_something_else_is_refused(tmp_path, written):
    with pytest.raises(ExportError, match=r"in image 0 PyTorch finds \d+, .*nothing was written"):
        export_onnx(written(shift_px=0.1), tmp_path / "other.onnx", IMAGES, IMAGE_HW)
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_take_any_size_is_written_for_the_first_and_the_check_says_why(tmp_path, written):
    images = [*IMAGES, torch.zeros(1, 32, 32)]
    image_hw = torch.cat([IMAGE_HW, torch.tensor([[32, 32]])])
    check = export_onnx(written(shift_px=0.0, refused=1), tmp_path / "fixed.onnx", images, image_hw, size_multiple=32)
    assert str(check.why_fixed).endswith("ONNX has no form for the detector: sizes must be known")
    assert check.num_images == 3


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


def test_a_file_with_other_angles_is_refused_and_the_check_names_how_far_they_are(tmp_path, written):
    """An axis turned by 180 degrees is the same axis; the half degree beyond is not."""
    same = export_onnx(written("axis", shift_px=0.0, turn_deg=180.05), tmp_path / "same.onnx", IMAGES, IMAGE_HW)
    assert same.angle_deg == pytest.approx(0.05, abs=1e-2)
    with pytest.raises(ExportError, match=r"in image 0 an angle of the ONNX file is 170 degrees from PyTorch's"):
        export_onnx(written("directed", shift_px=0.0, turn_deg=170.4), tmp_path / "x.onnx", IMAGES, IMAGE_HW)
    with pytest.raises(ExportError, match=r"is 0\.\d+ degrees from PyTorch's: nothing was written"):
        export_onnx(written("axis", shift_px=0.0, turn_deg=180.5), tmp_path / "x.onnx", IMAGES, IMAGE_HW)
    assert [each.name for each in tmp_path.iterdir()] == ["same.onnx"]
