"""Answers of a detector as functions of the image: a detection's class logit, a side of its box or its IoU, a peak's logit.

An attribution explains one number. In a detector that is a number of one detection, and the anchor that made it, or the cell
of a heatmap, is held fixed: another image changes what this anchor answers, never which anchor is asked. Boxes are
(x0, y0, x1, y1) in continuous pixels of the network's input; sides are not clipped to the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from detect.anchors.assign import level_hw
from detect.conventions import ORIGIN_SHIFTS
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.retinanet import RetinaNetDetector
from detect.ops.boxes import matched_iou

Scalar = Callable[[Float[Tensor, "b d h w"]], Float[Tensor, " b"]]
"""One number for each image of a batch, differentiable; it runs the network."""

SIDES = ("left", "top", "right", "bottom")
BOX_ANSWERS = ("class", *SIDES, "iou")
PEAK_ANSWERS = ("peak",)
AROUND_PEAK = 2  # cells to each side of a peak's point, among which its maximum is
PEAK_SIGMAS = 3.0  # half a side of the box around a peak, in standard deviations of the learned Gaussian


@dataclass(frozen=True)
class Found:
    """One detection: its box, score and label, and the place that made it.

    Attributes:
        box: in pixels of the input; for a peak the square of ``PEAK_SIGMAS`` around the point.
        label: a column of the logits, or a keypoint type.
        place: the anchor, or row and column of the heatmap's cell.
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    place: tuple[int, ...]


def find_answers(
    model: RetinaNetDetector | LandmarkDetector,
    image: Float[Tensor, "d h w"],
    image_hw: tuple[int, int] | None = None,
) -> list[Found]:
    """The detections of one image in falling order of score; ``image_hw`` is its size without padding.

    >>> from detect.detectors.backbones import build_backbone
    >>> model = LandmarkDetector(build_backbone("tiny", strides=(2, 4), in_channels=1, seed=0), threshold=0.9)
    >>> find_answers(model.eval(), torch.zeros(1, 16, 16))
    []
    """
    hw = torch.tensor([image_hw or image.shape[-2:]])
    if isinstance(model, LandmarkDetector):
        return _found_peaks(model, image[None], hw)
    (found,) = model.detect(image[None], hw.to(image.device))
    if found.anchors is None:
        raise ValueError("the detector's post-processing does not say which anchor made a detection")
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), found.anchors.tolist(), strict=True)
    return [Found(tuple(box), score, label, (anchor,)) for box, score, label, anchor in rows]


def found_at(found: Sequence[Found], xy: tuple[float, float]) -> int | None:
    """The place in ``found`` of the detection whose box holds a point, the first of several; None if there is none.

    >>> found_at([Found((0, 0, 9, 9), 0.8, 0, (3,)), Found((2, 2, 6, 6), 0.7, 0, (5,))], (4.0, 4.0))
    0
    """
    x, y = xy
    boxes = enumerate(each.box for each in found)
    return next((number for number, (x0, y0, x1, y1) in boxes if x0 <= x <= x1 and y0 <= y <= y1), None)


def answer_of(
    model: RetinaNetDetector | LandmarkDetector,
    found: Found,
    answer: str,
    *,
    image_hw: tuple[int, int],
    box: Sequence[float] | None = None,
) -> Scalar:
    """The number of a detection as a function of images of the size ``image_hw``.

    ``answer`` is ``"class"``, the logit; ``"left"``, ``"top"``, ``"right"`` or ``"bottom"``, a side of the box in pixels;
    ``"iou"``, the IoU of the predicted box with ``box``; ``"peak"``, the logit of the peak's cell.

    Raises:
        ValueError: the detector has no such answer, or there is no box for the IoU.
    """
    own = PEAK_ANSWERS if isinstance(model, LandmarkDetector) else BOX_ANSWERS
    if answer not in own:
        raise ValueError(f"this detector answers {', '.join(own)}, not {answer!r}")
    if isinstance(model, LandmarkDetector):
        row, column = found.place
        return peak_logit(model, found.label, row, column)
    (anchor,) = found.place
    if answer == "class":
        return class_logit(model, anchor, found.label)
    anchor_box = model.grid.generate(level_hw(model.grid, image_hw), image_hw).boxes[anchor]
    if answer != "iou":
        return box_side(model, anchor, anchor_box, SIDES.index(answer))
    if box is None:
        raise ValueError("the IoU needs a box to compare with")
    return box_iou(model, anchor, anchor_box, torch.tensor(box, dtype=torch.float32))


def class_logit(model: RetinaNetDetector, anchor: int, label: int) -> Scalar:
    """The logit of one anchor for one class."""
    return lambda images: model(images).logits[:, anchor, label]


def peak_logit(model: LandmarkDetector, keypoint_type: int, row: int, column: int) -> Scalar:
    """The logit of one cell of one heatmap."""
    return lambda images: model(images).logits[:, keypoint_type, row, column]


def box_side(model: RetinaNetDetector, anchor: int, anchor_box: Float[Tensor, " 4"], side: int) -> Scalar:
    """One side of the box that an anchor predicts, in pixels: 0 left, 1 top, 2 right, 3 bottom."""
    return lambda images: _predicted_boxes(model, images, anchor, anchor_box)[:, side]


def box_iou(model: RetinaNetDetector, anchor: int, anchor_box: Float[Tensor, " 4"], box: Float[Tensor, " 4"]) -> Scalar:
    """The IoU of the box that an anchor predicts with a given one.

    Where the two are equal, the IoU is at its peak, and methods by gradient show nothing.
    """

    def iou(images: Float[Tensor, "b d h w"]) -> Float[Tensor, " b"]:
        boxes = _predicted_boxes(model, images, anchor, anchor_box)
        return matched_iou(boxes, box.to(boxes).expand_as(boxes))

    return iou


def _predicted_boxes(model: RetinaNetDetector, images: Tensor, anchor: int, anchor_box: Tensor) -> Float[Tensor, "b 4"]:
    deltas = model(images).deltas[:, anchor]
    return model.post_process.coder.decode(deltas, anchor_box.to(deltas).expand_as(deltas))


@torch.no_grad()
def _found_peaks(model: LandmarkDetector, images: Float[Tensor, "1 d h w"], image_hw: Tensor) -> list[Found]:
    """The peaks of one image; the cell of a peak is that around its point whose value is the peak's."""
    output = model(images)
    heatmaps = output.logits.float().sigmoid()
    peaks = model.read_points(heatmaps, image_hw, output.orientations)
    half = PEAK_SIGMAS * model.sigma_cells * model.stride
    found = []
    for (x, y), score, label in zip(peaks.cells.tolist(), peaks.scores.tolist(), peaks.types.tolist(), strict=True):
        center_x, center_y = x + ORIGIN_SHIFTS["center"], y + ORIGIN_SHIFTS["center"]
        top, left = (max(0, int(center // model.stride) - AROUND_PEAK) for center in (center_y, center_x))
        side = 2 * AROUND_PEAK + 1
        distance = (heatmaps[0, label, top : top + side, left : left + side] - score).abs()
        row, column = divmod(int(distance.argmin()), distance.shape[1])
        box = (center_x - half, center_y - half, center_x + half, center_y + half)
        found.append(Found(box, score, label, (top + row, left + column)))
    return sorted(found, key=lambda each: -each.score)
