"""``detect demo`` as a user types it."""

from __future__ import annotations

import subprocess
import sys


def test_the_demo_fits_scores_and_draws(tmp_path):
    command = [sys.executable, "-m", "detect", "demo", "-o", str(tmp_path / "demo")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    for sample in ("bccd", "nuclei"):
        folder = tmp_path / "demo" / sample
        assert (folder / "anchors.yaml").exists()
        assert (folder / "report.html").stat().st_size > 1_000_000  # plotly is inside
    assert "retinanet" in run.stdout
    assert "yolov3-coco" in run.stdout
    assert "average IoU" in run.stdout
    assert "report.html" in run.stdout
