from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detect.errors import MissingExtraError
from detect.ops import torchvision_import as module
from detect.ops.nms import nms
from detect.ops.torchvision_import import import_torchvision

LIBRARIES = ("_C.so", "_C_stable.so", "_C_of_a_later_release.so")  # up to 0.28, since 0.29, and who knows

# A torchvision as small as it can be: it loads the library that it looks for, and adds to the schemas of two operators.
SMALL_TORCHVISION = {
    "__init__.py": """
import os
if os.environ.get("BREAKS"):
    raise ImportError("no Pillow")
from . import extension, registrations, ops
""",
    "extension.py": """
from pathlib import Path
import torch
try:
    torch.ops.load_library(Path(__file__).with_name("LIBRARY"))
except OSError:
    loaded = False
else:
    loaded = True
def _assert_has_ops():
    if not loaded:
        raise RuntimeError("no operators")
""",
    "registrations.py": """
import torch
for name in ("nms", "qnms"):
    torch.library.register_fake(f"torchvision::{name}", lambda dets, scores, iou_threshold: dets.new_empty(0))
""",
    "ops/__init__.py": "from . import boxes",
    "ops/boxes.py": """
import torch
from ..extension import _assert_has_ops
def nms(boxes, scores, threshold):
    _assert_has_ops()
    return torch.ops.torchvision.nms(boxes, scores, threshold)
""",
}

# Loading a library defines its schemas, the first time only; one that was built for another torch raises an OSError.
# Where a real library would now abort the interpreter, torch.library raises an error.
LOADING = """
import torch
loaded = {}
def load_library(path):
    if path.read_text() != "healthy":
        raise OSError(f"{path}: undefined symbol")
    if path.name not in loaded:
        library = loaded[path.name] = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.impl(name, lambda dets, scores, iou_threshold: torch.tensor([7]), "CPU")
torch.ops.load_library = load_library
boxes, scores = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]]), torch.tensor([0.5, 0.6])
from detect.ops.torchvision_import import import_torchvision
"""


@pytest.fixture
def run(fresh_python) -> Callable[..., str]:
    """Run code in an interpreter of its own, where these folders are looked in first."""
    return lambda code, *folders: fresh_python(f"import sys\nsys.path[:0] = {list(map(str, folders))}\n{code}")


def small_torchvision(folder: Path, library: str) -> Path:
    for name, text in SMALL_TORCHVISION.items():
        path = folder / "torchvision" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("LIBRARY", library))
    return folder


@pytest.mark.parametrize(
    "way_in",
    [
        "from detect import import_head; import_head",
        "from detect.detectors.backbones import build_backbone\nbuild_backbone('timm:resnet10t', strides=(8,), seed=0)",
    ],
    ids=["import_head", "timm"],
)
def test_no_way_in_aborts_the_interpreter(way_in, run):
    run(way_in)


OWN, STAND_IN = 7, 1  # what the small library keeps, and what suppression does


@pytest.mark.parametrize(
    ("wanted", "present", "content", "kept"),
    [
        *((library, library, "healthy", OWN) for library in LIBRARIES),
        *((library, library, "built for another torch", STAND_IN) for library in LIBRARIES[:2]),
        ("_C_stable.so", "_C.so", "healthy", STAND_IN),  # of another release, which this one does not look for
    ],
)
def test_only_operators_that_do_not_load_have_a_stand_in(tmp_path, wanted, present, content, kept, run):
    folder = small_torchvision(tmp_path, wanted)
    (folder / "torchvision" / present).write_text(content)
    run(LOADING + f"assert import_torchvision().ops.boxes.nms(boxes, scores, 0.5).tolist() == [{kept}]", folder)


def test_an_import_that_fails_can_be_tried_again(tmp_path, run):
    folder = small_torchvision(tmp_path, "_C.so")
    code = """
import os
os.environ["BREAKS"] = "1"
try:
    import_torchvision()
except ImportError as error:
    assert str(error) == "no Pillow", error
else:
    raise AssertionError("it did not fail")
assert "torchvision" not in sys.modules
del os.environ["BREAKS"]
assert import_torchvision().ops.boxes.nms(boxes, scores, 0.5).tolist() == [1]
"""
    run(LOADING + code, folder)


def test_threads_that_import_at_once_all_get_the_whole_package(tmp_path, run):
    folder = small_torchvision(tmp_path, "_C.so")
    slow = folder / "torchvision" / "extension.py"
    slow.write_text("import time\ntime.sleep(0.5)\n" + slow.read_text())
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as threads:
    kept = list(threads.map(lambda _: import_torchvision().ops.boxes.nms(boxes, scores, 0.5).tolist(), range(4)))
assert kept == [[1]] * 4, kept
"""
    run(LOADING + code, folder)


def test_a_missing_torchvision_names_the_extra(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'detect-heads\[backbones\]'"):
        import_torchvision()


def test_operators_that_are_missing_still_say_so():
    torchvision = import_torchvision()
    from torchvision.ops import roi_pool

    features, boxes = torch.zeros(1, 1, 8, 8), [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
    if torchvision.extension._has_ops():
        assert roi_pool(features, boxes, output_size=2).shape == (1, 1, 2, 2)
    else:
        with pytest.raises(RuntimeError, match=r"Couldn't load custom C\+\+ ops"):
            roi_pool(features, boxes, output_size=2)


def test_the_stand_in_serves_every_device_and_does_not_call_itself():
    if import_torchvision().extension._has_ops():
        pytest.skip("torchvision's compiled operators are loaded")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "CompositeExplicitAutograd")
    boxes, scores = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]]), torch.tensor([0.5, 0.6])
    assert (
        nms(boxes, scores, iou_threshold=0.5).tolist() == torch.ops.torchvision.nms(boxes, scores, 0.5).tolist() == [1]
    )
