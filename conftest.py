"""Shapes and types in annotations are checked in every test and doctest; the command line, which has none, is left out."""

from __future__ import annotations

import os
import pkgutil

from jaxtyping import install_import_hook

import detect

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: threads would wait for each other longer than they work

CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"  # an int will do for a float

modules = [f"detect.{module.name}" for module in pkgutil.iter_modules(detect.__path__)]
install_import_hook([name for name in modules if name not in ("detect.cli", "detect.__main__")], CHECKER)

from detect.ops.torchvision_import import import_torchvision  # noqa: E402 - checked like the others, so after the hook

import_torchvision()  # tests import torchvision as users do, with compiled operators or without
