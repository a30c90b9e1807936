"""The RetinaNet head and what goes with it beside torchvision's: matching, training criterion, head, post-processing.

Inputs of 800 x 800 pixels, 9 anchors to a cell, 91 classes: 120,087 anchors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import Table, report_median

IMAGE_HW = (800, 800)
LEVEL_HW = [(100, 100), (50, 50), (25, 25), (13, 13), (7, 7)]
SIZES = [(x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512)]  # torchvision's
NUM_CLASSES = 91
NOWHERE = Path()


def anchors_of(device: torch.device | str = "cpu") -> Any:
    """The anchors of the grid, on a device."""
    from detect.anchors.generator import AnchorGenerator

    return AnchorGenerator.of_sizes(SIZES).generate(LEVEL_HW, IMAGE_HW, device=device)


def boxes_of(count: int, seed: int = 0) -> torch.Tensor:
    """Boxes of 4 to 700 pixels."""
    random = torch.Generator().manual_seed(seed)
    size = 60 * torch.exp(torch.randn(count, 1, generator=random))
    ratio = torch.exp(torch.randn(count, 1, generator=random) * 0.5)
    wh = torch.cat([size / ratio, size * ratio], dim=1).clamp(4, 700)
    xy = torch.rand(count, 2, generator=random) * (800 - wh)
    return torch.cat([xy, xy + wh], dim=1)


def head_output(num_images: int, likely: float = -4.6, spread: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and deltas of all anchors."""
    random = torch.Generator().manual_seed(0)
    num_anchors = 9 * sum(height * width for height, width in LEVEL_HW)
    logits = likely + spread * torch.randn(num_images, num_anchors, NUM_CLASSES, generator=random)
    return logits, 0.2 * torch.randn(num_images, num_anchors, 4, generator=random)


def match_ours(count: int, _: Path) -> None:
    from detect.ops.matcher import MaxIoU

    anchors, boxes = anchors_of(), boxes_of(count)
    report_median(lambda: MaxIoU().match(anchors.level_grids, boxes))


def match_torchvision(count: int, _: Path) -> None:
    from detect.ops.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    anchors, boxes = anchors_of().boxes, boxes_of(count)
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    report_median(lambda: matcher(box_iou(boxes, anchors)))


def _targets() -> list[dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(1)
    classes = torch.randint(0, NUM_CLASSES, (2, 20), generator=random)
    return [{"boxes": boxes_of(20, seed), "labels": classes[seed]} for seed in range(2)]


def criterion_ours(_: Path, *, compiled: bool = False) -> None:
    """Matching and both losses, forward and backward, of two images with 20 boxes each."""
    from detect.heads.criterion import RetinaNetCriterion
    from detect.heads.image_targets import ImageTargets
    from detect.heads.retinanet import HeadOutput

    anchors, output = anchors_of(), [values.requires_grad_() for values in head_output(2)]
    targets = [ImageTargets(target["boxes"], target["labels"]) for target in _targets()]
    criterion = torch.compile(RetinaNetCriterion()) if compiled else RetinaNetCriterion()

    def work() -> None:
        losses = criterion(HeadOutput(*output), anchors, targets)
        torch.autograd.grad(losses.classification + losses.box, output)

    report_median(work)


def criterion_torchvision(_: Path) -> None:
    model = torchvision_model()
    logits, deltas = (values.requires_grad_() for values in head_output(2))
    anchors, targets = [anchors_of().boxes] * 2, _targets()

    def work() -> None:
        losses = model.compute_loss(targets, {"cls_logits": logits, "bbox_regression": deltas}, anchors)
        torch.autograd.grad(sum(losses.values()), (logits, deltas))

    report_median(work)


def head_ours(_: Path, *, half: bool = False) -> None:
    """Forward of both subnets over five levels of one image."""
    from detect.heads.retinanet import RetinaNetHead

    _time_head(RetinaNetHead(256, 9, NUM_CLASSES), half)


def head_torchvision(_: Path, *, half: bool = False) -> None:
    from detect.ops.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision.models.detection.retinanet import RetinaNetHead

    _time_head(RetinaNetHead(256, 9, NUM_CLASSES), half)


def _time_head(head: Callable[[list[torch.Tensor]], Any], half: bool) -> None:
    random = torch.Generator().manual_seed(0)
    features = [torch.randn(1, 256, *hw, generator=random) for hw in LEVEL_HW]

    def work() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            head(features)

    report_median(work, repeats=3)


def detections_ours(_: Path) -> None:
    """From 17,000 pairs of anchor and class above .05 to 300 detections of one image."""
    from detect.heads.postprocess import PostProcess
    from detect.heads.retinanet import HeadOutput

    anchors, output = anchors_of(), HeadOutput(*head_output(1, *CANDIDATES))
    report_median(lambda: PostProcess()(output, anchors, image_hw=[IMAGE_HW]))


def detections_torchvision(_: Path) -> None:
    """With the same suppression underneath."""
    model, on_grid = torchvision_model(), anchors_of()
    per_level = on_grid.num_per_level
    logits, deltas = (list(torch.split(values, per_level, dim=1)) for values in head_output(1, *CANDIDATES))
    anchors = [list(on_grid.boxes.split(per_level))]
    outputs = {"cls_logits": logits, "bbox_regression": deltas}
    report_median(lambda: model.postprocess_detections(outputs, anchors, [IMAGE_HW]))


def nms_ours(count: int, _: Path) -> None:
    from detect.ops.nms import class_nms

    boxes, scores = boxes_of(count), _scores(count)
    report_median(
        lambda: class_nms(boxes, scores, classes=torch.zeros(count, dtype=torch.int64), iou_threshold=IOU_THRESHOLD)
    )


def nms_compiled(count: int, _: Path) -> None:
    """A compiled kernel that is to be had on every machine; it takes float32 and sorts and suppresses as ours does."""
    import onnxruntime
    from onnx import TensorProto, helper

    kinds = {
        "boxes": TensorProto.FLOAT,
        "scores": TensorProto.FLOAT,
        "most": TensorProto.INT64,
        "iou": TensorProto.FLOAT,
    }
    inputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    output = helper.make_tensor_value_info("kept", TensorProto.INT64, None)
    node = helper.make_node("NonMaxSuppression", list(kinds), ["kept"])
    graph = helper.make_graph([node], "nms", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feed = {"boxes": boxes_of(count)[None].numpy(), "scores": _scores(count)[None, None].numpy()}
    feed |= {"most": torch.tensor([count]).numpy(), "iou": torch.tensor([IOU_THRESHOLD]).numpy()}
    report_median(lambda: session.run(None, feed))


def _scores(count: int) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(2))


IOU_THRESHOLD = 0.5
CANDIDATES = (-8.0, 1.71)  # mean and spread of logits, of which some 17,000 are then above the threshold's


def torchvision_model(**options: Any) -> Any:
    """torchvision's RetinaNet, with random weights."""
    from detect.ops.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision.models.detection import retinanet_resnet50_fpn

    return retinanet_resnet50_fpn(weights=None, weights_backbone=None, **options).eval()


BOXES = (20, 100, 1000)
SUPPRESSED = (300, 1000, 5000)

WORK: dict[str, Callable[[Path], None]] = {
    **{f"match_ours_{count}": partial(match_ours, count) for count in BOXES},
    **{f"match_torchvision_{count}": partial(match_torchvision, count) for count in BOXES},
    "criterion_ours": criterion_ours,
    "criterion_compiled": partial(criterion_ours, compiled=True),
    "criterion_torchvision": criterion_torchvision,
    "head_ours": head_ours,
    "head_torchvision": head_torchvision,
    "half_head_ours": partial(head_ours, half=True),
    "half_head_torchvision": partial(head_torchvision, half=True),
    "detections_ours": detections_ours,
    "detections_torchvision": detections_torchvision,
    **{f"nms_ours_{count}": partial(nms_ours, count) for count in SUPPRESSED},
    **{f"nms_compiled_{count}": partial(nms_compiled, count) for count in SUPPRESSED},
}


def tables() -> list[Table]:
    """What to compare."""

    def table(title: str, **names: str) -> Table:
        return Table(title, NOWHERE, names, extra_memory=True)

    ours, torchvision = "detect.ops.matcher.MaxIoU", "torchvision box_iou and Matcher"
    matching = [
        table(
            f"Matching {count} boxes to 120,087 anchors",
            **{f"match_ours_{count}": ours, f"match_torchvision_{count}": torchvision},
        )
        for count in BOXES
    ]
    ours, compiled = "detect.ops.nms.class_nms, pure torch", "onnxruntime NonMaxSuppression, compiled"
    suppression = [
        table(f"Suppression of {count} boxes", **{f"nms_ours_{count}": ours, f"nms_compiled_{count}": compiled})
        for count in SUPPRESSED
    ]
    return [
        *matching,
        table(
            "Matching and losses, forward and backward, two images of 20 boxes",
            criterion_ours="detect RetinaNetCriterion",
            criterion_compiled="the same beneath torch.compile",
            criterion_torchvision="torchvision RetinaNet.compute_loss",
        ),
        table(
            "Head, forward, one image of 800 x 800, float32",
            head_ours="detect RetinaNetHead",
            head_torchvision="torchvision RetinaNetHead",
        ),
        table(
            "Head, forward, one image of 800 x 800, bfloat16 autocast",
            half_head_ours="detect RetinaNetHead",
            half_head_torchvision="torchvision RetinaNetHead",
        ),
        table(
            "Post-processing of one image with some 17,000 candidates",
            detections_ours="detect PostProcess",
            detections_torchvision="torchvision postprocess_detections, with detect's NMS",
        ),
        *suppression,
    ]
