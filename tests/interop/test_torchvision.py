from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from detect.errors import MissingExtraError
from detect.interop import torchvision as module
from detect.interop.torchvision import import_torchvision
from detect.nms import _has_kernel


def test_torchvision_is_imported_and_works_where_its_operators_are_missing():
    import_torchvision()
    from torchvision.models.detection import retinanet_resnet50_fpn

    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    assert model.head.classification_head.num_classes == 91


def test_a_second_import_is_the_first(monkeypatch):
    assert import_torchvision() is import_torchvision()


def test_a_healthy_torchvision_is_left_alone():
    # in a process of its own: with operators that load, nothing is declared
    code = (
        "import detect.interop.torchvision as m, sys, types\n"
        "m._operators_load = lambda folder: True\n"
        "m.importlib.import_module = lambda name: types.ModuleType(name)\n"
        "module = m.import_torchvision()\n"
        "assert m._declared == [] and vars(module).keys() == vars(types.ModuleType('torchvision')).keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_torchvision_names_the_extra(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'detect-heads\[backbones\]'"):
        import_torchvision()


def test_a_retinanet_detects_as_a_user_would_run_it():
    # in a process of its own; a fresh model gives every class the score .01
    code = (
        "from detect.interop.torchvision import import_torchvision\n"
        "import_torchvision()\n"
        "import torch\n"
        "from torchvision.models.detection import retinanet_resnet50_fpn\n"
        "from torchvision.ops import batched_nms, nms\n"
        "sizes = {'min_size': 96, 'max_size': 128, 'score_thresh': 0.005}\n"
        "model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, **sizes).eval()\n"
        "with torch.inference_mode():\n"
        "    found = model([torch.rand(3, 60, 80)])[0]\n"
        "assert found['boxes'].shape == (300, 4), found['boxes'].shape\n"
        "assert found['boxes'].min() >= 0 and found['boxes'].amax(0).tolist() <= [80, 60, 80, 60]\n"
        "assert found['scores'].diff().max() <= 0 < found['scores'].min()\n"
        "boxes, scores = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]]), torch.tensor([0.5, 0.6])\n"
        "assert nms(boxes, scores, 0.5).tolist() == [1]\n"
        "assert batched_nms(boxes, scores, torch.tensor([0, 1]), 0.5).tolist() == [1, 0]\n"
        "with torch.autocast('cpu'):\n"
        "    assert nms(boxes.bfloat16(), scores.bfloat16(), 0.5).tolist() == [1]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_operators_that_are_missing_still_say_so():
    import_torchvision()
    from torchvision.ops import roi_pool

    features, boxes = torch.zeros(1, 1, 8, 8), [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
    if module._declared:
        with pytest.raises(RuntimeError, match=r"Couldn't load custom C\+\+ ops"):
            roi_pool(features, boxes, output_size=2)
    else:
        assert roi_pool(features, boxes, output_size=2).shape == (1, 1, 2, 2)


def test_the_stand_in_serves_every_device_and_is_not_taken_for_a_kernel():
    import_torchvision()
    if not module._declared:
        pytest.skip("torchvision's compiled operators are loaded")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "CompositeExplicitAutograd")
    assert not _has_kernel(torch.zeros(1, 4), torch.zeros(1))
