"""The frameworks' own assigners: what they learn in one image from any prediction of its cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from frameworks import parts_of
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import stock_anchors
from detect.catalog.detectors import Detector, load_detector, with_anchors
from detect.ops.boxes import pairwise_iou
from detect.ops.torchvision_import import import_torchvision

# ---- one image, and what a network could predict for it


@dataclass(frozen=True, eq=False)
class Scene:
    """The objects of one image in single precision, and the centres of its cells with their strides."""

    boxes: torch.Tensor
    classes: torch.Tensor
    points: torch.Tensor
    steps: torch.Tensor
    num_classes: int

    @classmethod
    def of(cls, one: ResizedInstances, strides: list[int], origin: float) -> Scene:
        points, steps = [], []
        for stride in strides:
            columns, rows = (-(-side // stride) for side in one.image_canvas_wh[0].tolist())
            y, x = np.mgrid[:rows, :columns]
            points.append((np.stack([x, y], axis=-1).reshape(-1, 2) + origin) * stride)
            steps.append(np.full(rows * columns, stride))
        categories = np.array(one.dataset.category_ids)
        classes = np.searchsorted(np.sort(categories), one.dataset.instances.category_ids)
        places, widths = np.concatenate(points), np.concatenate(steps)
        tensor = torch.from_numpy
        return cls(
            tensor(one.boxes).float(), tensor(classes), tensor(places).float(), tensor(widths).float(), len(categories)
        )

    def inside(self, *, least_side: float = 0.0, margin: float = 0.0) -> np.ndarray:
        """Objects by cells: whether the centre is inside the box, whose short sides are lengthened first."""
        middle = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        half = torch.where(sides < least_side, torch.full_like(sides, least_side), sides) / 2
        off = (self.points - middle[:, None]).abs()
        return ((half[:, None] - off).amin(dim=2) > margin).numpy()


Owners = dict[int, int]  # object -> cell
Learned = set[int]


@dataclass(frozen=True, eq=False)
class CellPeer:
    """A framework's assigner: the objects with a positive at some prediction, and the best prediction of all."""

    origin: float
    learn: Callable[[Scene, torch.Tensor, torch.Tensor], Learned]
    owners: Callable[[Scene], Owners]
    least: float
    """The score of "certainly not", as the assigner takes scores."""
    most: float
    idle: float
    """The score of cells that no object should get."""

    def perfect(self, scene: Scene) -> Learned:
        """Each cell of a largest matching predicts its own object, every other cell a box far away."""
        scores = torch.full((len(scene.points), scene.num_classes), self.idle)
        predicted = torch.full((len(scene.points), 4), -1000.0) + torch.tensor([0.0, 0.0, 1.0, 1.0])
        for row, cell in self.owners(scene).items():
            scores[cell] = self.least
            scores[cell, scene.classes[row]] = self.most
            predicted[cell] = scene.boxes[row]
        return self.learn(scene, scores, predicted)

    def for_one(self, scene: Scene, row: int) -> Learned:
        """Every cell predicts the same object."""
        scores = torch.full((len(scene.points), scene.num_classes), self.least)
        scores[:, scene.classes[row]] = self.most
        return self.learn(scene, scores, scene.boxes[row].repeat(len(scene.points), 1))

    def random(self, scene: Scene, seed: int) -> Learned:
        random = torch.Generator().manual_seed(seed)
        scores = torch.rand(len(scene.points), scene.num_classes, generator=random)
        low, high = 40 * torch.rand(2, len(scene.points), 2, generator=random)
        return self.learn(scene, scores, torch.cat([scene.points - low, scene.points + high], dim=1))


def matched(scene: Scene, **rule: float) -> Owners:
    """As many objects as possible with a cell of their own, inside the box."""
    cells = maximum_bipartite_matching(csr_array(scene.inside(**rule)), perm_type="column")
    return {row: int(cells[row]) for row in np.flatnonzero(cells >= 0).tolist()}


def nearest(scene: Scene) -> Owners:
    """As many objects as possible with a cell of their own, inside any box, and near in strides of the cell."""
    cells = np.flatnonzero(scene.inside().any(axis=0))
    middle = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
    far = (torch.cdist(middle, scene.points[cells]) / scene.steps[cells]).numpy()
    return {int(row): int(cells[place]) for row, place in zip(*linear_sum_assignment(far), strict=True)}


# ---- the assigners


@cache
def ultralytics_assigner() -> Any:
    used: dict[str, Any] = {"torch": torch, "math": math, "np": np}
    for file, parts in (
        ("utils/metrics.py", ["bbox_iou"]),
        ("utils/ops.py", ["empty_like", "xyxy2xywh", "xywh2xyxy"]),
        ("utils/tal.py", ["TaskAlignedAssigner"]),
    ):
        used |= vars(parts_of("ultralytics", file, parts, **used, nn=torch.nn, LOGGER=None))
    return used["TaskAlignedAssigner"]


def ultralytics(scene: Scene, scores: torch.Tensor, predicted: torch.Tensor, **options: Any) -> Learned:
    """YOLOv8 and later; a positive of weight 0 teaches nothing."""
    options = {"topk": 10, "alpha": 0.5, "beta": 6.0, "stride": [8, 16, 32], "num_classes": scene.num_classes} | options
    truth = scene.classes[None, :, None], scene.boxes[None], torch.ones(1, len(scene.boxes), 1)
    result = ultralytics_assigner()(**options)(scores[None], predicted[None], scene.points, *truth)
    _, _, weights, is_positive, rows = result
    return set(rows[is_positive & (weights.sum(-1) > 0)].tolist())


class Fields(SimpleNamespace):
    """mmengine's InstanceData, as far as assigners need it."""

    def __contains__(self, name: str) -> bool:
        return hasattr(self, name)

    def __len__(self) -> int:
        return len(self.bboxes)


def registry(build: Any = None) -> Any:
    return SimpleNamespace(register_module=lambda: lambda cls: cls, build=lambda _: build)


def assign_result(num_gts: int, gt_inds: torch.Tensor, *_: Any, **__: Any) -> SimpleNamespace:
    return SimpleNamespace(gt_inds=gt_inds)


@cache
def mmdet_overlaps() -> Any:
    file = "structures/bbox/bbox_overlaps.py"
    return parts_of("mmdet", file, ["fp16_clamp", "bbox_overlaps"], torch=torch).bbox_overlaps


@cache
def mmdet_assigner(file: str, name: str, *others: str, iou: Any = None, inf: float = 1e8, **options: Any) -> Any:
    used = {"torch": torch, "F": torch.nn.functional, "BaseAssigner": object, "INF": inf, "EPS": 1e-7}
    used |= {"TASK_UTILS": registry(iou or mmdet_overlaps()), "BaseBoxes": type("BaseBoxes", (), {})}
    path = f"models/task_modules/assigners/{file}.py"
    return getattr(parts_of("mmdet", path, [name, *others], AssignResult=assign_result, **used), name)(**options)


def rows_of(result: Any) -> Learned:
    return set((result.gt_inds[result.gt_inds > 0] - 1).tolist())


def tood(scene: Scene, scores: torch.Tensor, predicted: torch.Tensor) -> Learned:
    half = 4 * scene.steps[:, None]
    predictions = Fields(
        priors=torch.cat([scene.points - half, scene.points + half], 1), bboxes=predicted, scores=scores
    )
    assigner = mmdet_assigner("task_aligned_assigner", "TaskAlignedAssigner", topk=13)
    return rows_of(assigner.assign(predictions, Fields(bboxes=scene.boxes, labels=scene.classes), alpha=1, beta=6))


def rtmdet(scene: Scene, scores: torch.Tensor, predicted: torch.Tensor) -> Learned:
    priors = torch.cat([scene.points, scene.steps[:, None], scene.steps[:, None]], dim=1)
    predictions = Fields(priors=priors, bboxes=predicted, scores=scores)
    assigner = mmdet_assigner("dynamic_soft_label_assigner", "DynamicSoftLabelAssigner", topk=13)
    return rows_of(assigner.assign(predictions, Fields(bboxes=scene.boxes, labels=scene.classes)))


def task_aligned(least_side: float, **options: Any) -> CellPeer:
    owners = partial(matched, least_side=least_side)
    return CellPeer(0.5, partial(ultralytics, **options), owners, least=0.0, most=1.0, idle=0.0)


LOGIT = 1e30  # a wrong score costs more than any distance
PEERS = {
    "yolo11": task_aligned(16.0),
    "yolo11-8.3": task_aligned(0.0, stride=[8, 0, 32]),  # the second is the side to which shorter ones are widened
    "yolo26-end2end": task_aligned(16.0, topk=7, topk2=1),
    "tood": CellPeer(0.0, tood, partial(matched, margin=0.01), least=0.0, most=1.0, idle=0.0),
    "rtmdet": CellPeer(0.0, rtmdet, nearest, least=-LOGIT, most=LOGIT, idle=LOGIT),
}


# ---- the fixed rules: no prediction counts


Fixed = Callable[[Detector, torch.Tensor, tuple[int, int]], Learned]


def level_sizes(detector: Detector, hw: tuple[int, int]) -> list[tuple[int, int]]:
    return [(-(-hw[0] // stride), -(-hw[1] // stride)) for stride in detector.strides]


@cache
def mmdet_fcos_head() -> Any:
    used = {"AnchorFreeHead": object, "MODELS": registry(), "INF": 1e8, "torch": torch}
    used |= vars(parts_of("mmdet", "models/utils/misc.py", ["multi_apply"], partial=partial))
    return parts_of("mmdet", "models/dense_heads/fcos_head.py", ["FCOSHead"], **used).FCOSHead


def by_mmdet_fcos(detector: Detector, boxes: torch.Tensor, hw: tuple[int, int]) -> Learned:
    head = mmdet_fcos_head()
    ranges = [(-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8)]
    model = SimpleNamespace(regress_ranges=ranges, num_classes=len(boxes), center_sampling=False, norm_on_bbox=False)
    model._get_targets_single = partial(head._get_targets_single, model)
    points = [
        (torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1) + 0.5) * stride
        for stride, (rows, columns) in zip(detector.strides, level_sizes(detector, hw), strict=True)
    ]
    truth = Fields(bboxes=boxes, labels=torch.arange(len(boxes)))  # labels are rows: the targets name the object
    labels = torch.cat(head.get_targets(model, points, [truth])[0])
    return set(labels[labels < len(boxes)].tolist())


@cache
def priors_of(name: str, hw: tuple[int, int]) -> list[torch.Tensor]:
    """This package's anchors; ``tests/interop`` compares them with mmdetection's."""
    detector = with_anchors(load_detector(name))
    generator = AnchorGenerator(stock_anchors(detector), convention=detector.convention)
    return [level.boxes() for level in generator.generate(level_sizes(detector, hw), hw).level_grids]


def by_mmdet_iou(detector: Detector, boxes: torch.Tensor, hw: tuple[int, int]) -> Learned:
    """With this package's IoU: an object inside many anchors of one area ties, and a last digit decides who is forced."""
    options = {"pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0}
    assigner = mmdet_assigner("max_iou_assigner", "MaxIoUAssigner", iou=pairwise_iou, **options)
    truth = Fields(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long))
    return rows_of(assigner.assign(Fields(priors=torch.cat(priors_of(detector.name, hw))), truth))


def by_mmdet_atss(detector: Detector, boxes: torch.Tensor, hw: tuple[int, int]) -> Learned:
    levels = priors_of(detector.name, hw)
    assigner = mmdet_assigner(
        "atss_assigner", "ATSSAssigner", "bbox_center_distance", topk=9, alpha=None, ignore_iof_thr=-1
    )
    truth = Fields(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long))
    return rows_of(assigner.assign(Fields(priors=torch.cat(levels)), [len(level) for level in levels], truth))


def by_torchvision(detector: Detector, boxes: torch.Tensor, hw: tuple[int, int]) -> Learned:
    """RetinaNet or FCOS: what their loss is given."""
    import_torchvision()
    from torchvision.models.detection import _utils, fcos, retinanet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    model: type[fcos.FCOS | retinanet.RetinaNet] = retinanet.RetinaNet
    generator, names = retinanet._default_anchorgen(), ["targets", "heads", "anchors", "matches"]
    rule: dict[str, Any] = {"proposal_matcher": _utils.Matcher(0.5, 0.4, allow_low_quality_matches=True)}
    sizes = level_sizes(detector, hw)
    counts: list[list[int]] = []
    if detector.name == "fcos":
        model, rule = fcos.FCOS, {"center_sampling_radius": 1.5}
        generator = AnchorGenerator(tuple((stride,) for stride in detector.strides), ((1.0,),) * 5)
        counts = [[rows * columns for rows, columns in sizes]]
    anchors = generator(ImageList(torch.zeros(1, 3, *hw), [hw]), [torch.zeros(1, 1, *size) for size in sizes])
    head = SimpleNamespace(compute_loss=lambda *arguments: dict(zip(names, arguments, strict=True))["matches"])
    (matches,) = model.compute_loss(SimpleNamespace(head=head, **rule), [{"boxes": boxes}], {}, anchors, *counts)
    return set(matches[matches >= 0].tolist())


FIXED: dict[str, Fixed] = {
    "mmdet-fcos": by_mmdet_fcos,
    "fcos": by_torchvision,
    "mmdet-retinanet": by_mmdet_iou,
    "torchvision-retinanet": by_torchvision,
    "atss": by_mmdet_atss,
}
