"""Anchors for one detector of the catalog: its levels, numbers and layout, fitted to what its own matching rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet, Proof, deal_by_rank
from detect.anchors.detector_score import DetectorScore, DetectorSums, score_for
from detect.anchors.fit_boxes import FitBoxes
from detect.anchors.grid_convention import as_convention
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import stock_anchors
from detect.catalog.detectors import AnchorDetector, Detector, with_anchors
from detect.catalog.matching import AtssRule, MaxIoURule, SideRatio
from detect.errors import FitError
from detect.fitting.any_position import boxes_on_grid
from detect.fitting.fit import fit_anchors
from detect.fitting.fit_levels import FREE, fit_levels, name_on_grid
from detect.fitting.gains import Boxes
from detect.fitting.grid_fit import fit_on_grid, score_on_grid
from detect.fitting.objective import Objective
from detect.fitting.search import ROUNDS
from detect.fitting.ssd import fit_ssd
from detect.fitting.structured import fit_layouts
from detect.ops.time_limit import is_over
from detect.wording import plural

# Shares of recall in the objective, where anchors learn a box from a threshold on: the next one if the detector's own
# anchors score more than the fit
RECALL_SHARES = (0.5, 0.8, 0.95)
SIDE_RECALL_SHARES = (0.0, 0.2, 0.5, 0.8)  # few boxes are out of reach of a factor of 4
DRAFT = 600  # boxes that shapes on the grid are chosen on, if nothing is to be proved


Score = DetectorScore | DetectorSums


@dataclass(frozen=True)
class DetectorFit:
    """Anchors fitted for a detector, and their score under its own rule; made by :func:`fit_for`."""

    score: Score
    stock: Score | None
    """The same for the anchors that the detector ships with."""
    among: str
    """The family that the anchors' upper bounds cover, in words."""

    @property
    def anchors(self) -> AnchorSet:
        return self.score.anchors


def objectives_of(detector: AnchorDetector) -> list[Objective]:
    """The objectives that a detector's matching rewards, the first one to try first.

    >>> from detect.catalog.detectors import anchor_detectors
    >>> objectives_of(anchor_detectors()["yolov3-darknet"])
    [Objective(recall_share=0.0, threshold=0.5, on_grid=False, of_sides=False)]
    """
    rule = detector.matching
    if isinstance(rule, SideRatio):
        return [Objective(share, 1 / rule.ratio, of_sides=True) for share in SIDE_RECALL_SHARES]
    if isinstance(rule, MaxIoURule):
        return [Objective(share, rule.fg_iou_thresh, on_grid=True) for share in RECALL_SHARES]
    return [Objective.parse("grid" if isinstance(rule, AtssRule) else "shape")]


def fit_for(
    instances: ResizedInstances | FitBoxes,
    detector: Detector,
    *,
    weights: Float64[ndarray, " n"] | None = None,
    start: AnchorSet | None = None,
    certify: float | None = None,
    rounds: int = ROUNDS,
    score: Callable[[AnchorSet, AnchorDetector], Score] | None = None,
) -> DetectorFit:
    """Fit the anchors that a detector takes: as many on each level, in its layout, under its own matching rule.

    The score under that rule is not lower than that of the detector's own anchors: if no fit has more, these are returned.

    Args:
        instances: boxes after the detector's resize rule, ``detector.resize`` or another one.
        detector: see :func:`detect.catalog.detectors.load_detector`.
        weights: weight of each instance, see :func:`detect.anchors.instances.instance_weights`.
        start: anchors of the detector's levels and numbers to improve; the result's score is not lower.
        certify: relative gap to prove between the fit and the best possible one.
        rounds: of a proof by shape, at most.
        score: the score of anchors under a detector's rule, where the boxes themselves are not at hand.

    Raises:
        FitError: there are no usable boxes, too few distinct shapes, or the start has other levels or numbers.
        CatalogError: the detector has no anchors.
    """
    detector = with_anchors(detector)
    boxes = FitBoxes.of(instances, weights)
    boxes.require_boxes()
    if score is None:
        score = partial(score_for, _at_hand(instances))
    if start:
        _check_start(start, detector)
    stock = score(stock_anchors(detector), detector) if detector.stock else None
    fits = []
    for limited, objective in _attempts(detector):
        anchors, among = _fit(boxes, limited, objective, start, {"certify": certify, "rounds": rounds})
        if 0 < objective.recall_share < 1:
            among += f" ({objective})"
        anchors = replace(anchors, name=f"fitted for {detector.name}", resize=boxes.resize)
        fits.append(DetectorFit(score(anchors, detector), stock, among))
        if stock is None or _as_good(fits[-1].score, stock) or is_over():
            break
    if start:
        begin = score(replace(start, resize=boxes.resize), detector)
        fits.append(DetectorFit(begin, stock, "as given"))
    if stock:  # where no fit scores more, the detector's own anchors are the answer
        fits.append(DetectorFit(stock, stock, "as shipped"))
    return max(fits, key=lambda fit: (stock is not None and _as_good(fit.score, stock), fit.score.score))


def _at_hand(instances: ResizedInstances | FitBoxes) -> ResizedInstances:
    if isinstance(instances, ResizedInstances):
        return instances
    raise ValueError("counts of boxes need a score")


def _as_good(score: Score, stock: Score) -> bool:
    """Whether a fit need not be tried again: by shape, where that is quick, it must reach as many boxes too."""
    by_side = isinstance(score.detector.matching, SideRatio)
    return score.score >= stock.score and (score.recall >= stock.recall or not by_side)


def _attempts(detector: AnchorDetector) -> Iterator[tuple[AnchorDetector, Objective]]:
    """What to fit, the next one if the detector's own anchors score more: at last boxes may use any level."""
    for objective in objectives_of(detector):
        yield detector, objective
    if detector.max_strides is not None:
        yield msgspec.structs.replace(detector, max_strides=None), objectives_of(detector)[0]


def _check_start(start: AnchorSet, detector: AnchorDetector) -> None:
    found = [(level.stride, len(level.shapes)) for level in start.levels]
    wanted = list(zip(detector.strides, detector.numbers, strict=True))
    if found != wanted:
        levels, own = (", ".join(f"{number} on stride {stride}" for stride, number in each) for each in (found, wanted))
        raise FitError(f"start {start.name} has {levels}; {detector.name} takes {own}")


def _check_sizes(boxes: FitBoxes, detector: AnchorDetector) -> None:
    """Refuse boxes of fewer sizes than the detector has anchors."""
    found = len(boxes.every.best)
    if found < detector.num_anchors:
        instead = f"its own may do: `detect anchors score DATA --for {detector.name}`"
        raise FitError(
            f"{detector.name} takes {detector.num_anchors} anchors, and the boxes have {plural(found, 'size')}: "
            f"{instead if detector.stock else 'take fewer with --per-level'}"
        )


def _fit(
    instances: FitBoxes,
    detector: AnchorDetector,
    objective: Objective,
    start: AnchorSet | None,
    how: Mapping[str, Any],
) -> tuple[AnchorSet, str]:
    """Anchors in the detector's layout, and the family that their upper bounds cover, in words."""
    if detector.layout == "ranked":
        k = detector.num_anchors
        _check_sizes(instances, detector)
        fitted = fit_anchors(instances, k=k, objective=objective, start=start, **how)
        return replace(fitted, levels=deal_by_rank(fitted.shapes, detector.strides).levels), f"for k = {k}"
    on_grid: dict[str, Any] = {
        "objective": objective,
        "convention": detector.convention,
        "max_strides": detector.max_strides,
    }
    if detector.layout == "ssd" or (detector.layout == "octaves" and start is None and how["certify"] is None):
        boxes = boxes_on_grid(instances, detector.strides, **on_grid)
        name = name_on_grid(objective.score_name(weighted=instances.weighted), boxes, detector.max_strides)
        return _fit_layout(boxes, detector, name, start, how["certify"])
    scales = detector.scales or 1
    on_grid |= {"layout": detector.layout, "scales": scales, "ratios": detector.numbers[0] // scales}
    on_grid |= {"per_level": detector.per_level, "start": start, "certify": how["certify"], "draft": DRAFT}
    fit = fit_levels(instances, detector.strides, **on_grid)
    return _in_order(fit.anchors, detector), f"with {fit.numbers}"


def _fit_layout(
    boxes: Boxes, detector: AnchorDetector, name: str, start: AnchorSet | None, certify: float | None
) -> tuple[AnchorSet, str]:
    """Anchors of a layout that does not start from free shapes, which take most of the time: only a proof needs them."""
    if detector.layout == "ssd":
        anchors = _clipped(fit_ssd(boxes, start or stock_anchors(detector), draft=DRAFT), detector)
    else:
        scales = detector.scales or 1
        how: dict[str, Any] = {"scales": scales, "ratios": detector.numbers[0] // scales, "draft": DRAFT}
        anchors = _in_order(fit_layouts(boxes, widest=detector.layout, **how)[-1].anchors, detector)
    score = score_on_grid(boxes, anchors)
    free = None if certify is None else fit_on_grid(boxes, per_level=detector.numbers, certify=certify).proof
    proofs = {name: Proof(score, free.upper_bound)} if free else {}
    return replace(anchors, scores={name: score}, proofs=proofs), "with as many free shapes on each level"


def _in_order(anchors: AnchorSet, detector: AnchorDetector) -> AnchorSet:
    """The shapes in the order of the framework: within a level, ratios vary faster than sizes if it has them so."""
    if detector.layout == FREE or not as_convention(detector.convention).size_outer:
        return anchors
    scales, levels = detector.scales or 1, []
    for level in anchors.levels:
        shapes = [shape for size in range(scales) for shape in level.shapes[size::scales]]
        levels.append(msgspec.structs.replace(level, shapes=shapes))
    return replace(anchors, levels=tuple(levels))


def _clipped(anchors: AnchorSet, detector: AnchorDetector) -> AnchorSet:
    """Shapes cut to the largest side that the detector takes; a level whose squares are larger is scaled first."""
    largest = detector.stock.largest if detector.stock else None
    if largest is None:
        return anchors
    levels = []
    for level in anchors.levels:
        shapes = np.array(level.shapes)
        levels.append(np.minimum(shapes * min(largest / shapes[:2].max(), 1.0), largest))
    return replace(anchors, levels=AnchorSet.of(levels, strides=detector.strides).levels)
