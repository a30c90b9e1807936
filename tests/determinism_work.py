"""What the tests of determinism run in other threads and processes: commands, and the public API."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np

import detect
from detect.evaluation.boxes import evaluate_boxes


def commands_printed(commands: dict[str, list[str]]) -> dict[str, str]:
    """What each command prints."""
    from detect.cli.app import main

    printed = {}
    for name, words in commands.items():
        sys.argv, text = ["detect", *words], io.StringIO()
        with redirect_stdout(text), suppress(SystemExit):
            main()
        printed[name] = text.getvalue()  # of a command that failed, nothing
    return printed


def api_answers(folder: str) -> dict[str, object]:
    """What the public functions make of the files of a folder; of arrays the digest of their bytes."""
    boxes = detect.read_dataset(f"{folder}/boxes.json")
    nuclei = detect.coco_keypoints(detect.read_dataset(f"{folder}/nuclei.json", keypoints=True))
    instances = detect.ResizedInstances.of(boxes, detect.parse_resize("letterbox:320"))
    points = [nuclei.landmarks.points[nuclei.landmarks.image == row] for row in range(len(nuclei.dataset.images))]
    return {
        "read_dataset": digest(boxes.annotations.boxes_xywh),
        "fit_anchors": detect.fit_anchors(instances, k=5).to_yaml(),
        "render_heatmaps": digest(detect.render_heatmaps(points, (128, 128)).heatmaps),
        "evaluate_boxes": asdict(evaluate_boxes(detect.read_results(f"{folder}/results.json", boxes), boxes).overall),
        "score_points": repr(detect.score_points([own + 1 for own in points], points, radius=3).micro),
        "advise": [repr(loss) for loss in detect.advise(boxes, "yolo11", size=320).losses],
    }


def digest(array: np.ndarray) -> str:
    return sha256(np.ascontiguousarray(array)).hexdigest()


if __name__ == "__main__":
    json.dump(commands_printed(json.loads(Path(sys.argv[1]).read_text("utf-8"))), sys.stdout)
