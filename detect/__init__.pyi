from .anchors.anchor_set import AnchorSet
from .anchors.generator import AnchorGenerator
from .anchors.histogram import ShapeHistogram
from .anchors.instances import ResizedInstances
from .anchors.known import load_anchors
from .anchors.levels import level_report
from .anchors.metrics import AnchorMetrics, anchor_metrics
from .data import CocoDataset, read_coco, read_results
from .data.resize import ResizeRule, parse_resize
from .errors import DetectError
from .evaluation.oracle import oracle_round_trip
from .evaluation.point_matching import match_points
from .evaluation.points import PointScores, score_points
from .evaluation.precision_recall import choose_threshold
from .fitting.clustering import EuclideanKMeans, IoUKMeans
from .fitting.fit import fit_anchors, k_curve
from .fitting.fit_levels import fit_levels
from .fitting.mixture import LogGaussianMixture
from .fitting.search import OptimalAnchors, optimal_anchors
from .heads.criterion import ImageTargets, RetinaNetCriterion
from .heads.fpn import FeaturePyramid
from .heads.heatmap import HeatmapHead
from .heads.postprocess import Detections, PostProcess
from .heads.retinanet import HeadOutput, RetinaNetHead
from .interop.anchor_formats import convert_anchors
from .interop.torchvision import import_head
from .interop.weights import convert_weights, load_checkpoint
from .keypoints.keypoints import Keypoints, box_keypoints, coco_keypoints
from .keypoints.peaks import Peaks, find_peaks
from .keypoints.split_peaks import split_peaks
from .keypoints.targets import HeatmapTargets, render_heatmaps
from .losses import heatmap_focal_loss
from .ops.boxes import BoxCoder
from .ops.matcher import Atss, MaxIoU

__all__ = [
    "AnchorGenerator",
    "AnchorMetrics",
    "AnchorSet",
    "Atss",
    "BoxCoder",
    "CocoDataset",
    "DetectError",
    "Detections",
    "EuclideanKMeans",
    "FeaturePyramid",
    "HeadOutput",
    "HeatmapHead",
    "HeatmapTargets",
    "ImageTargets",
    "IoUKMeans",
    "Keypoints",
    "LogGaussianMixture",
    "MaxIoU",
    "OptimalAnchors",
    "Peaks",
    "PointScores",
    "PostProcess",
    "ResizeRule",
    "ResizedInstances",
    "RetinaNetCriterion",
    "RetinaNetHead",
    "ShapeHistogram",
    "anchor_metrics",
    "box_keypoints",
    "choose_threshold",
    "coco_keypoints",
    "convert_anchors",
    "convert_weights",
    "find_peaks",
    "fit_anchors",
    "fit_levels",
    "heatmap_focal_loss",
    "import_head",
    "k_curve",
    "level_report",
    "load_anchors",
    "load_checkpoint",
    "match_points",
    "optimal_anchors",
    "oracle_round_trip",
    "parse_resize",
    "read_coco",
    "read_results",
    "render_heatmaps",
    "score_points",
    "split_peaks",
]
