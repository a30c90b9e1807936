"""From a head's output to detections: threshold, best pairs of each level, decoding, suppression (Lin et al. 2017, 4.1).

Boxes are (x0, y0, x1, y1) in continuous pixels: of the network's input up to the change of scale, of the original image
after it. Frameworks differ in what they do to boxes before and after non-maximum suppression; ``convention`` chooses:

``torchvision``
    clip to the input, suppress; then to the original's scale. At most 300 detections.
``detectron2``
    suppress boxes as they were decoded; then to the original's scale, clip, drop boxes without extent. At most 100.
``mmdet``
    clip to the input, to the original's scale, drop boxes without extent; then suppress. At most 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from detect.anchors.generator import AnchorGenerator
from detect.errors import ExportError
from detect.heads.fpn import FeatureMaps, list_maps
from detect.heads.retinanet import RetinaNetHead
from detect.ops.boxes import BoxCoder
from detect.ops.nms import class_nms, nms_mask

Step = Literal["clip_to_input", "rescale", "clip_to_original", "drop_empty"]
Sizes = Sequence[tuple[int, int]] | Int64[Tensor, "b 2"]

STEPS: dict[str, tuple[tuple[Step, ...], tuple[Step, ...]]] = {  # before and after suppression
    "torchvision": (("clip_to_input",), ("rescale",)),
    "detectron2": ((), ("rescale", "clip_to_original", "drop_empty")),
    "mmdet": (("clip_to_input", "rescale", "drop_empty"), ()),
}
DETECTIONS_PER_IMAGE: dict[str, int] = {"torchvision": 300, "detectron2": 100, "mmdet": 100}


@dataclass(frozen=True, eq=False)
class Detections:
    """What is found in one image, in falling order of score; a class is a column of the head's logits.

    Raises:
        ValueError: boxes, scores and classes differ in number.
    """

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    classes: Int64[Tensor, " n"]

    def __post_init__(self) -> None:
        num_boxes, num_scores, num_classes = len(self.boxes), len(self.scores), len(self.classes)
        if not num_boxes == num_scores == num_classes:
            raise ValueError(f"detections have {num_boxes} boxes, {num_scores} scores and {num_classes} classes")


class PaddedDetections(NamedTuple):
    """What is found in each image, in falling order of score, at one length: where not ``valid``, all is 0."""

    boxes: Float[Tensor, "b n 4"]
    scores: Float[Tensor, "b n"]
    classes: Int64[Tensor, "b n"]
    valid: Bool[Tensor, "b n"]


@dataclass(frozen=True)
class PostProcess:
    """How a head's output becomes detections.

    Of each level and image, the ``topk_per_level`` pairs of anchor and class with the highest score above
    ``score_threshold`` are decoded by ``coder``. Of boxes of one class that overlap with IoU > ``iou_threshold``, the
    best stays; of those the best ``detections_per_image`` (if None, as many as the convention's framework) are kept. Of
    equal scores the earlier comes first, in the order of levels, anchors, classes.

    >>> logits = torch.tensor([[[2.0, -9.0], [1.0, -9.0], [-9.0, 0.0]]])  # one image, three anchors, two classes
    >>> anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [8.0, 0.0, 18.0, 10.0]])
    >>> found = PostProcess()(
    ...     logits, torch.zeros(1, 3, 4), anchors=anchors, anchors_per_level=[2, 1], image_hw=[(12, 16)]
    ... )
    >>> found[0]
    Detections(boxes=tensor([[ 0.,  0., 10., 10.],
            [ 8.,  0., 16., 10.]]), scores=tensor([0.8808, 0.5000]), classes=tensor([0, 1]))
    """

    coder: BoxCoder = field(default_factory=BoxCoder)
    score_threshold: float = 0.05
    topk_per_level: int = 1000
    iou_threshold: float = 0.5
    detections_per_image: int | None = None
    convention: str = "torchvision"

    def __post_init__(self) -> None:
        if self.convention not in STEPS:
            raise ValueError(f"convention is one of {', '.join(STEPS)}, got {self.convention!r}")
        if not 0 <= self.score_threshold < 1 or not 0 <= self.iou_threshold <= 1:
            raise ValueError(
                f"need 0 <= score_threshold < 1 and 0 <= iou_threshold <= 1, got {self.score_threshold=}, "
                f"{self.iou_threshold=}"
            )
        if self.topk_per_level < 1 or self.most < 1:
            raise ValueError(
                f"need at least 1 of topk_per_level and detections_per_image, got {self.topk_per_level=}, {self.most=}"
            )

    @property
    def most(self) -> int:
        """The largest number of detections in an image."""
        return DETECTIONS_PER_IMAGE[self.convention] if self.detections_per_image is None else self.detections_per_image

    def __call__(
        self,
        logits: Float[Tensor, "b a c"],
        deltas: Float[Tensor, "b a 4"],
        *,
        anchors: Float[Tensor, "a 4"],
        anchors_per_level: Sequence[int],
        image_hw: Sizes,
        original_hw: Sizes | None = None,
    ) -> list[Detections]:
        """Detections of each image.

        Args:
            logits: of the anchors, level by level; before the sigmoid.
            deltas: offsets from the anchors, as ``coder`` encodes them.
            anchors: the same for all images, in pixels of the network's input.
            anchors_per_level: how many of the anchors are each level's.
            image_hw: (height, width) of each image as the network sees it, without padding.
            original_hw: (height, width) of each image before it was resized; if None, boxes stay in the input's scale.

        Raises:
            ValueError: logits and deltas are not one row for each anchor, ``anchors_per_level`` does not add up to the
                number of anchors, or there is not one size for each image.
        """
        _check_rows(logits, deltas, anchors, anchors_per_level)
        image, anchor, classes, scores = self._best_pairs(logits, anchors_per_level)
        boxes = self.coder.decode(deltas[image, anchor], anchors[anchor])
        extents = _extents(image_hw, original_hw, num_images=logits.shape[0], like=boxes)
        before, after = STEPS[self.convention]
        boxes, valid = _take_steps(before, boxes, extents[:, image])
        rows = valid.nonzero()[:, 0]
        groups = image * logits.shape[-1] + classes  # so that one suppression does for all images
        rows = rows[class_nms(boxes[rows], scores[rows], groups[rows], self.iou_threshold)]
        found = []
        for index in range(len(logits)):
            own = rows[image[rows] == index][: self.most]
            placed, valid = _take_steps(after, boxes[own], extents[:, index])
            found.append(Detections(placed[valid], scores[own][valid], classes[own][valid]))
        return found

    def padded(
        self,
        logits: Float[Tensor, "b a c"],
        deltas: Float[Tensor, "b a 4"],
        *,
        anchors: Float[Tensor, "a 4"],
        anchors_per_level: Sequence[int],
        image_hw: Sizes,
        original_hw: Sizes | None = None,
        max_candidates: int = 1000,
    ) -> PaddedDetections:
        """As a call, in shapes that no data changes: for torch.export, torch.compile and ONNX.

        Only the best ``max_candidates`` pairs of an image, over all levels, meet in suppression, in memory
        O(b max_candidates^2). The detections are those of a call, but where more pairs than that pass the threshold and
        fewer than ``detections_per_image`` of them stay, the lowest are missing.

        Raises:
            ValueError: as a call.
            ExportError: beneath ``torch.jit.trace``, which would keep the number of rounds that suppression took.
        """
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            raise ExportError("suppression cannot be traced: use torch.export, or trace the head without it")
        _check_rows(logits, deltas, anchors, anchors_per_level)
        anchor, classes, scores = self._top_pairs(logits, anchors_per_level, max_candidates)
        boxes = self.coder.decode(_rows(deltas, anchor), anchors[anchor])
        extents = _extents(image_hw, original_hw, num_images=logits.shape[0], like=boxes)[:, :, None]
        before, after = STEPS[self.convention]
        boxes, valid = _take_steps(before, boxes, extents)
        stays = nms_mask(boxes, classes, valid & (scores > self.score_threshold), self.iou_threshold)
        count = stays.shape[1]
        in_order = stays * torch.arange(count, 0, -1, device=stays.device)
        places = in_order.topk(_at_most(self.most, count)).indices
        boxes, valid = _take_steps(after, _rows(boxes, places), extents)
        valid = valid & stays.gather(1, places)
        return PaddedDetections(
            boxes.where(valid[..., None], 0),
            scores.gather(1, places).where(valid, 0),
            classes.gather(1, places).where(valid, 0),
            valid,
        )

    def _best_pairs(
        self, logits: Float[Tensor, "b a c"], anchors_per_level: Sequence[int]
    ) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Int64[Tensor, " n"], Float[Tensor, " n"]]:
        """Image, anchor, class and score: by image, by level, by falling score."""
        least = _logit_below(self.score_threshold, logits.dtype)
        image, anchor = (~(logits.amax(dim=-1) <= least)).nonzero(as_tuple=True)  # few anchors have any class above it
        rows = logits[image, anchor]
        row, classes = (rows > least).nonzero(as_tuple=True)
        scores = rows[row, classes].to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
        above = scores > self.score_threshold
        row, classes, scores = row[above], classes[above], scores[above]
        image, anchor = image[row], anchor[row]
        ends = torch.tensor(anchors_per_level, device=logits.device).cumsum(dim=0)
        part = image * len(ends) + torch.bucketize(anchor, ends, right=True)
        order = scores.argsort(descending=True, stable=True)
        order = order[part[order].argsort(stable=True)]
        part = part[order]
        rank = torch.arange(len(part), device=part.device) - torch.searchsorted(part, part)
        order = order[rank < self.topk_per_level]
        return image[order], anchor[order], classes[order], scores[order]

    def _top_pairs(
        self, logits: Float[Tensor, "b a c"], anchors_per_level: Sequence[int], most: int
    ) -> tuple[Int64[Tensor, "b n"], Int64[Tensor, "b n"], Float[Tensor, "b n"]]:
        """Anchor, class and score, by falling score, whether above the threshold or not."""
        start, num_classes = 0, logits.shape[-1]
        values, pairs = [], []
        for level in torch.split(logits, list(anchors_per_level), dim=1):
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
        order = ahead.sum(dim=-1).argsort()  # a stable sort is not to be had in ONNX
        pair = pair.gather(1, order)
        return pair // num_classes, pair % num_classes, scores.gather(1, order)


def _take_steps(
    steps: Sequence[Step], boxes: Float[Tensor, "*n 4"], extents: Float[Tensor, "2 *#n 4"]
) -> tuple[Float[Tensor, "*n 4"], Bool[Tensor, "*n"]]:
    """Boxes after these steps, and which of them are not dropped."""
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
    """(width, height, width, height) of each image: as the network sees it, and originally."""
    both = []
    for name, sizes in (("image_hw", image_hw), ("original_hw", image_hw if original_hw is None else original_hw)):
        hw = torch.as_tensor(sizes, device=like.device)
        if hw.shape != (num_images, 2) and (num_images or hw.numel()):  # no images may be an empty list
            raise ValueError(f"{name} is one height and width for each of {num_images} images, got {tuple(hw.shape)}")
        both.append(hw)
    return torch.stack(both).reshape(2, -1, 2).flip(-1).repeat(1, 1, 2).to(like.dtype)


def _rows(values: Float[Tensor, "b a d"], rows: Int64[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))


def _at_most(count: int, size: int) -> int:
    """The smaller; when an export traces sizes, it stays one expression of them."""
    return torch.sym_min(count, size)  # type: ignore[no-untyped-call]


def _logit_below(score: float, dtype: torch.dtype) -> float:
    """A logit a little lower than that of this score: what has a higher score is above it, however it is rounded."""
    if score == 0:
        return -math.inf
    logit = math.log(score / (1 - score))
    return logit - 4 * torch.finfo(dtype).eps * (1 + abs(logit)) / (1 - score)


def _check_rows(logits: Tensor, deltas: Tensor, anchors: Tensor, anchors_per_level: Sequence[int]) -> None:
    total, num_anchors = sum(anchors_per_level), anchors.shape[0]
    if total != num_anchors:
        raise ValueError(f"{anchors_per_level=} adds up to {total}, but there are {num_anchors} anchors")
    if logits.ndim != 3 or logits.shape[1] != num_anchors or deltas.shape != (logits.shape[0], num_anchors, 4):
        raise ValueError(
            f"{num_anchors} anchors need logits (images, {num_anchors}, classes) and deltas (images, {num_anchors}, 4), "
            f"got {tuple(logits.shape)} and {tuple(deltas.shape)}"
        )


class DetectionHead(nn.Module):
    """From the feature maps of a pyramid to a fixed number of detections for each image, of any batch and size.

    Args:
        head: with as many anchors to a cell as the grid.
        grid: anchors with exact strides; those of other conventions follow from the size of a padded input, which
        feature maps
            do not tell.
        post_process: thresholds and numbers.
        max_candidates: pairs of anchor and class that meet in suppression, see :meth:`PostProcess.padded`.

    Raises:
        ValueError: head and grid differ in anchors, or strides are not exact.

    >>> import torch
    >>> from detect.anchors.anchor_set import AnchorSet
    >>> grid = AnchorGenerator(AnchorSet.of([[(10, 20)], [(30, 30)]], strides=(8, 16)))
    >>> model = DetectionHead(RetinaNetHead(16, grid.num_anchors, num_classes=3), grid)
    >>> found = model([torch.rand(2, 16, 4, 6), torch.rand(2, 16, 2, 3)], torch.tensor([[32, 48], [30, 40]]))
    >>> found.boxes.shape, found.valid.any().item()  # 30 anchors of 3 classes; at first every score is .01
    (torch.Size([2, 90, 4]), False)
    """

    def __init__(
        self,
        head: RetinaNetHead,
        grid: AnchorGenerator,
        post_process: PostProcess | None = None,
        *,
        max_candidates: int = 1000,
    ) -> None:
        super().__init__()
        head.check_anchors(grid.num_anchors)
        if grid.convention.stride_mode != "exact":
            raise ValueError(f"need anchors with stride_mode='exact', got {grid.convention.stride_mode!r}")
        self.head = head
        self.grid = grid
        self.post_process = post_process or PostProcess()
        self.max_candidates = max_candidates

    def forward(self, features: FeatureMaps, image_hw: Int64[Tensor, "b 2"]) -> PaddedDetections:
        """Detections; ``image_hw`` is (height, width) of each image without padding."""
        maps = list_maps(features)
        logits, deltas = self.head(maps)
        placed = self.grid.generate([(level.shape[-2], level.shape[-1]) for level in maps], device=logits.device)
        return self.post_process.padded(
            logits,
            deltas,
            anchors=placed.boxes,
            anchors_per_level=placed.num_per_level,
            image_hw=image_hw,
            max_candidates=self.max_candidates,
        )
