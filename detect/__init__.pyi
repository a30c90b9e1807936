from .anchors.anchor_set import AnchorSet
from .anchors.clustering import EuclideanKMeans, IoUKMeans
from .anchors.coverage import Coverage, coverage
from .anchors.fitting import fit_anchors, k_curve
from .anchors.grid import AnchorGrid
from .anchors.histogram import ShapeHistogram
from .anchors.instances import ResizedInstances
from .anchors.known import load_anchors
from .anchors.mixture import LogGaussianMixture
from .box_coding import BoxCoder
from .coco import CocoDataset, read_coco
from .errors import DetectError
from .heads.detections import Detections, PostProcess
from .heads.pyramid import FeaturePyramid
from .heads.retinanet import HeadOutput, RetinaNetHead
from .heads.targets import ImageTargets, RetinaNetCriterion
from .interop.anchor_formats import convert_anchors
from .interop.torchvision_retinanet import import_head
from .interop.weights import convert_weights, load_checkpoint
from .matching import MaxIoU
from .resize import ResizeRule, parse_resize

__all__ = [
    "AnchorGrid",
    "AnchorSet",
    "BoxCoder",
    "CocoDataset",
    "Coverage",
    "DetectError",
    "Detections",
    "EuclideanKMeans",
    "FeaturePyramid",
    "HeadOutput",
    "ImageTargets",
    "IoUKMeans",
    "LogGaussianMixture",
    "MaxIoU",
    "PostProcess",
    "ResizeRule",
    "ResizedInstances",
    "RetinaNetCriterion",
    "RetinaNetHead",
    "ShapeHistogram",
    "convert_anchors",
    "convert_weights",
    "coverage",
    "fit_anchors",
    "import_head",
    "k_curve",
    "load_anchors",
    "load_checkpoint",
    "parse_resize",
    "read_coco",
]
