"""Import torchvision, with a stand-in for ``nms`` if its compiled operators cannot be loaded.

A torchvision wheel cannot load its compiled operators beside another build of torch (CPU-only, for example). Its import then
fails, because it registers fake kernels for ``torchvision::nms`` and ``torchvision::qnms``, whose schemas only the operators
define. If those schemas are declared, and :mod:`detect.ops.nms` implements the first, everything written in Python works,
detectors included. An operator without a stand-in still raises torchvision's own error when it is called.

Declaring a schema twice aborts the interpreter. So torchvision first loads its library itself, whatever its file is called
(``_C*.so`` before release 0.29, ``_C_stable*.so`` since), and a schema is declared only if it is still missing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType

import torch

from detect.errors import MissingExtraError
from detect.ops.nms import class_nms

_declared: list[torch.library.Library] = []  # a library's schemas live as long as it does
_importing = RLock()


def import_torchvision() -> ModuleType:
    """The package torchvision, unchanged if its compiled operators load.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    with _importing:
        if "torchvision" not in sys.modules:
            spec = find_spec("torchvision")
            if spec is None or spec.origin is None:
                raise MissingExtraError("torchvision is not installed: pip install 'detect-heads[backbones]'")
            _import_from(spec)
        return import_module("torchvision")


def _import_from(spec: ModuleSpec) -> None:
    """Import torchvision in two steps: the module that loads its operators, then the package."""
    assert spec.loader is not None  # noqa: S101 - a package with a file has one
    package = sys.modules["torchvision"] = module_from_spec(spec)
    try:
        import_module("torchvision.extension")
        if not hasattr(torch.ops.torchvision, "nms"):
            _declare_schemas()
        spec.loader.exec_module(package)
    except BaseException:
        del sys.modules["torchvision"]
        raise
    if _declared:
        package.ops.boxes._assert_has_ops = lambda: None  # torchvision's check before nms, which has a stand-in


def _declare_schemas() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    library.impl("nms", _nms, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]  # on every device
    _declared.append(library)


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    return class_nms(boxes, scores, classes=torch.zeros_like(scores, dtype=torch.int64), iou_threshold=iou_threshold)
