from __future__ import annotations

import subprocess
import sys


def test_the_package_runs_as_a_module():
    run = subprocess.run([sys.executable, "-m", "detect", "--help"], capture_output=True, text=True, check=True)
    assert "anchors" in run.stdout
    assert "heatmaps" in run.stdout
