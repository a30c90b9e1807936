"""From a head's output to detections: score threshold, best pairs of each level, decoding, NMS (Lin et al. 2017, 4.1).

Boxes are (x0, y0, x1, y1) in continuous pixels: of the network's input before rescaling, of the original image after it.
Frameworks differ in what they do to boxes before and after non-maximum suppression; ``convention`` chooses:

``torchvision``
    clip to the input, suppress; then rescale to the original. At most 300 detections.
``detectron2``
    suppress the decoded boxes; then rescale to the original, clip, drop boxes without extent. At most 100.
``mmdet``
    clip to the input, rescale to the original, drop boxes without extent; then suppress. At most 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from detect.anchors.generator import GridAnchors
from detect.errors import ExportError
from detect.heads.retinanet import HeadOutput
from detect.ops.boxes import BoxCoder
from detect.ops.nms import class_nms, nms_mask

Step = Literal["clip_to_input", "rescale", "clip_to_original", "drop_empty"]
Sizes = Sequence[tuple[int, int]] | Int64[Tensor, "b 2"]

BOX_STEPS: dict[str, tuple[tuple[Step, ...], tuple[Step, ...]]] = {  # before and after suppression
    "torchvision": (("clip_to_input",), ("rescale",)),
    "detectron2": ((), ("rescale", "clip_to_original", "drop_empty")),
    "mmdet": (("clip_to_input", "rescale", "drop_empty"), ()),
}
DETECTIONS_PER_IMAGE: dict[str, int] = {"torchvision": 300, "detectron2": 100, "mmdet": 100}


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of one image, in falling order of score; a class is a column of the head's logits."""

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    classes: Int64[Tensor, " n"]

    def __post_init__(self) -> None:
        boxes, scores, classes = len(self.boxes), len(self.scores), len(self.classes)
        if not boxes == scores == classes:
            raise ValueError(f"detections have {boxes} boxes, {scores} scores and {classes} classes")


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
        score_threshold: a detection's score is above it; from 0, below 1.
        topk_per_level: pairs of anchor and class that a level may give an image, the best ones.
        iou_threshold: a box falls if a better one of its class overlaps it with a higher IoU; from 0 to 1.
        detections_per_image: the largest number; None takes the convention's.
        convention: ``"torchvision"``, ``"detectron2"`` or ``"mmdet"``.
    """

    coder: BoxCoder = field(default_factory=BoxCoder)
    score_threshold: float = 0.05
    topk_per_level: int = 1000
    iou_threshold: float = 0.5
    detections_per_image: int | None = None
    convention: str = "torchvision"

    def __post_init__(self) -> None:
        if self.convention not in BOX_STEPS:
            raise ValueError(f"convention is one of {', '.join(BOX_STEPS)}, got {self.convention!r}")
        if not 0 <= self.score_threshold < 1 or not 0 <= self.iou_threshold <= 1:
            got = f"{self.score_threshold=}, {self.iou_threshold=}"
            raise ValueError(f"need 0 <= score_threshold < 1 and 0 <= iou_threshold <= 1, got {got}")
        if self.topk_per_level < 1 or self.max_detections < 1:
            got = f"{self.topk_per_level=}, {self.max_detections=}"
            raise ValueError(f"need topk_per_level and detections_per_image from 1, got {got}")

    @property
    def max_detections(self) -> int:
        """The largest number of detections in an image."""
        return DETECTIONS_PER_IMAGE[self.convention] if self.detections_per_image is None else self.detections_per_image

    def __call__(
        self, output: HeadOutput, anchors: GridAnchors, *, image_hw: Sizes, original_hw: Sizes | None = None
    ) -> list[Detections]:
        """The detections of each image.

        Args:
            output: logits, and deltas as ``coder`` encodes them.
            anchors: the same for all images, in pixels of the network's input.
            image_hw: (height, width) of each image in the network's input, without padding.
            original_hw: (height, width) of each image before it was resized; None leaves boxes in the input's scale.
        """
        logits, deltas = _check_rows(output, anchors)
        image, anchor, classes, scores = self._best_pairs(logits, anchors.num_per_level)
        boxes = self.coder.decode(deltas[image, anchor], anchors.boxes[anchor])
        extents = _extents(image_hw, original_hw, num_images=logits.shape[0], like=boxes)
        before, after = BOX_STEPS[self.convention]
        boxes, valid = _take_steps(before, boxes, extents[:, image])
        rows = valid.nonzero()[:, 0]
        groups = image * logits.shape[-1] + classes  # one suppression for all images
        rows = rows[class_nms(boxes[rows], scores[rows], classes=groups[rows], iou_threshold=self.iou_threshold)]
        detections = []
        for index in range(len(logits)):
            own = rows[image[rows] == index][: self.max_detections]
            kept, valid = _take_steps(after, boxes[own], extents[:, index])
            detections.append(Detections(kept[valid], scores[own][valid], classes[own][valid]))
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
        O(b max_candidates^2). If more pairs pass the threshold, and fewer than ``detections_per_image`` of the candidates
        stay, the detections with the lowest scores are missing.

        Raises:
            ExportError: under ``torch.jit.trace``, which would fix the number of rounds that suppression takes.
        """
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            raise ExportError("suppression cannot be traced: use torch.export, or trace the head without it")
        logits, deltas = _check_rows(output, anchors)
        anchor, classes, scores = self._top_pairs(logits, anchors.num_per_level, max_candidates)
        boxes = self.coder.decode(_rows(deltas, anchor), anchors.boxes[anchor])
        extents = _extents(image_hw, original_hw, num_images=logits.shape[0], like=boxes)[:, :, None]
        before, after = BOX_STEPS[self.convention]
        boxes, valid = _take_steps(before, boxes, extents)
        stays = nms_mask(
            boxes, classes, valid=valid & (scores > self.score_threshold), iou_threshold=self.iou_threshold
        )
        count = stays.shape[1]
        in_order = stays * torch.arange(count, 0, -1, device=stays.device)
        places = in_order.topk(_at_most(self.max_detections, count)).indices
        boxes, valid = _take_steps(after, _rows(boxes, places), extents)
        valid = valid & stays.gather(1, places)
        scores, classes = scores.gather(1, places), classes.gather(1, places)
        return PaddedDetections(
            boxes.where(valid[..., None], 0), scores.where(valid, 0), classes.where(valid, 0), valid
        )

    def _best_pairs(
        self, logits: Float[Tensor, "b a c"], num_per_level: Sequence[int]
    ) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Int64[Tensor, " n"], Float[Tensor, " n"]]:
        """Image, anchor, class and score of the best pairs, sorted by image, level and falling score."""
        least = _logit_below(self.score_threshold, logits.dtype)
        image, anchor = (~(logits.amax(dim=-1) <= least)).nonzero(as_tuple=True)  # few anchors have any class above it
        rows = logits[image, anchor]
        row, classes = (rows > least).nonzero(as_tuple=True)
        scores = rows[row, classes].to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
        above = scores > self.score_threshold
        row, classes, scores = row[above], classes[above], scores[above]
        image, anchor = image[row], anchor[row]
        ends = torch.tensor(num_per_level, device=logits.device).cumsum(dim=0)
        part = image * len(ends) + torch.bucketize(anchor, ends, right=True)
        order = scores.argsort(descending=True, stable=True)
        order = order[part[order].argsort(stable=True)]
        part = part[order]
        rank = torch.arange(len(part), device=part.device) - torch.searchsorted(part, part)
        order = order[rank < self.topk_per_level]
        return image[order], anchor[order], classes[order], scores[order]

    def _top_pairs(
        self, logits: Float[Tensor, "b a c"], num_per_level: Sequence[int], most: int
    ) -> tuple[Int64[Tensor, "b n"], Int64[Tensor, "b n"], Float[Tensor, "b n"]]:
        """Anchor, class and score of the ``most`` best pairs in falling order of score, also below the threshold."""
        start, num_classes = 0, logits.shape[-1]
        values, pairs = [], []
        for level in torch.split(logits, list(num_per_level), dim=1):
            count = min(self.topk_per_level, most)
            best = level.amax(dim=-1)  # the best pairs are in the best rows
            anchor = best.topk(_at_most(count, best.shape[1])).indices
            value, place = _rows(level, anchor).flatten(1).topk(_at_most(count, anchor.shape[1] * num_classes))
            values.append(value)
            pairs.append((start + anchor.gather(1, place // num_classes)) * num_classes + place % num_classes)
            start += level.shape[1]
        joined = torch.cat(values, dim=1)
        scores = joined.to(torch.promote_types(joined.dtype, torch.float32)).sigmoid()
        scores, place = scores.topk(_at_most(most, scores.shape[1]))
        pair = torch.cat(pairs, dim=1).gather(1, place)
        ties = scores[:, None] == scores[..., None]
        ahead = (scores[:, None] > scores[..., None]) | (ties & (pair[:, None] < pair[..., None]))
        order = ahead.sum(dim=-1).argsort()  # ONNX has no stable sort
        pair = pair.gather(1, order)
        return pair // num_classes, pair % num_classes, scores.gather(1, order)


def _take_steps(
    steps: Sequence[Step], boxes: Float[Tensor, "*n 4"], extents: Float[Tensor, "2 *#n 4"]
) -> tuple[Float[Tensor, "*n 4"], Bool[Tensor, "*n"]]:
    """The boxes after these steps, and which of them are kept."""
    image, original = extents
    valid = torch.ones_like(boxes[..., 0], dtype=torch.bool)
    for step in steps:
        if step == "clip_to_input":
            boxes = boxes.clamp(min=0).minimum(image)
        elif step == "rescale":
            boxes = boxes * (original / image)
        elif step == "clip_to_original":
            boxes = boxes.clamp(min=0).minimum(original)
        else:
            valid = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    return boxes, valid


def _extents(image_hw: Sizes, original_hw: Sizes | None, *, num_images: int, like: Tensor) -> Float[Tensor, "2 b 4"]:
    """(width, height, width, height) of each image: in the network's input, and originally."""
    both = []
    for name, sizes in (("image_hw", image_hw), ("original_hw", image_hw if original_hw is None else original_hw)):
        hw = torch.as_tensor(sizes, device=like.device)
        if hw.shape != (num_images, 2) and (num_images or hw.numel()):  # an empty list is the sizes of no images
            raise ValueError(f"{name} is one height and width for each of {num_images} images, got {tuple(hw.shape)}")
        both.append(hw)
    return torch.stack(both).reshape(2, -1, 2).flip(-1).repeat(1, 1, 2).to(like.dtype)


def _rows(values: Float[Tensor, "b a d"], rows: Int64[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))


def _at_most(count: int, size: int) -> int:
    """The smaller of the two, as one expression while an export traces sizes."""
    return torch.sym_min(count, size)  # type: ignore[no-untyped-call]


def _logit_below(score: float, dtype: torch.dtype) -> float:
    """A logit a little below that of a score, so that rounding never puts a higher score under it."""
    if score == 0:
        return -math.inf
    logit = math.log(score / (1 - score))
    return logit - 4 * torch.finfo(dtype).eps * (1 + abs(logit)) / (1 - score)


def _check_rows(output: HeadOutput, anchors: GridAnchors) -> HeadOutput:
    """The output, if it has one row for each anchor."""
    (logits, deltas), num_anchors = output, anchors.boxes.shape[0]  # len would fix the size in an export
    if logits.ndim != 3 or logits.shape[1] != num_anchors or deltas.shape != (logits.shape[0], num_anchors, 4):
        raise ValueError(
            f"{num_anchors} anchors need logits (images, {num_anchors}, classes) and deltas (images, {num_anchors}, 4), "
            f"got {tuple(logits.shape)} and {tuple(deltas.shape)}"
        )
    return output
