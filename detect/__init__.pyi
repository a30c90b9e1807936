from .advice.advise import advise
from .anchors.anchor_readers import anchors_from_torchvision
from .anchors.anchor_set import AnchorSet
from .anchors.generator import AnchorGenerator
from .anchors.head_cost import HeadSize
from .anchors.instances import ResizedInstances, instance_weights
from .anchors.known import load_anchors
from .anchors.levels import level_report
from .anchors.metrics import anchor_metrics
from .anchors.positive_weights import positive_weights
from .catalog.detectors import load_detector
from .data import CocoDataset, read_coco, read_results
from .data.read_dataset import read_dataset
from .data.resize import ResizeRule, parse_resize
from .detectors.pretrained_weights import load_checkpoint
from .errors import DetectError
from .evaluation.oracle import oracle_round_trip
from .evaluation.points import score_points
from .evaluation.precision_recall import choose_threshold
from .fitting.clustering import IoUKMeans
from .fitting.fit import fit_anchors
from .fitting.fit_levels import fit_levels
from .fitting.for_detector import fit_for
from .fitting.objective import Objective
from .heads.criterion import RetinaNetCriterion
from .heads.fpn import FeaturePyramid
from .heads.heatmap import HeatmapHead
from .heads.image_targets import ImageTargets
from .heads.postprocess import PostProcess
from .heads.prediction_matchers import SimOta, TaskAligned
from .heads.retinanet import RetinaNetHead
from .inspection.attribution import attribute
from .inspection.layers import list_layers
from .inspection.models import build_model
from .inspection.receptive_field import receptive_fields
from .interop.anchor_formats import convert_anchors
from .interop.torchvision import BatchDetections, import_head
from .interop.weights import convert_weights
from .keypoints.coco_keypoints import box_keypoints, coco_keypoints
from .keypoints.keypoints import Keypoints
from .keypoints.peaks import find_peaks
from .keypoints.targets import render_heatmaps
from .losses import heatmap_focal_loss
from .ops.boxes import BoxCoder, DistanceCoder
from .ops.matcher import Atss, MaxIoU
from .ops.time_limit import time_limit

__all__ = [
    "AnchorGenerator",
    "AnchorSet",
    "Atss",
    "BatchDetections",
    "BoxCoder",
    "CocoDataset",
    "DetectError",
    "DistanceCoder",
    "FeaturePyramid",
    "HeadSize",
    "HeatmapHead",
    "ImageTargets",
    "IoUKMeans",
    "Keypoints",
    "MaxIoU",
    "Objective",
    "PostProcess",
    "ResizeRule",
    "ResizedInstances",
    "RetinaNetCriterion",
    "RetinaNetHead",
    "SimOta",
    "TaskAligned",
    "advise",
    "anchor_metrics",
    "anchors_from_torchvision",
    "attribute",
    "box_keypoints",
    "build_model",
    "choose_threshold",
    "coco_keypoints",
    "convert_anchors",
    "convert_weights",
    "find_peaks",
    "fit_anchors",
    "fit_for",
    "fit_levels",
    "heatmap_focal_loss",
    "import_head",
    "instance_weights",
    "level_report",
    "list_layers",
    "load_anchors",
    "load_checkpoint",
    "load_detector",
    "oracle_round_trip",
    "parse_resize",
    "positive_weights",
    "read_coco",
    "read_dataset",
    "read_results",
    "receptive_fields",
    "render_heatmaps",
    "score_points",
    "time_limit",
]
