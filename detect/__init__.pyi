from .anchors.anchor_set import AnchorSet
from .anchors.clustering import EuclideanKMeans, IoUKMeans
from .anchors.coverage import Coverage, coverage
from .anchors.fitting import fit_anchors, k_curve
from .anchors.histogram import ShapeHistogram
from .anchors.instances import ResizedInstances
from .anchors.known import load_anchors
from .anchors.mixture import LogGaussianMixture
from .coco import CocoDataset, read_coco
from .errors import DetectError
from .interop.anchor_formats import convert_anchors
from .resize import ResizeRule, parse_resize

__all__ = [
    "AnchorSet",
    "CocoDataset",
    "Coverage",
    "DetectError",
    "EuclideanKMeans",
    "IoUKMeans",
    "LogGaussianMixture",
    "ResizeRule",
    "ResizedInstances",
    "ShapeHistogram",
    "convert_anchors",
    "coverage",
    "fit_anchors",
    "k_curve",
    "load_anchors",
    "parse_resize",
    "read_coco",
]
