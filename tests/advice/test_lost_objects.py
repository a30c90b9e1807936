"""Objects lost by reason, beside the frameworks' own assignment code, plain loops, and every case of small inputs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from builders import instances_of
from frameworks import parts_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from detect.advice.lost_objects import (
    LostObjects,
    beyond_in_mosaics,
    beyond_limit,
    least_px,
    lost_to_nms,
    small_objects,
    too_large_objects,
    unlearned_objects,
)
from detect.advice.overlaps import overlapping_pairs
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import stock_anchors
from detect.catalog.detectors import Detector, detectors, load_detector, with_anchors
from detect.catalog.matching import CELL_RULES, MaxIoURule
from detect.data import read_coco
from detect.ops.boxes import pairwise_iou
from detect.ops.torchvision_import import import_torchvision
from detect.samples import sample_annotations

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
def mmdet_assigner(file: str, name: str, *others: str, iou: Any = None, **options: Any) -> Any:
    used = {"torch": torch, "F": torch.nn.functional, "BaseAssigner": object, "INF": 100000000, "EPS": 1e-7}
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


# ---- beside the frameworks


def sample(name: str, resize: str, *, images: int) -> ResizedInstances:
    """The first images of a sample without objects that are labelled twice: of such two, frameworks learn one."""
    content = json.loads(sample_annotations(name).read_text())
    distinct = {(each["image_id"], each["category_id"], *each["bbox"]): each for each in content["annotations"]}
    content["annotations"] = list(distinct.values())
    dataset = read_coco(content)
    return ResizedInstances.of(dataset.take_images(np.arange(images)), resize)


def image_by_image(instances: ResizedInstances, detector: Detector) -> Iterator[ResizedInstances]:
    """Images with objects, one at a time; for cells in eighths of a pixel, which single precision holds exactly."""
    for row in np.unique(instances.dataset.instances.image_rows):
        one = ResizedInstances.of(instances.dataset.take_images(np.array([row])), instances.rule)
        yield replace(one, boxes=np.rint(one.boxes * 8) / 8) if detector.rule in CELL_RULES else one


def check_cells(one: ResizedInstances, detector: Detector, peer: CellPeer) -> int:
    """The objects lost in one image, after every prediction that was tried."""
    found = unlearned_objects(one, detector)
    scene, lost, rows = Scene.of(one, detector.strides, peer.origin), set(found.lost.tolist()), range(len(one))
    tried = [peer.random(scene, seed) for seed in range(2)] + [peer.for_one(scene, row) for row in {0, *lost}]
    assert not set().union(*tried) & lost
    assert max(map(len, tried)) <= len(one) - found.num_lost
    perfect = peer.perfect(scene)
    assert len(perfect) == len(one) - found.num_lost
    assert set(rows) - lost - set(found.contested.tolist()) <= perfect
    return found.num_lost


CROWDED = [("bccd", "letterbox:32", 60), ("nuclei", "letterbox:32", 80)]


@pytest.mark.parametrize(("name", "resize", "images"), CROWDED)
@pytest.mark.parametrize("detector", PEERS)
def test_no_prediction_makes_a_framework_learn_a_lost_object_and_one_makes_it_learn_all_others(
    detector, name, resize, images
):
    known = load_detector(detector)
    every = image_by_image(sample(name, resize, images=images), known)
    assert sum(check_cells(one, known, PEERS[detector]) for one in every) > 0


def test_a_centre_within_a_hundredth_of_a_pixel_of_a_side_is_outside_for_tood():
    boxes = [[7.9, 7.995, 4, 4], [23.9, 7.9, 4, 4], [4, 36, 4.005, 5]]  # around (8, 8), (24, 8) and (8, 40)
    instances = instances_of(boxes)
    assert unlearned_objects(instances, load_detector("tood")).lost.tolist() == [0, 2]
    assert check_cells(instances, load_detector("tood"), PEERS["tood"]) == 2


AT_ONE_POINT = [[6, 6, 4, 4], [5, 5, 4, 4], [6, 6, 5, 5]]  # around (8, 8), a point of stride 8 alone
AT_TWO = [14, 14, 4, 4]  # around (16, 16), a point of the strides 8 and 16


def test_objects_beyond_the_cells_inside_any_box_are_lost_by_rtmdet():
    found = unlearned_objects(instances_of(AT_ONE_POINT), load_detector("rtmdet"))
    assert (found.num_lost, found.lost.tolist(), found.contested.tolist()) == (2, [], [0, 1, 2])
    # three points for four objects: one of the first three may have a point of the fourth
    assert unlearned_objects(instances_of([*AT_ONE_POINT, AT_TWO]), load_detector("rtmdet")).num_lost == 1


def test_mmdetection_gives_an_object_a_cell_inside_another_box_alone():
    assert check_cells(instances_of([*AT_ONE_POINT, AT_TWO]), load_detector("rtmdet"), PEERS["rtmdet"]) == 1


def check_fixed(one: ResizedInstances, detector: Detector, learn: Fixed) -> int:
    found = unlearned_objects(one, detector)
    columns, rows = one.image_canvas_wh[0].tolist()
    learned = learn(detector, torch.from_numpy(one.boxes).float(), (rows, columns))
    assert set(found.lost.tolist()) == set(range(len(one))) - learned
    assert found.num_contested == 0
    return found.num_lost


@pytest.mark.parametrize(("name", "resize", "images"), [("bccd", "letterbox:128", 20), ("nuclei", "letterbox:128", 40)])
@pytest.mark.parametrize("detector", FIXED)
def test_lost_objects_are_those_that_a_framework_gives_no_anchor_or_cell(detector, name, resize, images):
    known = load_detector(detector)
    every = image_by_image(sample(name, resize, images=images), known)
    num_lost = sum(check_fixed(one, known, FIXED[detector]) for one in every)
    assert num_lost > 0 or "retinanet" in detector


# ---- without a framework


@st.composite
def crowded(draw: st.DrawFn) -> list[list[int]]:
    """Up to eight small boxes in an image of 64 pixels, of two categories."""
    side = st.integers(1, 12)
    row = st.tuples(st.integers(0, 50), st.integers(0, 50), side, side, st.integers(1, 2))
    return [list(each) for each in draw(st.lists(row, min_size=1, max_size=8))]


def crowd_of(rows: list[list[int]]) -> ResizedInstances:
    return instances_of([row[:4] for row in rows], category_ids=[row[4] for row in rows])


def cells_inside(box: list[int], strides: list[int], origin: float, margin: float) -> set[tuple[int, float, float]]:
    x, y, width, height = box
    return {
        (stride, column, row)
        for stride in strides
        for column in range(-(-64 // stride))
        for row in range(-(-64 // stride))
        if margin < (column + origin) * stride - x < width - margin
        and margin < (row + origin) * stride - y < height - margin
    }


@given(crowded())
def test_an_object_without_a_cell_inside_it_is_lost(rows):
    cases: tuple[tuple[str, float, float], ...] = (("tood", 0.0, 0.01), ("yolov8-8.3", 0.5, 0.0), ("ppyoloe", 0.5, 0.0))
    for name, origin, margin in cases:
        detector = load_detector(name)
        empty = [not cells_inside(row[:4], detector.strides, origin, margin) for row in rows]
        assert_array_equal(unlearned_objects(crowd_of(rows), detector).lost, np.flatnonzero(empty))


@given(crowded())
def test_rtmdet_loses_the_objects_beyond_the_cells_inside_any_box(rows):
    detector = load_detector("rtmdet")
    every = set().union(*(cells_inside(row[:4], detector.strides, 0.0, 0.0) for row in rows))
    assert unlearned_objects(crowd_of(rows), detector).num_lost == max(len(rows) - len(every), 0)


def rendered(rows: list[list[int]], stride: int) -> np.ndarray:
    """CenterNet's map of each category: 1 in the cell that holds the centre of an object (Zhou et al. 2019, section 3)."""
    heat = np.zeros((2, 64 // stride, 64 // stride))
    for x, y, width, height, category in rows:
        heat[category - 1, int((y + height / 2) / stride), int((x + width / 2) / stride)] = 1
    return heat


@given(crowded())
def test_objects_of_a_category_in_one_cell_have_one_peak_of_the_map(rows):
    found = unlearned_objects(crowd_of(rows), load_detector("centernet"))
    assert len(rows) - found.num_lost == rendered(rows, 4).sum()
    alone = [rendered([row], 4) for row in rows]
    shared = [any((a * b).any() for k, b in enumerate(alone) if k != j) for j, a in enumerate(alone)]
    assert_array_equal(found.contested, np.flatnonzero(shared))
    assert len(found.lost) == 0


@given(st.lists(st.integers(1, 4), max_size=25).map(sorted), st.integers(1, 8))
def test_objects_beyond_the_limit_of_an_image_are_counted_one_by_one(image_ids, most):
    """Queries, detections and training objects are limited alike."""
    instances = instances_of([[0, 0, 8, 8]] * len(image_ids), image_ids=image_ids)
    seen = dict.fromkeys(image_ids, 0)
    num_lost = 0
    for image in image_ids:
        seen[image] += 1
        num_lost += seen[image] > most
    found = beyond_limit("not returned", instances, most)
    assert found is not None
    assert (found.reason, found.num_lost) == ("not returned", num_lost)
    assert_array_equal(found.contested, [k for k, image in enumerate(image_ids) if seen[image] > most])
    detector = msgspec.structs.replace(load_detector("rt-detr"), queries=most)
    assert unlearned_objects(instances, detector).num_lost == num_lost


def test_without_a_limit_nothing_is_counted():
    assert beyond_limit("dropped", instances_of([[0, 0, 8, 8]]), None) is None


COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=4)


@given(COUNTS, st.integers(0, 25), st.integers(2, 4))
def test_objects_beyond_the_queries_of_a_mosaic_are_those_of_every_combination(counts, queries, images):
    together = [sum(drawn) for drawn in itertools.product(counts, repeat=images)]
    beyond = sum(max(number - queries, 0) for number in together) / max(sum(together), 1)
    assert_allclose(beyond_in_mosaics(np.array(counts), queries, images), beyond, atol=1e-11)


def test_without_mosaics_nothing_is_beyond():
    assert beyond_in_mosaics(np.array([301]), 300, 1) == 0.0
    assert beyond_in_mosaics(np.array([301]), None, 4) == 0.0


def test_objects_beyond_the_queries_of_a_mosaic_are_those_of_random_mosaics():
    counts = np.bincount(read_coco(sample_annotations("bccd")).instances.image_rows)
    together = np.random.default_rng(0).choice(counts, (100_000, 4)).sum(axis=1)
    simulated = np.maximum(together - 60, 0).sum() / together.sum()
    found = beyond_in_mosaics(counts, 60, 4)
    assert 0.02 < found < 0.5
    assert_allclose(found, simulated, rtol=0.03)


def test_mosaics_without_queries_or_objects_lose_nothing():
    assert beyond_in_mosaics(np.array([5, 9]), None, 4) == 0
    assert beyond_in_mosaics(np.zeros(3, int), 1, 4) == 0


@given(crowded(), st.sampled_from([0.3, 0.5, 0.7]))
@settings(max_examples=30)  # of up to 120 orders
def test_suppression_keeps_as_many_perfect_detections_in_some_order_and_never_more(rows, threshold):
    import_torchvision()
    from torchvision.ops import nms

    boxes = crowd_of(rows[:5]).boxes
    found = lost_to_nms(overlapping_pairs(boxes, np.zeros(len(boxes), int)), threshold)
    orders = itertools.permutations(range(len(boxes)))
    kept = [len(nms(torch.from_numpy(boxes), torch.tensor(order).double(), threshold)) for order in orders]
    assert max(kept) == len(boxes) - found.num_lost
    assert set(range(len(boxes))) - set(found.contested.tolist()) <= set(
        nms(torch.from_numpy(boxes), torch.ones(len(boxes)).double(), threshold).tolist()
    )


def test_suppression_of_a_sample_never_keeps_more_in_random_orders():
    import_torchvision()
    from torchvision.ops import batched_nms

    instances = ResizedInstances.of(read_coco(sample_annotations("bccd")), "letterbox:640")
    own, boxes = instances.dataset.instances, torch.from_numpy(instances.boxes)
    groups = own.image_rows * 10 + own.category_ids
    for threshold in (0.3, 0.7):
        found = lost_to_nms(overlapping_pairs(instances.boxes, groups), threshold)
        scores = torch.rand(2, len(boxes), dtype=torch.double, generator=torch.Generator().manual_seed(0))
        kept = [len(batched_nms(boxes, each, torch.from_numpy(groups), threshold)) for each in scores]
        assert max(kept) <= len(boxes) - found.num_lost
        assert found.num_lost > 0
        assert min(kept) > len(boxes) - len(found.contested)


def reaches(box: np.ndarray, canvas: int, strides: list[int], reach: int) -> bool:
    """Whether some cell of some level is within the reach of all four sides."""
    return any(
        max(x - box[0], y - box[1], box[2] - x, box[3] - y) <= reach * stride
        for stride in strides
        for x in (np.arange(-(-canvas // stride)) + 0.5) * stride
        for y in (np.arange(-(-canvas // stride)) + 0.5) * stride
    )


@pytest.mark.parametrize("reaches_reg_max", [False, True])
def test_an_object_is_too_large_if_no_cell_of_any_level_reaches_all_of_its_sides(reaches_reg_max):
    detector = msgspec.structs.replace(load_detector("yolov8"), reg_max=2, reaches_reg_max=reaches_reg_max)
    draws = np.random.default_rng(0)
    shapes = draws.integers(20, 120, (60, 2))
    corners = np.floor(draws.random((60, 2)) * (128 - shapes))
    instances = instances_of(np.concatenate([corners, shapes], axis=1).tolist(), image_wh=(128, 128))
    found = too_large_objects(instances, detector)
    assert found is not None
    reach = 2 if reaches_reg_max else 1
    fits = [reaches(box, 128, detector.strides, reach) for box in instances.boxes]
    assert_array_equal(found.lost, np.flatnonzero(~np.array(fits)))
    assert 0 < found.num_lost < len(fits)


def test_distances_without_bins_have_no_limit():
    assert too_large_objects(instances_of([[0, 0, 64, 64]]), load_detector("tood")) is None


def test_small_objects_are_under_eight_pixels_or_a_cell():
    assert [least_px([4, 8]), least_px([8]), least_px([16, 32])] == [8, 8, 16]
    instances = instances_of([[0, 0, 8, 8], [0, 0, 8, 7], [0, 0, 64, 1], [0, 0, 15, 16]])
    assert_array_equal(small_objects(instances, [8, 16]), [1])
    assert_array_equal(small_objects(instances, [16, 32]), [0, 1, 2, 3])


@pytest.mark.parametrize("name", detectors())
def test_of_no_objects_none_are_lost(name):
    none, detector = instances_of([]), load_detector(name)
    pairs = overlapping_pairs(none.boxes, none.dataset.instances.image_rows)
    found = [
        unlearned_objects(none, detector),
        too_large_objects(none, detector),
        lost_to_nms(pairs, 0.5),
        beyond_limit("not returned", none, detector.max_det),
    ]
    assert [each.num_lost for each in found if each] == [0] * sum(each is not None for each in found)
    assert all(len(each.contested) == 0 for each in found if each)


def test_a_rule_with_anchors_needs_a_detector_with_anchors():
    detector = Detector(name="mine", strides=[8, 16], resize="none", matching=MaxIoURule())
    with pytest.raises(TypeError, match="mine has anchors, but no description of them"):
        unlearned_objects(instances_of([[0, 0, 8, 8]]), detector)


def test_the_objects_of_one_reason_add_up():
    assert LostObjects.of("dropped", np.array([True, False, True])).num_lost == 2
    assert LostObjects("suppressed", np.array([4]), 2, np.array([1, 2, 3])).num_lost == 3
