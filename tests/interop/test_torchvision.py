from __future__ import annotations

import subprocess
import sys

import pytest

from detect.errors import MissingExtraError
from detect.interop import torchvision as module
from detect.interop.torchvision import import_torchvision


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
        "m.import_torchvision()\n"
        "assert m._declared == []\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_torchvision_names_the_extra(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'detect-heads\[backbones\]'"):
        import_torchvision()
