"""This package's parts inside torchvision's RetinaNet, its exported form, and a detector's weights for torchvision's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from detect.anchors.anchor_readers import anchors_from_torchvision
from detect.anchors.generator import AnchorGenerator, GridAnchors
from detect.anchors.grid_convention import Convention
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ConvertError
from detect.heads.criterion import RetinaNetCriterion
from detect.heads.fpn import list_maps
from detect.heads.image_targets import ImageTargets, checked_targets
from detect.heads.postprocess import PaddedDetections, PostProcess
from detect.heads.prediction_matchers import TaskAligned
from detect.heads.retinanet import HeadOutput, RetinaNetHead
from detect.interop.weights import ConvertedWeights, convert_weights
from detect.ops.boxes import BoxCoder, Coder, DistanceCoder
from detect.ops.matcher import MaxIoU
from detect.ops.torchvision_import import import_torchvision

import_torchvision()

from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchors  # noqa: E402 - not before the line above
from torchvision.models.detection.fcos import FCOS as TorchvisionFCOS  # noqa: E402, N811
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
        model: TorchvisionRetinaNet | TorchvisionFCOS,
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
        output, anchors = self.output_and_anchors(batch.tensors)
        if self.training:
            losses = self.criterion(output, anchors, [_image_targets(target) for target in resized])
            return {"classification": losses.classification, "bbox_regression": losses.box}
        found = self.post_process(output, anchors, image_hw=batch.image_sizes, original_hw=original_hw)
        return [{"boxes": each.boxes, "scores": each.scores, "labels": each.classes} for each in found]

    def output_and_anchors(self, batch: Float[Tensor, "b 3 h w"]) -> tuple[HeadOutput, GridAnchors]:
        """The head's output for a batch that is normalised, resized and padded, and the anchors for its size."""
        features = list_maps(self.backbone(batch))
        if self.levels is not None:
            features = [features[level] for level in self.levels]
        level_hw = [(level.shape[-2], level.shape[-1]) for level in features]
        image_hw = (batch.shape[-2], batch.shape[-1])
        return self.head(features), self.grid.generate(level_hw, image_hw, device=batch.device)

    def _checked(self, targets: Sequence[Mapping[str, Tensor]] | None, num_images: int) -> list[dict[str, Tensor]]:
        """The user's targets, checked here because resizing and crowds change numbers and rows."""
        if targets is None:
            raise ValueError("targets are missing: in training each image needs boxes and labels")
        if len(targets) != num_images:
            raise ValueError(f"targets of {len(targets)} images for {num_images} images")
        for number, target in enumerate(targets):
            if missing := {"boxes", "labels"} - set(target):
                raise ValueError(f"targets of image {number} have no {' and no '.join(sorted(missing))}")
        plain = [ImageTargets(target["boxes"], target["labels"]) for target in targets]
        checked: list[dict[str, Tensor]] = []
        for target, each in zip(targets, checked_targets(plain, self.head.num_classes), strict=True):
            if "iscrowd" in target and target["iscrowd"].shape != each.classes.shape:
                found = f"{len(each.classes)} labels, but iscrowd is {tuple(target['iscrowd'].shape)}"
                raise ValueError(f"targets of image {len(checked)}: {found}")
            checked.append({**target, "boxes": each.boxes, "labels": each.classes})
        return checked


class BatchDetections(nn.Module):
    """The detections of a batch of resized images: a :class:`RetinaNet` in the form that torch.export and ONNX take.

    Images are (b, 3, h, w) from 0 to 1, padded right and below, and ``image_hw`` is their (height, width) without padding.
    The result is in pixels of the batch. Images resized as the model's transform resizes them give the model's own
    detections, up to ``max_candidates``, see :meth:`~detect.heads.postprocess.PostProcess.padded`.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, model: RetinaNet, *, max_candidates: int = 1000) -> None:
        super().__init__()
        self.model = model
        self.max_candidates = max_candidates
        for name in ("image_mean", "image_std"):
            values = torch.tensor(getattr(model.transform, name), device=next(model.parameters()).device)
            self.register_buffer(name, values[:, None, None], persistent=False)

    def forward(self, images: Float[Tensor, "b 3 h w"], image_hw: Int64[Tensor, "b 2"]) -> PaddedDetections:
        """Boxes (b, n, 4), scores, labels and whether they are valid (b, n), see :class:`PaddedDetections`."""
        height, width = images.shape[-2:]
        rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
        in_image = (rows[:, None] < image_hw[:, :1, None]) & (columns < image_hw[:, 1:, None])
        normalised = (images - self.image_mean) / self.image_std
        output, anchors = self.model.output_and_anchors(normalised.where(in_image[:, None], 0))  # as torchvision pads
        return self.model.post_process.padded(output, anchors, image_hw=image_hw, max_candidates=self.max_candidates)


def import_head(
    model: TorchvisionRetinaNet | TorchvisionFCOS,
    head: RetinaNetHead,
    grid: AnchorGenerator,
    *,
    criterion: nn.Module | None = None,
    post_process: PostProcess | None = None,
    levels: Sequence[int] | None = None,
) -> RetinaNet:
    """A torchvision network with this head and these anchors; transform and backbone are the model's own, not copies.

    Args:
        model: from ``torchvision.models.detection``: a RetinaNet, version 1 or 2, or an FCOS.
        grid: the anchors, as many per cell as the head has; :func:`grid_of` gives the model's.
        criterion: by default a RetinaNet's rule of matching and losses; for an FCOS task-aligned assignment.
        post_process: by default with the model's thresholds and numbers.
        levels: which of the backbone's feature maps are used, by index from fine to coarse; by default all.

    torchvision resizes each image by its own rule, so :class:`BatchDetections` is what to export, for batches of resized
    images. With a ``model`` that this function returned::

        images, image_hw = torch.rand(2, 3, 256, 320), torch.tensor([[256, 320], [240, 300]])
        batch = {0: torch.export.Dim("b")}  # export with two images: one would be taken as always one
        program = torch.onnx.export(
            BatchDetections(model).eval(), (images, image_hw), dynamo=True, dynamic_shapes=(batch, batch),
            input_names=["images", "image_hw"], output_names=["boxes", "scores", "labels", "valid"],
        )
        program.save("retinanet.onnx")

    Raises:
        ValueError: the model is another one, or head, anchors and levels differ in number. In use: a level's stride
            contradicts its feature map.
    """
    if not isinstance(model, TorchvisionRetinaNet | TorchvisionFCOS):
        raise ValueError(f"need a RetinaNet or an FCOS of torchvision, got {type(model).__name__}")
    head.check_anchors(grid.num_anchors)
    if levels is not None and len(levels) != len(grid.num_anchors):
        raise ValueError(f"{len(levels)} levels of the backbone for anchors on {len(grid.num_anchors)}")
    if isinstance(model, TorchvisionFCOS):
        coder: Coder = DistanceCoder(activation="relu")
        own = RetinaNetCriterion(matcher=TaskAligned(), coder=coder, box_loss="giou", class_loss="quality_focal")
    else:
        matcher, coder = model.proposal_matcher, BoxCoder()
        own = RetinaNetCriterion(
            matcher=MaxIoU(fg_iou_thresh=matcher.high_threshold, bg_iou_thresh=matcher.low_threshold),
            box_loss=model.head.regression_head._loss_type,
        )
    post_process = post_process or PostProcess(
        coder=coder,
        score_threshold=model.score_thresh,
        topk_per_level=model.topk_candidates,
        iou_threshold=model.nms_thresh,
        detections_per_image=model.detections_per_img,
    )
    chosen = None if levels is None else tuple(levels)
    return RetinaNet(model, head, grid, criterion or own, post_process, chosen).train(model.training)


def grid_of(generator: TorchvisionAnchors, strides: Sequence[int] = STRIDES) -> AnchorGenerator:
    """The anchors of a torchvision ``TorchvisionAnchors``, with its rounding and strides; ``strides`` name the levels."""
    return AnchorGenerator(anchors_from_torchvision(generator, strides), convention=Convention(stride_mode="floor"))


def torchvision_weights(detector: RetinaNetDetector) -> ConvertedWeights:
    """Convert a detector's weights for torchvision's ``RetinaNet``, and note the arguments with which it computes the same.

    Raises:
        ConvertError: torchvision has no such network: the backbone is not one of its ResNets, the strides are not 8 to
            128 with P6 and P7 on top, levels differ in their number of anchors, or the anchors are points.
    """
    name, strides = detector.backbone.name, tuple(level.stride for level in detector.grid.anchors.levels)
    counts = detector.grid.num_anchors
    if not re.match(r"torchvision:(resnet|resnext|wide_resnet)", name):
        raise ConvertError(f"torchvision's RetinaNet is built on one of its ResNets, this one on {name!r}")
    if isinstance(detector.criterion.coder, DistanceCoder):
        raise ConvertError(
            "this detector predicts logarithms of distances from points, and no centerness: no network of torchvision's does"
        )
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
