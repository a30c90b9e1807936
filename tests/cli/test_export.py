"""``detect export`` as a user types it; the exporter itself runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from detect.anchors.anchor_set import AnchorSet
from detect.data.images import open_image
from detect.samples import sample_annotations
from detect.training.checkpoints import load_detector

NUCLEI = sample_annotations("nuclei")
IMAGES = NUCLEI.parent / "images"
ONE: dict[str, Any] = {"names": {1: "nucleus"}, "threshold": 0.0095}


def export(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "detect", "export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_landmarks_go_to_a_file_that_gives_the_same_heatmaps(tmp_path, trained):
    import onnxruntime

    run = trained("landmarks", **ONE)
    done = export(run, "-o", tmp_path / "out", "--images", IMAGES, "--num-images", 3, "--json")
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "out" / "detector.json").read_text("utf-8"))
    assert about == json.loads(done.stdout)
    assert (about["checked_images"], about["input_hw"], about["landmarks"]) == (3, [128, 128], ["nucleus"])
    assert about["found"] > 0
    picture = np.asarray(open_image(IMAGES, sorted(path.name for path in IMAGES.iterdir())[-1]), np.float32) / 255
    images = picture[None, None]
    (heatmaps,) = onnxruntime.InferenceSession(str(tmp_path / "out" / "detector.onnx")).run(None, {"images": images})
    with torch.no_grad():
        wanted = load_detector(run).model(torch.from_numpy(images)).logits.sigmoid()
    torch.testing.assert_close(torch.from_numpy(heatmaps), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_boxes_go_to_a_file_checked_on_the_validation_images(tmp_path, trained):
    done = export(trained("boxes", **ONE), "-o", tmp_path / "out", "--num-images", 4)
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "out" / "detector.json").read_text("utf-8"))
    assert (about["checked_images"], about["found"] > 0) == (4, True)
    assert about["largest_difference_px"] < 0.05
    assert about["classes"] == [{"category_id": 1, "name": "nucleus"}]
    assert "verified on 4 images" in done.stderr


def test_torchvision_s_weights_load_into_its_own_retinanet(detect, tmp_path, trained):
    from detect.ops.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision.models import resnet18
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    strides = (8, 16, 32, 64, 128)
    anchors = AnchorSet.of([[(4 * stride, 4 * stride)] for stride in strides], strides=strides)
    fields = {"backbone": "torchvision:resnet18", "num_convs": 4, "pyramid_channels": 256, "norm": None}
    folder = trained("boxes", anchors=anchors, data={"channels": 3}, **ONE, **fields)
    run = detect("export", folder, "--to", "torchvision", "-o", tmp_path)
    assert run.code == 0, run.err
    extractor = _resnet_fpn_extractor(resnet18(), 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(512, 256))
    sizes = AnchorGenerator(tuple((4 * stride,) for stride in strides), ((1.0,),) * 5)
    model = RetinaNet(extractor, 1, anchor_generator=sizes)
    missing = model.load_state_dict(torch.load(tmp_path / "torchvision.pt", weights_only=True), strict=False)
    assert [name for name in missing.missing_keys if "num_batches_tracked" not in name] == []
    assert [name for name in missing.unexpected_keys if ".fc." not in name] == []
    assert any("image_mean" in note for note in json.loads((tmp_path / "detector.json").read_text("utf-8"))["notes"])


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("boxes", ["--to", "torchvision"], "ResNets"),
        ("landmarks", ["--to", "torchvision"], "no landmark detector"),
        ("boxes", ["--images", "nowhere"], "nowhere: No such file"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(detect, tmp_path, task, options, message, trained):
    run = detect("export", trained(task, **ONE), "-o", tmp_path / "out", *options)
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert message in run.err
    assert not (tmp_path / "out").exists()
