"""Command lines in forks of this process, which has loaded the packages that they need."""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import detect

LONGEST_S = 300
PACKAGES = (
    *("captum.attr", "lightning_fabric", "onnxruntime", "onnxscript", "plotly.graph_objects", "pycocotools.cocoeval"),
    *("pyarrow.parquet", "scipy.optimize", "sklearn.mixture", "timm", "torch.onnx", "torchvision", "zarr"),
)


def load_packages() -> None:
    """Import all modules of the package, and what they import when they run."""
    for module in pkgutil.walk_packages(detect.__path__, "detect."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    for name in PACKAGES:
        with suppress(ImportError):  # an extra that is not installed: its commands will say so
            import_module(name)


@dataclass
class Run:
    """A command in a process of its own, and the file of what it writes on stderr."""

    process: int
    messages: Path
    code: int | None = None

    def poll(self) -> bool:
        """Whether it has ended."""
        if self.code is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if process else None
        return self.code is not None

    def wait(self, seconds: float = LONGEST_S) -> None:
        """Wait for the end, or for some time."""
        until = time.monotonic() + seconds
        while not self.poll() and time.monotonic() < until:
            time.sleep(0.0005)

    def signal(self, number: int) -> None:
        """Send a signal, and wait for the end."""
        if not self.poll():
            os.kill(self.process, number)
            self.wait()
        if not self.poll():
            os.kill(self.process, signal.SIGKILL)

    @property
    def text(self) -> str:
        """What it has written on stderr."""
        return self.messages.read_text("utf-8", "replace")


def start(words: Sequence[str], messages: Path) -> Run:
    """Run a command line in a fork; what it prints is dropped."""
    sys.stdout.flush()
    if child := os.fork():
        return Run(child, messages)
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, name in ((1, os.devnull), (2, str(messages))):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["detect", *words]
        code = _exit_code()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command has ended
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _exit_code() -> int:
    from detect.cli.app import main

    try:
        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
