"""The app as a whole: what it imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "sklearn", "plotly", "scipy", "pandas", "pycocotools")


def printed_by(*lines: str, heavy: tuple[str, ...] = HEAVY) -> list[str]:
    """The lines that a program of its own prints, and last which heavy packages it has imported."""
    program = "\n".join([*lines, f"print([name for name in {heavy!r} if name in sys.modules])"])
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


@pytest.mark.parametrize(
    "line",
    ["--help", "--version", "anchors --help", "anchors fit --help"]
    + [f"heatmaps {command} --help" for command in ("render", "oracle", "score")],
)
def test_help_imports_nothing_heavy(line):
    app = ("import sys", "from detect.cli.app import app", f"try: app({line.split()!r})", "except SystemExit: pass")
    assert printed_by(*app, heavy=(*HEAVY, "numpy", "PIL"))[-1] == "[]"


def test_completion_imports_nothing_heavy_and_knows_the_methods():
    words = "_DETECT_COMPLETE='complete_bash', COMP_WORDS='detect anchors fit --method k', COMP_CWORD='4'"
    app = ("from detect.cli.app import app", "try: app(prog_name='detect')", "except SystemExit: pass")
    assert printed_by("import os, sys", f"os.environ.update({words})", *app) == ["kmeans", "[]"]


def test_fitting_anchors_imports_neither_torch_nor_scikit_learn():
    fit = "app(['anchors', 'fit', str(sample_annotations('nuclei')), '-k', '2'], standalone_mode=False)"
    names = ("from detect.cli.app import app", "from detect.samples import sample_annotations")
    assert printed_by("import sys", *names, fit)[-1] == "[]"


def test_importing_the_package_imports_nothing_heavy():
    assert printed_by("import sys, detect", heavy=(*HEAVY, "numpy")) == ["[]"]


INTERRUPT = """
import os, signal, sys, detect.cli.app as app
from detect.anchors import known
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
def interrupted(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)
if sys.argv.pop() == "before":
    app.forget_datasets = interrupted
else:
    known.load_anchors = interrupted
    import detect
    detect.load_anchors = interrupted
sys.argv = ["detect", "anchors", "convert", "retinanet", "--to", "yolov5"]
app.main()
"""


@pytest.mark.parametrize("moment", ["before", "in"])
def test_an_interruption_is_one_line_before_a_command_begins_and_in_it(moment):
    run = subprocess.run([sys.executable, "-c", INTERRUPT, moment], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr, run.stdout) == (130, "detect: interrupted\n", "")
