"""Priors, heads and targets of object detectors, made from the data at hand.

The public names are those of ``__init__.pyi``; each is imported when it is first used. Names of version 0.1 that moved or
changed are still found, with a DeprecationWarning, for one release.
"""

import importlib
import warnings
from typing import Any

import lazy_loader

_find_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

DEPRECATED = {
    "AnchorGrid": "anchors.generator.AnchorGenerator",
    "Coverage": "anchors.metrics.AnchorMetrics",
    "Detections": "heads.postprocess.Detections",
    "EuclideanKMeans": "fitting.clustering.EuclideanKMeans",
    "HeadOutput": "heads.retinanet.HeadOutput",
    "HeatmapTargets": "keypoints.targets.HeatmapTargets",
    "Landmarks": "keypoints.keypoints.Keypoints",
    "LogGaussianMixture": "fitting.mixture.LogGaussianMixture",
    "OptimalAnchors": "fitting.search.OptimalAnchors",
    "Peaks": "keypoints.peaks.Peaks",
    "PointScores": "evaluation.points.PointScores",
    "ShapeHistogram": "anchors.histogram.ShapeHistogram",
    "box_landmarks": "keypoints.coco_keypoints.box_keypoints",
    "ceiling": "evaluation.oracle.oracle_round_trip",
    "coverage": "anchors.metrics.anchor_metrics",
    "k_curve": "fitting.fit.k_curve",
    "keypoint_landmarks": "keypoints.coco_keypoints.coco_keypoints",
    "level_preference": "anchors.levels.level_report",
    "match_points": "evaluation.point_matching.match_points",
    "optimal_anchors": "fitting.search.optimal_anchors",
    "split_crowds": "keypoints.split_peaks.split_peaks",
}
"""Where the public names of version 0.1 are now, below this package."""


def __getattr__(name: str) -> Any:
    if name not in DEPRECATED:
        return _find_public(name)
    module, _, current = DEPRECATED[name].rpartition(".")
    warnings.warn(
        f"detect.{name} is detect.{module}.{current} now; the name detect.{name} will be removed in the next release",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(importlib.import_module(f"{__name__}.{module}"), current)
