"""Target maps of 64 images, beside the functions that MMPose, MMDetection and CenterNet draw theirs with.

Bells of sigma 2 in windows of 13 x 13 cells. CenterNet itself is no package: its draw_umich_gaussian is PaddleDetection's.
Of each package only the file with the function is loaded; MMPose's maps are not put together into a batch, ours are.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import Table, report_median

NUM_IMAGES = 64
SIGMA = 2.0
CASES = {"128_many": (128, 1, 300), "128_few": (128, 1, 10), "512_many": (512, 1, 300), "512_few": (512, 1, 10)}
NOWHERE = Path()


def _points(case: str) -> tuple[int, list[np.ndarray]]:
    """Cells to a side, and points (n, 2) of each image, in cells."""
    size, least, most = CASES[case]
    random = np.random.default_rng(0)
    return size, [random.uniform(0, size - 1, (n, 2)) for n in random.integers(least, most + 1, NUM_IMAGES)]


def _load(package: str, file: str, install: str) -> Any:
    """One file of a package, without what the package loads beside it."""
    found = importlib.util.find_spec(package)
    if found is None or found.submodule_search_locations is None:
        raise SystemExit(f"{package} is not installed: pip install --no-deps {install}")
    sys.modules.setdefault("cv2", types.ModuleType("cv2"))  # imported there, and not used by what is measured
    spec = importlib.util.spec_from_file_location(Path(file).stem, Path(found.submodule_search_locations[0]) / file)
    if spec is None or spec.loader is None:
        raise SystemExit(f"this {package} has no {file}: pip install --no-deps {install}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def targets_ours(case: str, _: Path, *, tensors: bool = False) -> None:
    """Maps, and with them positives, offsets, weights and counts."""
    from detect.keypoints.targets import render_heatmaps

    size, points = _points(case)
    given = [torch.from_numpy(each) for each in points] if tensors else points
    report_median(lambda: render_heatmaps(given, (size, size), stride=1, sigma=SIGMA))


def targets_mmpose(case: str, _: Path, *, udp: bool = False) -> None:
    """Instances of one keypoint type: MMPose's own codecs refuse more than one, these functions do not."""
    codecs = _load("mmpose", "codecs/utils/gaussian_heatmap.py", "mmpose==1.3.2")
    draw = codecs.generate_udp_gaussian_heatmaps if udp else codecs.generate_gaussian_heatmaps
    size, points = _points(case)
    images = [(each[:, None], np.ones((len(each), 1), np.float32)) for each in points]
    report_median(lambda: [draw((size, size), each, visible, SIGMA) for each, visible in images])


def targets_centernet(case: str, _: Path) -> None:
    helper = _load("ppdet", "data/transform/op_helper.py", "paddledet==2.6.0")
    size, points = _points(case)

    def work() -> np.ndarray:
        maps = np.zeros((NUM_IMAGES, size, size), np.float32)
        for heatmap, of_image in zip(maps, points, strict=True):
            for center in of_image:
                helper.draw_umich_gaussian(heatmap, center, int(3 * SIGMA))
        return maps

    report_median(work)


def targets_mmdet(case: str, _: Path) -> None:
    target = _load("mmdet", "models/utils/gaussian_target.py", "mmdet==3.3.0")
    size, points = _points(case)

    def work() -> torch.Tensor:
        maps = torch.zeros(NUM_IMAGES, size, size)
        for heatmap, of_image in zip(maps, points, strict=True):
            for x, y in of_image.astype(int).tolist():
                target.gen_gaussian_target(heatmap, [x, y], int(3 * SIGMA))
        return maps

    report_median(work)


WORK: dict[str, Callable[[Path], None]] = {}
for _case in CASES:
    WORK |= {
        f"targets_ours_{_case}": partial(targets_ours, _case),
        f"targets_tensors_{_case}": partial(targets_ours, _case, tensors=True),
        f"targets_mmpose_{_case}": partial(targets_mmpose, _case),
        f"targets_udp_{_case}": partial(targets_mmpose, _case, udp=True),
        f"targets_centernet_{_case}": partial(targets_centernet, _case),
        f"targets_mmdet_{_case}": partial(targets_mmdet, _case),
    }


def tables() -> list[Table]:
    """What to compare."""
    return [
        Table(
            f"Heatmap targets, {NUM_IMAGES} images of {size} x {size} cells with {least} to {most} points",
            NOWHERE,
            {
                f"targets_ours_{case}": "detect render_heatmaps, arrays",
                f"targets_tensors_{case}": "detect render_heatmaps, tensors",
                f"targets_mmpose_{case}": "MMPose generate_gaussian_heatmaps",
                f"targets_udp_{case}": "MMPose generate_udp_gaussian_heatmaps",
                f"targets_centernet_{case}": "CenterNet draw_umich_gaussian, of PaddleDetection",
                f"targets_mmdet_{case}": "MMDetection gen_gaussian_target",
            },
            extra_memory=True,
        )
        for case, (size, least, most) in CASES.items()
    ]
