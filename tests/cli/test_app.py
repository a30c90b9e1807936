"""The app as a whole: what it imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "sklearn", "plotly", "scipy", "pandas", "pycocotools")


@pytest.mark.parametrize("arguments", [["--help"], ["anchors", "--help"], ["anchors", "fit", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from detect.cli.app import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "HEAVY []"


def test_completion_imports_nothing_heavy_and_knows_the_methods():
    code = (
        "import os, sys\n"
        "os.environ.update(_DETECT_COMPLETE='complete_bash', COMP_WORDS='detect anchors fit --method k', COMP_CWORD='4')\n"
        "from detect.cli.app import app\n"
        "try: app(prog_name='detect')\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["kmeans", "HEAVY []"]


def test_fitting_anchors_imports_neither_torch_nor_scikit_learn():
    code = (
        "import sys\n"
        "from detect.cli.app import app\n"
        "from detect.samples import sample_annotations\n"
        "app(['anchors', 'fit', str(sample_annotations('nuclei')), '-k', '2'], standalone_mode=False)\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "HEAVY []"


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, detect; print([name for name in {(*HEAVY, 'numpy')!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


INTERRUPT = """
import os, signal, sys, detect.cli.app as app
from detect.anchors import known
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
