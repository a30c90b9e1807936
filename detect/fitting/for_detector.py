"""Anchors for one detector of the catalog: its levels, numbers and layout, fitted to what its own matching rewards."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet, deal_by_rank
from detect.anchors.detector_score import DetectorScore, score_for
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import stock_anchors
from detect.catalog.detectors import AtssRule, Detector, MaxIoURule, SideRatio
from detect.fitting.any_position import boxes_on_grid
from detect.fitting.fit import fit_anchors
from detect.fitting.fit_levels import fit_levels
from detect.fitting.grid_fit import score_on_grid
from detect.fitting.objective import Objective
from detect.fitting.ssd import fit_ssd

RECALL_SHARE = 0.5  # of the objective, for detectors whose anchors learn a box from a threshold on
DRAFT = 600  # boxes that shapes on the grid are chosen on, if nothing is to be proved


@dataclass(frozen=True)
class DetectorFit:
    """Anchors fitted for a detector, and their score under its own rule; made by :func:`fit_for`."""

    score: DetectorScore
    stock: DetectorScore | None
    """The same for the anchors that the detector ships with."""
    among: str
    """The family that the anchors' upper bounds cover, in words."""

    @property
    def anchors(self) -> AnchorSet:
        return self.score.anchors


def objective_of(detector: Detector) -> str:
    """The objective, in the words of :class:`detect.fitting.objective.Objective`, that a detector's matching rewards.

    >>> from detect.catalog.detectors import load_detector
    >>> [objective_of(load_detector(name)) for name in ("yolov5", "yolov3-darknet", "torchvision-faster-rcnn")]
    ['ratio', 'shape', 'grid:0.5*iou+0.5*recall@0.7']
    """
    rule = detector.matching
    if isinstance(rule, SideRatio):
        return "shape"
    if isinstance(rule, MaxIoURule):
        return f"grid:{1 - RECALL_SHARE:g}*iou+{RECALL_SHARE:g}*recall@{rule.fg_iou_thresh:g}"
    return "grid" if isinstance(rule, AtssRule) else "shape"


def fit_for(
    instances: ResizedInstances,
    detector: Detector,
    *,
    weights: Float64[ndarray, " n"] | None = None,
    certify: float | None = None,
) -> DetectorFit:
    """Fit the anchors that a detector takes: as many on each level, in its layout, under its own matching rule.

    Args:
        instances: boxes after the detector's resize rule, ``detector.resize`` or another one.
        detector: see :func:`detect.catalog.detectors.load_detector`.
        weights: weight of each instance, see :func:`detect.anchors.instances.instance_weights`.
        certify: relative gap to prove between the fit and the best possible one.

    Raises:
        FitError: there are no usable boxes, or too few distinct shapes.
    """
    instances.require_boxes()
    if detector.layout == "ranked":
        anchors, among = _ranked(instances, detector, weights, certify)
    elif detector.layout == "ssd":
        anchors, among = _ssd(instances, detector, weights)
    else:
        anchors, among = _on_grid(instances, detector, weights, certify)
    anchors = replace(anchors, name=f"fitted for {detector.name}", resize=str(instances.rule))
    stock = score_for(instances, stock_anchors(detector), detector) if detector.stock else None
    return DetectorFit(score_for(instances, anchors, detector), stock, among)


def _ranked(
    instances: ResizedInstances, detector: Detector, weights: Float64[ndarray, " n"] | None, certify: float | None
) -> tuple[AnchorSet, str]:
    """Free shapes by shape alone, dealt out by area."""
    k = detector.num_anchors
    fitted = fit_anchors(instances, k=k, objective=objective_of(detector), weights=weights, certify=certify)
    return replace(fitted, levels=deal_by_rank(fitted.shapes, detector.strides).levels), f"for k = {k}"


def _on_grid(
    instances: ResizedInstances, detector: Detector, weights: Float64[ndarray, " n"] | None, certify: float | None
) -> tuple[AnchorSet, str]:
    scales = detector.scales or 1
    fit = fit_levels(
        instances,
        detector.strides,
        per_level=detector.per_level,
        objective=objective_of(detector),
        layout=detector.layout,
        scales=scales,
        ratios=detector.numbers[0] // scales,
        weights=weights,
        convention=detector.convention,
        max_strides=detector.max_strides,
        certify=certify,
        draft=DRAFT,
    )
    return fit.anchors, f"with {fit.numbers}"


def _ssd(
    instances: ResizedInstances, detector: Detector, weights: Float64[ndarray, " n"] | None
) -> tuple[AnchorSet, str]:
    objective = Objective.parse(objective_of(detector))
    boxes = boxes_on_grid(
        instances,
        detector.strides,
        objective=objective,
        weights=weights,
        convention=detector.convention,
        max_strides=detector.max_strides,
    )
    anchors = fit_ssd(boxes, stock_anchors(detector), draft=DRAFT)
    score = {objective.score_name(weighted=weights is not None): score_on_grid(boxes, anchors)}
    return replace(anchors, scores=score), "in SSD's layout"
