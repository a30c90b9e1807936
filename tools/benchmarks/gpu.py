"""Criterion, matching, post-processing, heatmaps, peaks and training on a GPU, beside torchvision's on the same GPU.

Every row is warm and synchronised: torch.utils.benchmark repeats it for a second and gives the median. All rows share one
process; memory is the peak of one call above what its inputs take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.benchmark import Timer

from benchmarks.heads import CANDIDATES, IMAGE_HW, NUM_CLASSES, anchors_of, boxes_of, head_output, torchvision_model
from detect.anchors.anchor_set import AnchorSet
from detect.detectors.backbones import build_backbone
from detect.detectors.retinanet import RetinaNetDetector
from detect.heads.criterion import RetinaNetCriterion
from detect.heads.image_targets import ImageTargets
from detect.heads.postprocess import PostProcess
from detect.heads.retinanet import HeadOutput
from detect.keypoints.peaks import find_peaks
from detect.keypoints.targets import render_heatmaps
from detect.ops.matcher import MaxIoU
from detect.ops.torchvision_import import import_torchvision

SECONDS = 1.0  # of repetitions, for each row
NUM_IMAGES = 8
TRAINING_PX, EPOCH_STEPS = 512, 16
MAP_CELLS, MAP_IMAGES, SIGMA = 128, 64, 2.0

Work = Callable[[], object]
Case = tuple[str, str, Work, str, Work]  # title, name and work of this package, name and work of another


class Measured(NamedTuple):
    """Milliseconds, and megabytes above those in use before the call."""

    milliseconds: float
    megabytes: float


def document(device: str = "cuda") -> str:
    """Measure all cases on a device, as a Markdown file."""
    lines = [
        "# Benchmarks on a GPU\n",
        f"Made by `make gpu` (tools/bench.py gpu) on one {torch.cuda.get_device_name()}, torch {torch.__version__}: "
        f"medians of {SECONDS:g} s of repetitions, warm and synchronised; above a ratio of 1 the other takes longer.\n",
        "| | ms | ms of the other | ratio | MB | MB of the other | the other |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for title, ours, work, other, other_work in cases(torch.device(device)):
        own, peer = measure(work), measure(other_work)
        times = f"{own.milliseconds:.3g} | {peer.milliseconds:.3g} | {peer.milliseconds / own.milliseconds:.2f}"
        lines.append(f"| {title}: {ours} | {times} | {own.megabytes:.0f} | {peer.megabytes:.0f} | {other} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def measure(work: Work) -> Measured:
    """The median time and the peak memory of one call."""
    work()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    peak = torch.cuda.max_memory_allocated() - before
    timer = Timer("work()", globals={"work": work})
    return Measured(timer.blocked_autorange(min_run_time=SECONDS).median * 1e3, peak / 1e6)


def cases(device: torch.device) -> Iterator[Case]:
    """What to compare; the inputs of a case are made once, on the device."""
    for count in (20, 1000):
        yield matching(count, device)
    yield criterion(device)
    for num_images in (1, NUM_IMAGES):
        yield post_processing(num_images, device)
    yield targets(device)
    yield peaks(device)
    yield training(device)


def matching(count: int, device: torch.device) -> Case:
    """Boxes of one image to anchors."""
    import_torchvision()
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    anchors, boxes = anchors_of(device), boxes_of(count).to(device)
    matcher, other = MaxIoU(), Matcher(0.5, 0.4, allow_low_quality_matches=True)
    return (
        f"matching {count} boxes to {len(anchors.boxes):,} anchors",
        "MaxIoU",
        lambda: matcher.match(anchors.level_grids, boxes),
        "box_iou and Matcher",
        lambda: other(box_iou(boxes, anchors.boxes)),
    )


def criterion(device: torch.device) -> Case:
    """Matching and both losses, forward and backward."""
    model, anchors, own = torchvision_model().to(device), anchors_of(device), RetinaNetCriterion()
    logits, deltas = (values.to(device).requires_grad_() for values in head_output(NUM_IMAGES))
    plain = _targets(NUM_IMAGES, device)
    targets = [ImageTargets(each["boxes"], each["labels"]) for each in plain]

    def ours() -> None:
        torch.autograd.grad(sum(own(HeadOutput(logits, deltas), anchors, targets)), (logits, deltas))

    def torchvision() -> None:
        outputs = {"cls_logits": logits, "bbox_regression": deltas}
        losses = model.compute_loss(plain, outputs, [anchors.boxes] * NUM_IMAGES)
        torch.autograd.grad(sum(losses.values()), (logits, deltas))

    title = f"matching and losses with gradients, {NUM_IMAGES} images of 20 boxes"
    return title, "RetinaNetCriterion", ours, "RetinaNet.compute_loss", torchvision


def post_processing(num_images: int, device: torch.device) -> Case:
    """From some 17,000 candidates of an image to 300 detections."""
    model, anchors, own = torchvision_model().to(device), anchors_of(device), PostProcess()
    output = HeadOutput(*(values.to(device) for values in head_output(num_images, *CANDIDATES)))
    logits, deltas = (list(torch.split(values, anchors.num_per_level, dim=1)) for values in output)
    outputs = {"cls_logits": logits, "bbox_regression": deltas}
    levels = [list(anchors.boxes.split(anchors.num_per_level))] * num_images
    return (
        f"post-processing, {num_images} image{'s' * (num_images > 1)} of 17,000 candidates",
        "PostProcess",
        lambda: own(output, anchors, image_hw=[IMAGE_HW] * num_images),
        "RetinaNet.postprocess_detections",
        lambda: model.postprocess_detections(outputs, levels, [IMAGE_HW] * num_images),
    )


def _points(device: torch.device) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 301, (MAP_IMAGES,), generator=random).tolist()
    return [(torch.rand(count, 2, generator=random) * (MAP_CELLS - 1)).to(device) for count in counts]


def targets(device: torch.device) -> Case:
    """Heatmaps of one keypoint type."""
    points, cells = _points(device), torch.arange(MAP_CELLS, device=device)

    def dense() -> torch.Tensor:
        maps = []
        for each in points:
            dx, dy = (((cells - each[:, [axis]]) / SIGMA) ** 2 for axis in (0, 1))
            maps.append((-(dx[:, None, :] + dy[:, :, None]) / 2).exp().amax(dim=0))
        return torch.stack(maps)

    title = f"targets of {MAP_IMAGES} maps of {MAP_CELLS} x {MAP_CELLS} with 1 to 300 points"
    hw = (MAP_CELLS, MAP_CELLS)
    ours = lambda: render_heatmaps(points, hw, stride=1, sigma=SIGMA)  # noqa: E731 - one of a row of works
    return title, "render_heatmaps", ours, "Gaussians over whole maps in plain torch", dense


def peaks(device: torch.device) -> Case:
    """Points from those heatmaps; the other gives whole cells, as CenterNet's decoding."""
    maps = torch.as_tensor(render_heatmaps(_points(device), (MAP_CELLS, MAP_CELLS), stride=1, sigma=SIGMA).heatmaps)

    def max_pool() -> torch.Tensor:
        is_peak = maps == torch.nn.functional.max_pool2d(maps, 3, stride=1, padding=1)
        return (maps * is_peak).flatten(1).topk(300).values

    title = f"points of {MAP_IMAGES} maps of {MAP_CELLS} x {MAP_CELLS}"
    return (
        title,
        "find_peaks, sub-pixel",
        lambda: find_peaks(maps, threshold=0.3),
        "max_pool2d, topk, whole cells",
        max_pool,
    )


def training(device: torch.device) -> Case:
    """An epoch of steps of a ResNet-50 with P3 to P7 and nine anchors, images already on the device."""
    shapes = [[(size * 2 ** (k / 3), size * 2 ** (k / 3)) for k in range(9)] for size in (32, 64, 128, 256, 512)]
    anchors = AnchorSet.of(shapes, strides=(8, 16, 32, 64, 128))
    backbone = build_backbone("torchvision:resnet50", strides=(8, 16, 32))
    own = RetinaNetDetector(backbone, anchors, NUM_CLASSES, pyramid_channels=256, num_convs=4).to(device).train()
    other = torchvision_model(min_size=TRAINING_PX, max_size=TRAINING_PX).to(device).train()
    images = torch.rand(NUM_IMAGES, 3, TRAINING_PX, TRAINING_PX, generator=torch.Generator().manual_seed(0)).to(device)
    plain = _targets(NUM_IMAGES, device, side=TRAINING_PX)
    targets = [ImageTargets(each["boxes"], each["labels"]) for each in plain]
    return (
        f"an epoch of {EPOCH_STEPS} steps, ResNet-50, {NUM_IMAGES} images of {TRAINING_PX} x {TRAINING_PX}",
        "RetinaNetDetector",
        _epoch(own, lambda: sum(own.losses(images, targets))),
        "retinanet_resnet50_fpn",
        _epoch(other, lambda: sum(other(list(images), plain).values())),
    )


def _epoch(model: torch.nn.Module, loss: Callable[[], Any]) -> Work:
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-5)

    def work() -> None:
        for _ in range(EPOCH_STEPS):
            loss().backward()
            optimizer.step()
            optimizer.zero_grad()

    return work


def _targets(num_images: int, device: torch.device, side: float = 800) -> list[dict[str, torch.Tensor]]:
    classes = torch.randint(0, NUM_CLASSES, (num_images, 20), generator=torch.Generator().manual_seed(1))
    return [
        {"boxes": (boxes_of(20, seed) * side / 800).to(device), "labels": classes[seed].to(device)}
        for seed in range(num_images)
    ]
