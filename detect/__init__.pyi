from .anchors.anchor_set import AnchorSet
from .anchors.clustering import EuclideanKMeans, IoUKMeans
from .anchors.coverage import Coverage, coverage
from .anchors.fitting import fit_anchors, k_curve
from .anchors.grid import AnchorGrid
from .anchors.histogram import ShapeHistogram
from .anchors.instances import ResizedInstances
from .anchors.known import load_anchors
from .anchors.level_fitting import fit_levels
from .anchors.levels import level_preference
from .anchors.mixture import LogGaussianMixture
from .anchors.optimal import OptimalAnchors, optimal_anchors
from .box_coding import BoxCoder
from .coco import CocoDataset, read_coco, read_results
from .errors import DetectError
from .heads.detections import Detections, PostProcess
from .heads.heatmap import HeatmapHead
from .heads.pyramid import FeaturePyramid
from .heads.retinanet import HeadOutput, RetinaNetHead
from .heads.targets import ImageTargets, RetinaNetCriterion
from .interop.anchor_formats import convert_anchors
from .interop.torchvision_retinanet import import_head
from .interop.weights import convert_weights, load_checkpoint
from .keypoints.ceiling import ceiling
from .keypoints.coco_landmarks import box_landmarks, keypoint_landmarks
from .keypoints.crowds import split_crowds
from .keypoints.heatmaps import HeatmapTargets, render_heatmaps
from .keypoints.landmarks import Landmarks
from .keypoints.peaks import Peaks, find_peaks
from .keypoints.point_matching import match_points
from .keypoints.scores import PointScores, score_points
from .keypoints.thresholds import choose_threshold
from .losses import heatmap_focal_loss
from .matching import Atss, MaxIoU
from .resize import ResizeRule, parse_resize

__all__ = [
    "AnchorGrid",
    "AnchorSet",
    "Atss",
    "BoxCoder",
    "CocoDataset",
    "Coverage",
    "DetectError",
    "Detections",
    "EuclideanKMeans",
    "FeaturePyramid",
    "HeadOutput",
    "HeatmapHead",
    "HeatmapTargets",
    "ImageTargets",
    "IoUKMeans",
    "Landmarks",
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
    "box_landmarks",
    "ceiling",
    "choose_threshold",
    "convert_anchors",
    "convert_weights",
    "coverage",
    "find_peaks",
    "fit_anchors",
    "fit_levels",
    "heatmap_focal_loss",
    "import_head",
    "k_curve",
    "keypoint_landmarks",
    "level_preference",
    "load_anchors",
    "load_checkpoint",
    "match_points",
    "optimal_anchors",
    "parse_resize",
    "read_coco",
    "read_results",
    "render_heatmaps",
    "score_points",
    "split_crowds",
]
