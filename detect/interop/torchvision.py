"""Importing torchvision where its compiled operators are missing.

A torchvision wheel beside a torch of another build (CPU-only, say) cannot load its compiled operators, and then fails to
import at all: it adds to the schemas of ``torchvision::nms`` and ``torchvision::qnms``, which only the operators define.
With those schemas declared, everything written in Python works; what needs a compiled operator still says so when called.
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
    if not _operators_load(Path(spec.origin).parent):
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)  # type: ignore[no-untyped-call]
        _declared.append(library)
    return importlib.import_module("torchvision")


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
