"""From a head's output to detections: score threshold, best pairs of each level, decoding, NMS (Lin et al. 2017, 4.1).

Boxes are (x0, y0, x1, y1) in continuous pixels: of the network's input before rescaling, of the original image after it.
Frameworks differ in what they do to boxes before and after suppression, see :mod:`detect.heads.box_steps`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detect.anchors.generator import GridAnchors
from detect.errors import ExportError
from detect.heads.best_pairs import Pairs, best_pairs, rows_of, thresholds_of, top_pairs
from detect.heads.box_steps import BOX_STEPS, DETECTIONS_PER_IMAGE, Sizes, image_extents, take_steps
from detect.heads.retinanet import HeadOutput
from detect.ops.boxes import BoxCoder, Coder, at_most
from detect.ops.nms import class_nms, nms_mask
from detect.ops.soft_nms import DECAYS, soft_nms
from detect.ops.uncompiled import uncompiled

SUPPRESSIONS = ("hard", *DECAYS)


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of one image, in falling order of score; a class is a column of the head's logits.

    ``anchors`` are the rows of the head's output that made them, if they are known.
    """

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    classes: Int64[Tensor, " n"]
    anchors: Int64[Tensor, " n"] | None = field(default=None, repr=False)


class PaddedDetections(NamedTuple):
    """The detections of each image, in falling order of score, padded to one length with zeros that are not ``valid``."""

    boxes: Float[Tensor, "b n 4"]
    scores: Float[Tensor, "b n"]
    classes: Int64[Tensor, "b n"]
    valid: Bool[Tensor, "b n"]


@dataclass(frozen=True, kw_only=True)
class PostProcess:
    """Turns a head's output into detections; equal scores are in the order level, anchor, class.

    >>> from detect.anchors.anchor_set import AnchorSet
    >>> from detect.anchors.generator import AnchorGenerator
    >>> logits = torch.tensor([[[2.0, -9.0], [1.0, -9.0]]])  # one image, two anchors, two classes
    >>> anchors = AnchorGenerator(AnchorSet.of([[(10, 10), (10, 9)]], strides=(10,))).generate([(1, 1)])
    >>> PostProcess()(HeadOutput(logits, torch.zeros(1, 2, 4)), anchors, image_hw=[(12, 16)])
    [Detections(boxes=tensor([[ 0.,  0., 10., 10.]]), scores=tensor([0.8808]), classes=tensor([0]))]

    Args:
        score_threshold: a detection's score is above it; from 0, below 1. Several numbers: one for each class.
        topk_per_level: pairs of anchor and class that a level may give an image, the best ones.
        nms: ``"hard"`` removes a box if a better one of its class overlaps it with an IoU above ``iou_threshold``.
            ``"linear"`` and ``"gaussian"`` lower its score, see :mod:`detect.ops.soft_nms`; it stays while its score is
            above the threshold.
        iou_threshold: from 0 to 1; the linear decay starts at it, the Gaussian does not use it.
        sigma: of the Gaussian decay, above 0.
        class_agnostic: boxes of different classes suppress each other too.
        detections_per_image: the largest number; None takes the convention's.
        convention: ``"torchvision"``, ``"detectron2"`` or ``"mmdet"``.
    """

    coder: Coder = field(default_factory=BoxCoder)
    score_threshold: float | Sequence[float] = 0.05
    topk_per_level: int = 1000
    nms: str = "hard"
    iou_threshold: float = 0.5
    sigma: float = 0.5
    class_agnostic: bool = False
    detections_per_image: int | None = None
    convention: str = "torchvision"

    def __post_init__(self) -> None:
        if self.convention not in BOX_STEPS:
            raise ValueError(f"convention is one of {', '.join(BOX_STEPS)}, got {self.convention!r}")
        if self.nms not in SUPPRESSIONS:
            raise ValueError(f"nms is one of {', '.join(SUPPRESSIONS)}, got {self.nms!r}")
        if not all(0 <= least < 1 for least in self._thresholds) or not 0 <= self.iou_threshold <= 1:
            got = f"{self.score_threshold} and {self.iou_threshold}"
            raise ValueError(f"need 0 <= score_threshold < 1 and 0 <= iou_threshold <= 1, got {got}")
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"need a finite sigma above 0, got {self.sigma}")
        if self.topk_per_level < 1 or self.max_detections < 1:
            got = f"{self.topk_per_level} and {self.max_detections}"
            raise ValueError(f"need topk_per_level and detections_per_image from 1, got {got}")

    @property
    def max_detections(self) -> int:
        """The largest number of detections in an image."""
        return DETECTIONS_PER_IMAGE[self.convention] if self.detections_per_image is None else self.detections_per_image

    @property
    def _thresholds(self) -> Sequence[float]:
        """The score threshold of all classes, or one for each."""
        return self.score_threshold if isinstance(self.score_threshold, Sequence) else (self.score_threshold,)

    @property
    def lowest_threshold(self) -> float:
        """The score threshold, the lowest if there is one for each class."""
        return min(self._thresholds)

    def check_classes(self, num_classes: int) -> None:
        """Raise a ValueError if there are score thresholds for another number of classes."""
        if len(self._thresholds) not in (1, num_classes):
            raise ValueError(f"{len(self._thresholds)} score thresholds for {num_classes} classes")

    @uncompiled
    def __call__(
        self, output: HeadOutput, anchors: GridAnchors, *, image_hw: Sizes, original_hw: Sizes | None = None
    ) -> list[Detections]:
        """The detections of each image.

        ``torch.compile`` runs this uncompiled, as the number of detections depends on the data: compile :meth:`padded`.

        Args:
            output: logits, and deltas as ``coder`` encodes them.
            anchors: the same for all images, in pixels of the network's input.
            image_hw: (height, width) of each image in the network's input, without padding.
            original_hw: (height, width) of each image before it was resized; None leaves boxes in the input's scale.
        """
        logits, deltas = self._checked(output, anchors)
        pairs = best_pairs(
            logits, anchors.num_per_level, thresholds=self._thresholds, topk_per_level=self.topk_per_level
        )
        boxes = self.coder.decode(deltas[pairs.image, pairs.anchor], anchors.boxes[pairs.anchor])
        extents = image_extents(image_hw, original_hw, num_images=logits.shape[0], like=boxes)
        before, after = BOX_STEPS[self.convention]
        boxes, valid = take_steps(before, boxes, extents[:, pairs.image])
        detections = []
        for index, (rows, scores) in enumerate(self._suppress(boxes, pairs, valid, len(logits))):
            kept, valid = take_steps(after, boxes[rows], extents[:, index])
            own = rows[valid]
            detections.append(Detections(kept[valid], scores[valid], pairs.classes[own], pairs.anchor[own]))
        return detections

    def padded(
        self,
        output: HeadOutput,
        anchors: GridAnchors,
        *,
        image_hw: Sizes,
        original_hw: Sizes | None = None,
        max_candidates: int = 1000,
    ) -> PaddedDetections:
        """The same detections in shapes that do not depend on data: for torch.export, torch.compile and ONNX.

        Only the best ``max_candidates`` pairs of an image, over all levels, enter suppression, in memory
        O(b max_candidates^2); for soft suppression O(b max_candidates), in at most ``detections_per_image`` rounds. If more
        pairs pass the threshold, soft suppression may miss some of them; hard suppression misses those with the lowest
        scores, if fewer than ``detections_per_image`` of the candidates stay.

        Raises:
            ExportError: under ``torch.jit.trace``, which would fix the number of rounds that suppression takes.
        """
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            raise ExportError("suppression cannot be traced: use torch.export, or trace the head without it")
        logits, deltas = self._checked(output, anchors)
        anchor, classes, scores = top_pairs(
            logits,
            anchors.num_per_level,
            thresholds=self._thresholds,
            topk_per_level=self.topk_per_level,
            most=max_candidates,
        )
        boxes = self.coder.decode(rows_of(deltas, anchor), anchors.boxes[anchor])
        extents = image_extents(image_hw, original_hw, num_images=logits.shape[0], like=boxes)[:, :, None]
        before, after = BOX_STEPS[self.convention]
        boxes, valid = take_steps(before, boxes, extents)
        places, scores = self._suppress_padded(boxes, scores.where(valid, 0), classes)
        boxes, valid = take_steps(after, rows_of(boxes, places), extents)
        valid, classes = valid & (scores > 0), classes.gather(1, places)
        return PaddedDetections(
            boxes.where(valid[..., None], 0), scores.where(valid, 0), classes.where(valid, 0), valid
        )

    def _suppress(
        self, boxes: Float[Tensor, "n 4"], pairs: Pairs, valid: Bool[Tensor, " n"], num_images: int
    ) -> list[tuple[Int64[Tensor, " k"], Float[Tensor, " k"]]]:
        """For each image the rows of its detections in falling order of score, and their scores."""
        image, classes, scores = pairs.image, pairs.classes, pairs.scores
        rows = valid.nonzero()[:, 0]
        if self.nms == "hard":  # one suppression for all images
            groups = classes * num_images * (not self.class_agnostic) + image
            rows = rows[class_nms(boxes[rows], scores[rows], classes=groups[rows], iou_threshold=self.iou_threshold)]
        of_images = [rows[image[rows] == index] for index in range(num_images)]
        if self.nms == "hard" or not num_images:
            return [(own[: self.max_detections], scores[own[: self.max_detections]]) for own in of_images]
        padded = pad_sequence(of_images, batch_first=True, padding_value=-1)
        found = self._suppress_padded(boxes[padded], scores[padded].where(padded >= 0, 0), classes[padded])
        return [(own[place[score > 0]], score[score > 0]) for own, place, score in zip(padded, *found, strict=True)]

    def _suppress_padded(
        self, boxes: Float[Tensor, "b n 4"], scores: Float[Tensor, "b n"], classes: Int64[Tensor, "b n"]
    ) -> tuple[Int64[Tensor, "b k"], Float[Tensor, "b k"]]:
        """Places and scores of the detections in falling order of score; 0 is the score of boxes that take no part."""
        count = at_most(self.max_detections, scores.shape[1])
        groups = torch.zeros_like(classes) if self.class_agnostic else classes
        if self.nms == "hard":
            stays = nms_mask(boxes, groups, valid=scores > 0, iou_threshold=self.iou_threshold)
            in_order = stays * torch.arange(stays.shape[1], 0, -1, device=stays.device)
            places = in_order.topk(count).indices
            return places, (scores * stays).gather(1, places)
        return soft_nms(
            boxes,
            scores,
            groups,
            decay=self.nms,
            lowest=thresholds_of(classes, self._thresholds, scores),
            iou_threshold=self.iou_threshold,
            sigma=self.sigma,
            num_rounds=count,
        )

    def _checked(self, output: HeadOutput, anchors: GridAnchors) -> HeadOutput:
        """The output, if it has one row for each anchor and a class for each threshold."""
        (logits, deltas), num_anchors = output, anchors.boxes.shape[0]  # len would fix the size in an export
        if logits.ndim != 3 or logits.shape[1] != num_anchors or deltas.shape != (logits.shape[0], num_anchors, 4):
            raise ValueError(
                f"{num_anchors} anchors need logits (images, {num_anchors}, classes) and deltas (images, {num_anchors}, "
                f"4), got {tuple(logits.shape)} and {tuple(deltas.shape)}"
            )
        self.check_classes(logits.shape[2])
        return output
