"""This package's parts inside torchvision's RetinaNet, and the weights of a detector for torchvision's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detect.anchors.anchor_set import AnchorLevel, AnchorSet, level_name
from detect.anchors.generator import AnchorGenerator
from detect.anchors.grid_convention import Convention
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ConvertError
from detect.heads.criterion import ImageTargets, RetinaNetCriterion, checked_targets
from detect.heads.fpn import list_maps
from detect.heads.postprocess import PostProcess
from detect.heads.retinanet import RetinaNetHead
from detect.interop.weights import ConvertedWeights, convert_weights
from detect.ops.matcher import MaxIoU
from detect.ops.torchvision_import import import_torchvision

import_torchvision()

from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchors  # noqa: E402 - not before the line above
from torchvision.models.detection.retinanet import RetinaNet as TorchvisionRetinaNet  # noqa: E402

STRIDES = (8, 16, 32, 64, 128)


class RetinaNet(TorchvisionRetinaNet):  # type: ignore[misc]
    """A torchvision RetinaNet whose parts behind the backbone are this package's; made by :func:`import_head`.

    It takes and gives what torchvision's does: images and targets (``boxes``, ``labels``, and ``iscrowd``, whose boxes no
    anchor learns as background) in training, for a dict of two losses; images in evaluation, for a list of dicts of
    ``boxes``, ``scores`` and ``labels``.
    """

    def __init__(
        self,
        model: TorchvisionRetinaNet,
        head: RetinaNetHead,
        grid: AnchorGenerator,
        criterion: nn.Module,
        post_process: PostProcess,
        levels: tuple[int, ...] | None,
    ) -> None:
        nn.Module.__init__(self)  # torchvision's own would build a head and anchors only to drop them
        self.transform = model.transform
        self.backbone = model.backbone
        self.head = head
        self.grid = grid
        self.criterion = criterion
        self.post_process = post_process
        self.levels = levels

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation."""
        if self.training:
            targets = self._checked(targets, len(images))
        original_hw = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, resized = self.transform(images, targets)
        features = list_maps(self.backbone(batch.tensors))
        if self.levels is not None:
            features = [features[level] for level in self.levels]
        output = self.head(features)
        level_hw = [(level.shape[-2], level.shape[-1]) for level in features]
        anchors = self.grid.generate(level_hw, tuple(batch.tensors.shape[-2:]), device=batch.tensors.device)
        if self.training:
            losses = self.criterion(output, anchors, [_image_targets(target) for target in resized])
            return {"classification": losses.classification, "bbox_regression": losses.box}
        found = self.post_process(output, anchors, image_hw=batch.image_sizes, original_hw=original_hw)
        return [{"boxes": each.boxes, "scores": each.scores, "labels": each.classes} for each in found]

    def _checked(self, targets: Sequence[Mapping[str, Tensor]] | None, num_images: int) -> list[dict[str, Tensor]]:
        """The user's targets, checked here because resizing and crowds change numbers and rows."""
        if targets is None:
            raise ValueError("targets are missing: in training each image needs boxes and labels")
        if len(targets) != num_images:
            raise ValueError(f"targets of {len(targets)} images for {num_images} images")
        plain = [ImageTargets(target["boxes"], target["labels"]) for target in targets]
        checked: list[dict[str, Tensor]] = []
        for target, each in zip(targets, checked_targets(plain, self.head.num_classes), strict=True):
            if "iscrowd" in target and target["iscrowd"].shape != each.classes.shape:
                found = f"{len(each.classes)} labels, but iscrowd is {tuple(target['iscrowd'].shape)}"
                raise ValueError(f"targets of image {len(checked)}: {found}")
            checked.append({**target, "boxes": each.boxes, "labels": each.classes})
        return checked


def import_head(
    model: TorchvisionRetinaNet,
    head: RetinaNetHead,
    grid: AnchorGenerator,
    *,
    criterion: nn.Module | None = None,
    post_process: PostProcess | None = None,
    levels: Sequence[int] | None = None,
) -> RetinaNet:
    """A torchvision RetinaNet with this head and these anchors; transform and backbone are the model's own, not copies.

    Args:
        model: from ``torchvision.models.detection``, version 1 or 2.
        grid: the anchors, as many per cell as the head has; :func:`grid_of` gives the model's.
        criterion: by default the model's rule of matching and its losses.
        post_process: by default with the model's thresholds and numbers.
        levels: which of the backbone's feature maps are used, by index from fine to coarse; by default all.
    """
    head.check_anchors(grid.num_anchors)
    if levels is not None and len(levels) != len(grid.num_anchors):
        raise ValueError(f"{len(levels)} levels of the backbone for anchors on {len(grid.num_anchors)}")
    matcher = model.proposal_matcher
    criterion = criterion or RetinaNetCriterion(
        matcher=MaxIoU(fg_iou_thresh=matcher.high_threshold, bg_iou_thresh=matcher.low_threshold),
        box_loss=model.head.regression_head._loss_type,
    )
    post_process = post_process or PostProcess(
        score_threshold=model.score_thresh,
        topk_per_level=model.topk_candidates,
        iou_threshold=model.nms_thresh,
        detections_per_image=model.detections_per_img,
    )
    chosen = None if levels is None else tuple(levels)
    return RetinaNet(model, head, grid, criterion, post_process, chosen).train(model.training)


def grid_of(generator: TorchvisionAnchors, strides: Sequence[int] = STRIDES) -> AnchorGenerator:
    """The anchors of a torchvision ``TorchvisionAnchors``, with its rounding and strides; ``strides`` name the levels."""
    levels = []
    for stride, cell in zip(strides, generator.cell_anchors, strict=True):
        shapes = [(width, height) for width, height in (cell[:, 2:] - cell[:, :2]).tolist()]
        levels.append(AnchorLevel(level_name(stride), stride, shapes))
    return AnchorGenerator(
        AnchorSet(tuple(levels), center_offset=0.0, name="torchvision"), convention=Convention(stride_mode="floor")
    )


def torchvision_weights(detector: RetinaNetDetector) -> ConvertedWeights:
    """Convert a detector's weights for torchvision's ``RetinaNet``, and note the arguments with which it computes the same.

    Raises:
        ConvertError: torchvision has no such network: the backbone is not one of its ResNets, the strides are not 8 to
            128 with P6 and P7 on top, or levels differ in their number of anchors.
    """
    name, strides = detector.backbone.name, tuple(level.stride for level in detector.grid.anchors.levels)
    counts = detector.grid.num_anchors
    if not re.match(r"torchvision:(resnet|resnext|wide_resnet)", name):
        raise ConvertError(f"torchvision's RetinaNet is built on one of its ResNets, this one on {name!r}")
    if strides != STRIDES or detector.backbone.strides != STRIDES[:3]:
        raise ConvertError(
            f"torchvision's RetinaNet has levels of strides {STRIDES}, the first three from the backbone; this "
            f"one has {strides}, and {detector.backbone.strides} from the backbone"
        )
    if len(set(counts)) > 1:
        raise ConvertError(f"torchvision's head has as many anchors on every level, this one {counts}")
    state = {
        re.sub(r"^backbone\.model\.", "backbone.", key): value
        for key, value in detector.state_dict().items()
        if key.startswith(("backbone.", "pyramid.", "head."))
    }
    converted = convert_weights(
        state, "torchvision", source="ours", num_classes=detector.head.num_classes, num_sizes=counts[0], num_ratios=1
    )
    mean, std = (values.flatten().tolist() for values in (detector.normalise.mean, detector.normalise.std))
    notes = (  # normalisation and anchors are no weights
        f"build it with image_mean={mean}, image_std={std}",
        "its anchors: what `detect anchors convert --to torchvision` writes for the anchors of this detector",
    )
    return replace(converted, notes=converted.notes + notes)


def _image_targets(target: Mapping[str, Tensor]) -> ImageTargets:
    boxes, labels = target["boxes"], target["labels"]
    if "iscrowd" not in target:
        return ImageTargets(boxes, labels)
    crowd = target["iscrowd"].to(torch.bool)
    return ImageTargets(boxes[~crowd], labels[~crowd], boxes[crowd])
