"""Shapes and types in annotations are checked in every test and doctest, for its first half second.

The command line, which has no such annotations, is left out. The checks take more than half the time of a test; a test that
runs for longer calls the same functions again and again.
"""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Iterator
from threading import Timer

import jaxtyping
import pytest
from jaxtyping import install_import_hook

import detect

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: threads would wait for each other longer than they work

CHECKED_SECONDS = 0.5
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"  # an int will do for a float

modules = [f"detect.{module.name}" for module in pkgutil.iter_modules(detect.__path__)]
install_import_hook([name for name in modules if name not in ("detect.cli", "detect.__main__")], CHECKER)

from detect.ops.torchvision_import import import_torchvision  # noqa: E402 - checked like the others, so after the hook

import_torchvision()  # tests import torchvision as users do, with compiled operators or without


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Stop the checks of a test after ``CHECKED_SECONDS``."""
    before = jaxtyping.config.jaxtyping_disable
    timer = Timer(CHECKED_SECONDS, setattr, (jaxtyping.config, "jaxtyping_disable", True))
    timer.start()
    try:
        return (yield)
    finally:
        timer.cancel()
        timer.join()
        jaxtyping.config.jaxtyping_disable = before
