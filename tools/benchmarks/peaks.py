"""Peaks of heatmaps beside the decoding of CenterNet, in PyTorch operators: 16 maps of 512 x 512 with 100 spots each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measuring import Table, report_median

NUM_IMAGES, SIZE, NUM_SPOTS, SIGMA = 16, 512, 100, 2.0
NOWHERE = Path()


def _heatmaps() -> Tensor:
    random = torch.Generator().manual_seed(0)
    points = torch.rand(NUM_IMAGES, NUM_SPOTS, 2, generator=random) * (SIZE - 1)
    cells = torch.arange(float(SIZE))
    heatmaps = torch.zeros(NUM_IMAGES, 1, SIZE, SIZE)
    for image, spots in enumerate(points):
        along = torch.exp(-((cells - spots[:, :, None]) ** 2) / (2 * SIGMA**2))
        for along_x, along_y in along:
            heatmaps[image, 0] = torch.maximum(heatmaps[image, 0], along_y[:, None] * along_x)
    return heatmaps


def peaks_ours(_: Path, *, refine: str) -> None:
    from detect.keypoints.peaks import find_peaks

    heatmaps = _heatmaps()
    report_median(lambda: find_peaks(heatmaps, refine=refine), repeats=15)


def peaks_centernet(_: Path) -> None:
    """lib/models/decode.py of CenterNet: maxima of 3 x 3, the top 100 of each class, and the top 100 of these."""
    heatmaps = _heatmaps()

    def decode() -> tuple[Tensor, Tensor, Tensor]:
        highest = functional.max_pool2d(heatmaps, 3, stride=1, padding=1)
        kept = heatmaps * (highest == heatmaps).float()
        of_class, cells = torch.topk(kept.view(NUM_IMAGES, 1, -1), NUM_SPOTS)
        scores, rows = torch.topk(of_class.view(NUM_IMAGES, -1), NUM_SPOTS)
        cells = cells.view(NUM_IMAGES, -1).gather(1, rows)
        return scores, cells % SIZE, cells // SIZE

    report_median(decode, repeats=15)


WORK: dict[str, Callable[[Path], None]] = {
    "peaks_ours": partial(peaks_ours, refine="none"),
    "peaks_refined": partial(peaks_ours, refine="least_squares"),
    "peaks_centernet": peaks_centernet,
}


def tables() -> list[Table]:
    """What to compare."""
    names = {
        "peaks_ours": 'detect find_peaks, refine="none"',
        "peaks_refined": "detect find_peaks, with weighted least squares and covariances",
        "peaks_centernet": "CenterNet's decoding: max-pooling, equality, top-k",
    }
    return [Table("Peaks of 16 maps of 512 x 512 cells with 100 spots each", NOWHERE, names, extra_memory=True)]
