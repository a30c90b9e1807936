"""Peaks of heatmaps beside the decoding of CenterNet, in PyTorch operators, max-pooling and scikit-image.

Maps of few spots, of ones, and of 100,000 spots; and what crowds cost: splitting, matching, ignored regions, the oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measuring import Table, report_median

SIGMA = 2.0
THRESHOLD = 0.3
FEW = (16, 512, 100)  # maps, cells to a side, spots of each
MANY = (1, 4096, 100_000)
NOWHERE = Path()


def _heatmaps(size: tuple[int, int, int]) -> Tensor:
    """Gaussians at random places."""
    from detect.keypoints.targets import render_heatmaps

    num_maps, side, num_spots = size
    points = [*np.random.default_rng(0).uniform(0, side - 1, (num_maps, num_spots, 2))]
    return torch.from_numpy(render_heatmaps(points, (side, side), stride=1, sigma=SIGMA, window=4.0).heatmaps)


def _ones() -> Tensor:
    return torch.ones(FEW[0], 1, FEW[1], FEW[1])


def ours(maps: Callable[[], Tensor], refine: str, _: Path) -> None:
    """Points of all maps."""
    from detect.keypoints.peaks import find_peaks

    heatmaps = maps()
    report_median(lambda: find_peaks(heatmaps, threshold=THRESHOLD, refine=refine))


def centernet(maps: Callable[[], Tensor], num_spots: int, _: Path) -> None:
    """lib/models/decode.py of CenterNet: maxima of 3 x 3, the top of each class, and the top of these."""
    heatmaps = maps()
    size = heatmaps.shape[-1]

    def decode() -> tuple[Tensor, Tensor, Tensor]:
        highest = functional.max_pool2d(heatmaps, 3, stride=1, padding=1)
        kept = heatmaps * (highest == heatmaps).float()
        of_class, cells = torch.topk(kept.view(len(heatmaps), 1, -1), num_spots)
        scores, rows = torch.topk(of_class.view(len(heatmaps), -1), num_spots)
        cells = cells.view(len(heatmaps), -1).gather(1, rows)
        return scores, cells % size, cells // size

    report_median(decode)


def max_pool(_: Path) -> None:
    heatmaps = _ones()
    report_median(lambda: functional.max_pool2d(heatmaps, 3, stride=1, padding=1))


def scikit_image(_: Path) -> None:
    try:
        from skimage.feature import peak_local_max
    except ImportError:
        raise SystemExit("scikit-image is not installed: pip install scikit-image") from None
    heatmap = _heatmaps(MANY)[0, 0].numpy()
    report_median(lambda: peak_local_max(heatmap, min_distance=1, threshold_abs=THRESHOLD, exclude_border=False))


def _crowd(num_points: int, apart: float) -> np.ndarray:
    """Points on a grid of cells ``apart`` wide, each moved at random by up to a tenth of that."""
    side = int(num_points**0.5)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 2), axis=-1).reshape(-1, 2) + 0.5
    return (grid + np.random.default_rng(0).uniform(-0.1, 0.1, grid.shape)) * apart


def split(num_points: int, apart: float, noise: float, _: Path, *, is_split: bool = True) -> None:
    """Points of a crowded map, close ones separated."""
    from detect.keypoints.peaks import find_peaks
    from detect.keypoints.targets import render_heatmaps

    points = _crowd(num_points, apart)
    side = int(points.max() + apart)
    maps = torch.from_numpy(render_heatmaps([points], (side, side), stride=1, sigma=SIGMA, window=4.0).heatmaps)
    maps += noise * torch.randn(maps.shape, generator=torch.Generator().manual_seed(0))
    report_median(lambda: find_peaks(maps, threshold=THRESHOLD, split=is_split, sigma=SIGMA), repeats=3)


def match(num_points: int, _: Path) -> None:
    """Predictions two cells around the truth, whatever the number at the same density."""
    from detect.evaluation.point_matching import match_points

    truth = _crowd(num_points, 6.0)
    predicted = truth + np.random.default_rng(1).normal(0, 2, truth.shape)
    report_median(lambda: match_points(predicted, truth, radius=5.0), repeats=3)


def ignore(num_points: int, _: Path) -> None:
    """Predictions of one image with one ignored region over a quarter of it."""
    from detect.evaluation.predicted_points import are_counted

    points = _crowd(num_points, 6.0)
    region = np.array([[0.0, 0.0, *points.max(axis=0) / 2]])
    group = np.zeros(len(points), np.int64)
    report_median(lambda: are_counted(points, group, [points[::2]], [region], 5.0), repeats=3)


def oracle(num_points: int, _: Path) -> None:
    """Twelve settings of one image."""
    from detect.cli.evaluation_results import round_trips
    from detect.data import read_coco
    from detect.keypoints.coco_keypoints import coco_keypoints

    points = _crowd(num_points, 12.0)
    side = int(points.max() + 12)
    entries = [
        {"id": number, "image_id": 1, "category_id": 1, "num_keypoints": 1, "keypoints": [x, y, 2]}
        for number, (x, y) in enumerate(points.tolist(), 1)
    ]
    category = {"id": 1, "name": "cell", "keypoints": ["middle"]}
    image = {"id": 1, "width": side, "height": side, "file_name": "a.png"}
    content = {"images": [image], "categories": [category], "annotations": entries}
    landmarks = coco_keypoints(read_coco(content, keypoints=True))
    settings = [2.0, 4.0, 8.0], [1.0, 1.5, 2.0, 3.0]
    report_median(lambda: round_trips(landmarks, *settings, radius=3.0, threshold=THRESHOLD, split=True), repeats=1)


_few, _many = partial(_heatmaps, FEW), partial(_heatmaps, MANY)
WORK: dict[str, Callable[[Path], None]] = {
    "few_ours": partial(ours, _few, "none"),
    "few_refined": partial(ours, _few, "least_squares"),
    "few_centernet": partial(centernet, _few, FEW[2]),
    "ones_pool": max_pool,
    "ones_ours": partial(ours, _ones, "none"),
    "many_ours": partial(ours, _many, "none"),
    "many_refined": partial(ours, _many, "least_squares"),
    "many_centernet": partial(centernet, _many, MANY[2]),
    "many_skimage": scikit_image,
    "crowd_whole": partial(split, 900, 128 / 30, 0.0, is_split=False),
    "crowd_900": partial(split, 900, 128 / 30, 0.0),
    "crowd_3600": partial(split, 3600, 128 / 30, 0.0),
    "crowd_noisy": partial(split, 1500, 3.2, 0.05),
    "match_10000": partial(match, 10_000),
    "match_100000": partial(match, 100_000),
    "ignore_20000": partial(ignore, 20_000),
    "oracle_8000": partial(oracle, 8000),
}


def tables() -> list[Table]:
    """What to compare."""
    refined = "detect find_peaks, with weighted least squares and covariances"
    centernet_words = "CenterNet's decoding: max-pooling, equality, top-k"
    few = {"few_ours": 'detect find_peaks, refine="none"', "few_refined": refined, "few_centernet": centernet_words}
    ones = {"ones_pool": "torch max_pool2d alone", "ones_ours": 'detect find_peaks, refine="none"'}
    many = {
        "many_ours": 'detect find_peaks, refine="none"',
        "many_refined": refined,
        "many_centernet": centernet_words,
        "many_skimage": "scikit-image peak_local_max",
    }
    crowds = {
        "crowd_whole": "find_peaks: 900 points, 4.3 cells apart at sigma 2",
        "crowd_900": "the same with split=True",
        "crowd_3600": "3,600 points with split=True",
        "crowd_noisy": "1,444 points, 3.2 cells apart, noise .05, with split=True",
        "match_10000": "match_points: 10,000 points",
        "match_100000": "match_points: 100,000 points",
        "ignore_20000": "20,000 points beside one ignored region",
        "oracle_8000": "the oracle of 8,000 points at 12 settings",
    }
    maps = "Peaks of {} maps of {} x {} cells".format
    return [
        Table(f"{maps(FEW[0], FEW[1], FEW[1])} with {FEW[2]} spots each", NOWHERE, few, extra_memory=True),
        Table(f"{maps(FEW[0], FEW[1], FEW[1])} that are 1 everywhere", NOWHERE, ones, extra_memory=True),
        Table(
            f"Peaks of a map of {MANY[1]} x {MANY[1]} cells with {MANY[2]:,} spots", NOWHERE, many, extra_memory=True
        ),
        Table("Crowds of points", NOWHERE, crowds, extra_memory=True),
    ]
