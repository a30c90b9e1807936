"""Importing torchvision where its compiled operators are missing.

A torchvision wheel beside a torch of another build (CPU-only, say) cannot load its compiled operators, and then fails to
import at all: it adds to the schemas of ``torchvision::nms`` and ``torchvision::qnms``, which only the operators define.
With those schemas declared, and :mod:`detect.nms` behind the first, everything written in Python works, detectors
included; what needs another compiled operator still says so when called.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

from detect.errors import MissingExtraError
from detect.nms import class_nms

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a library's schemas live as long as it does


def import_torchvision() -> ModuleType:
    """torchvision, untouched where it is healthy.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"]
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise MissingExtraError("torchvision is not installed: pip install 'detect-heads[backbones]'")
    # look before the import: one that fails leaves its schemas half registered
    if _operators_load(Path(spec.origin).parent):
        return importlib.import_module("torchvision")
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    library.impl("nms", _nms, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]  # on every device
    _declared.append(library)
    module = importlib.import_module("torchvision")
    module.ops.boxes._assert_has_ops = _assert_has_ops  # for nms alone: other operators stay missing
    return module


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    return class_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), iou_threshold)


def _assert_has_ops() -> None:
    """In place of torchvision's check before ``nms``."""


def _operators_load(folder: Path) -> bool:
    for suffix in (*EXTENSION_SUFFIXES, ".pyd"):
        extension = folder / f"_C{suffix}"
        if extension.exists():
            try:
                torch.ops.load_library(extension)  # type: ignore[no-untyped-call]
            except (ImportError, OSError):
                return False
            return True
    return False
