"""Curves: the objects lost at each value of one setting, its cost, and the value that is worth choosing.

A curve counts the lost objects at each value. Up to ``MAX_BOXES`` objects it is exact; above (for anchors, whose matching is
slower, above ``MAX_BOXES_ANCHORS``) input sizes and regression ranges are compared on images spread evenly over the dataset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Literal

import msgspec
import numpy as np

from detect.advice.anchor_losses import AnchorChoice
from detect.advice.distances import smallest_reach
from detect.advice.lost_objects import beyond_limit, lost_to_nms, small_objects, too_large_objects
from detect.advice.overlaps import OverlappingPairs
from detect.advice.unlearned import unlearned_objects
from detect.anchors.anchor_set import AnchorSet
from detect.anchors.instances import ResizedInstances
from detect.anchors.sweep import rules_of_sizes
from detect.catalog.detectors import AnchorDetector, Detector
from detect.catalog.matching import FcosRanges
from detect.data import CocoDataset
from detect.data.resize import LARGEST_SIDE_PX, ResizeRule, parse_resize

MAX_BOXES, MAX_BOXES_ANCHORS = 50_000, 1_000  # objects at which input sizes are compared
FACTORS = (0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4)  # of the present input size
IOUS = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
FACTORS_ANCHORS = (1, 1.5, 2)
WORTH = 0.005  # share of the objects that a doubling of the compute must save
IOU_STEP = 0.05  # a threshold higher by this keeps more duplicates, and must save ``share`` of the objects
ROUND_TO = 100  # queries and detections of an image are set to a multiple
RANGE_FACTORS = (0.5, 1, 2)
LIMITS = (100, 200, 300, 500, 900, 1500)
REG_MAXES = (8, 12, 16, 20, 24, 32, 48, 64)


@dataclass(frozen=True)
class Option:
    """One value of a setting."""

    value: float
    text: str
    """What a user sets, as the detector's framework spells it."""
    num_lost: int
    cost: float = 1.0
    """Compute of an image / compute of an image at the present value."""
    finer: bool = False
    """Whether the detector has a finer level."""
    num_small: int = 0
    """Objects that are hard to see, by input size."""


@dataclass(frozen=True)
class Curve:
    """The objects lost at each value of one setting; ``current`` and ``chosen`` are places in ``options``."""

    setting: str
    unit: str
    num_objects: int
    """Objects that were counted."""
    options: tuple[Option, ...]
    current: int
    chosen: int

    @property
    def now(self) -> Option:
        return self.options[self.current]

    @property
    def best(self) -> Option:
        return self.options[self.chosen]

    @property
    def is_worth_it(self) -> bool:
        """Whether another value than the present one is chosen."""
        return self.chosen != self.current


def choose(
    options: Sequence[Option], current: int, num_objects: int, share: float, price: Callable[[Option], float]
) -> int:
    """The value to set: that of the lowest sum of the objects lost and its price, in objects, and of equals the nearest.

    If it saves no more than ``share`` of the objects, the present value stays.

    >>> options = [Option(640, "imgsz=640", 90), Option(960, "imgsz=960", 4, 2.25), Option(1280, "imgsz=1280", 1, 4.0)]
    >>> choose(options, 0, 4000, 0.001, lambda option: 20 * math.log2(option.cost))
    1
    """
    now = options[current]
    totals = [(each.num_lost + price(each), abs(each.value - now.value)) for each in options]
    best = totals.index(min(totals))
    return best if now.num_lost - options[best].num_lost > share * num_objects else current


def size_curve(dataset: CocoDataset, detector: Detector, anchors: AnchorChoice | None, *, share: float) -> Curve | None:
    """Objects without a positive, and too large ones, by input size, without and with a finer level.

    None if the resize rule has no size.
    """
    rule = parse_resize(detector.resize)
    if not rule.sizes or rule.name == "tiles":
        return None
    dataset = evenly(dataset, MAX_BOXES_ANCHORS if isinstance(detector, AnchorDetector) else MAX_BOXES)
    versions = [(detector, "", 1.0)]
    if detector.finer and not isinstance(anchors, AnchorSet):
        versions.append((with_finer_level(detector), detector.finer.text, detector.finer.cost))
    resized = [ResizedInstances.of(dataset, each) for each in _other_sizes(rule, detector)]
    pixels = [float(each.image_canvas_wh.prod(axis=1).sum()) for each in resized]
    own = [each.rule for each in resized].index(rule)
    options = []
    for version, finer, factor in versions:
        for each, own_pixels in zip(resized, pixels, strict=True):
            size = key_text(detector, "size", *each.rule.sizes)
            text = size if not finer else finer if each.rule == rule else f"{size}, {finer}"
            num_lost, small = lost_in_training(each, version, anchors), small_objects(each, version.strides)
            cost = factor * own_pixels / pixels[own]
            options.append(Option(each.rule.sizes[0], text, num_lost, cost, bool(finer), len(small)))
    num_objects = len(dataset.instances)

    def price(option: Option) -> float:
        smaller = option.cost < 1  # saves by chance what it costs in all other objects
        return math.inf if smaller else WORTH * num_objects * math.log2(option.cost)

    return Curve("input size", "px", num_objects, tuple(options), own, choose(options, own, num_objects, share, price))


def _other_sizes(rule: ResizeRule, detector: Detector) -> tuple[ResizeRule, ...]:
    """The rule at sizes that the detector takes, and at its own, in rising order."""
    step, factors = detector.size_multiple, FACTORS_ANCHORS if isinstance(detector, AnchorDetector) else FACTORS
    sizes = {max(step, round(rule.sizes[0] * factor / step) * step) for factor in factors} | {rule.sizes[0]}
    largest = LARGEST_SIDE_PX * rule.sizes[0] // max(rule.sizes)
    return rules_of_sizes(rule, sorted(size for size in sizes if size <= largest))


def lost_in_training(instances: ResizedInstances, detector: Detector, anchors: AnchorChoice | None = None) -> int:
    """The objects that have no positive or are too large, each counted once, at the least."""
    unlearned, large = unlearned_objects(instances, detector, anchors), too_large_objects(instances, detector)
    certain = unlearned.lost if large is None else np.union1d(unlearned.lost, large.lost)
    return len(certain) + unlearned.num_contested


def with_finer_level(detector: Detector) -> Detector:
    """The detector with one more level, of half the finest stride."""
    return msgspec.structs.replace(detector, strides=[detector.strides[0] // 2, *detector.strides])


def ranges_curve(dataset: CocoDataset, detector: Detector, *, share: float) -> Curve | None:
    """Objects without a positive by the factor of FCOS's regression ranges; the last value is ranges of equal shares.

    The farthest side of an object is about half of its longer side away: equal shares are quantiles of that.
    """
    rule = detector.matching
    if not isinstance(rule, FcosRanges):
        return None
    instances = ResizedInstances.of(evenly(dataset, MAX_BOXES), detector.resize)
    present = rule.limits
    quantiles = np.linspace(0, 1, len(detector.strides) + 1)[1:-1]
    steps = np.arange(len(quantiles))  # limits differ by a pixel at least
    equal = np.maximum.accumulate(np.ceil(np.quantile(instances.shapes.max(axis=1) / 2, quantiles)) - steps) + steps
    tried = [(tuple(limit * factor for limit in present), factor) for factor in RANGE_FACTORS]
    tried.append((tuple(equal.tolist()), 0.0))

    def option(place: int) -> Option:
        limits, factor = tried[place]
        changed = msgspec.structs.replace(detector, matching=msgspec.structs.replace(rule, limits=limits))
        text = key_text(detector, "ranges", *limits)
        return Option(factor, text, unlearned_objects(instances, changed).num_lost)

    places, own = list(range(len(tried))), RANGE_FACTORS.index(1)
    return _curve("regression ranges", "x the present ranges", len(instances), places, option, own, share=share)


def reg_max_curve(instances: ResizedInstances, detector: Detector, *, share: float) -> Curve | None:
    """Objects with a side that no cell reaches, by the number of bins."""
    if detector.reg_max is None:
        return None
    enough = smallest_reach(instances, detector.strides[-1]) + (not detector.reaches_reg_max)
    values = sorted({*REG_MAXES, detector.reg_max, enough})

    def option(value: int) -> Option:
        lost = too_large_objects(instances, msgspec.structs.replace(detector, reg_max=value))
        return Option(value, key_text(detector, "reg_max", value), lost.num_lost if lost else 0)

    return _curve("reg_max", "bins", len(instances), values, option, detector.reg_max, share=share)


def nms_curve(pairs: OverlappingPairs, num_objects: int, detector: Detector, *, share: float) -> Curve | None:
    """Perfectly predicted objects that suppression removes, by its IoU threshold."""
    if detector.nms is None:
        return None
    present, values = detector.nms.iou, sorted({*IOUS, detector.nms.iou})

    def option(value: float) -> Option:
        lost = lost_to_nms(pairs, value).num_lost
        return Option(value, key_text(detector, "iou", value), lost)

    def price(option: Option) -> float:
        return share * num_objects * abs(option.value - present) / IOU_STEP

    return _curve("NMS threshold", "IoU", num_objects, values, option, present, share=share, price=price)


def limit_curve(
    setting: str, key: Literal["max_truth", "queries", "max_det"], instances: ResizedInstances, detector: Detector
) -> Curve | None:
    """Objects beyond a number of an image, by that number: no object of the most crowded image may be beyond it."""
    present: int | None = getattr(detector, key)
    if present is None:
        return None
    most = int(np.bincount(instances.dataset.instances.image_rows).max(initial=0))
    enough = max(-(-most // ROUND_TO), 1) * ROUND_TO
    values = sorted({present, enough, *(each for each in LIMITS if each < most)})

    def option(value: int) -> Option:
        lost = beyond_limit("not returned", instances, value)
        return Option(value, key_text(detector, key, value), lost.num_lost if lost else 0)

    return _curve(setting, "an image", len(instances), values, option, present, share=0.0)


def _curve(
    setting: str,
    unit: str,
    num_objects: int,
    values: Sequence[float],
    option: Callable[..., Option],
    present: float,
    *,
    share: float,
    price: Callable[[Option], float] = lambda _: 0.0,
) -> Curve:
    options, current = tuple(map(option, values)), list(values).index(present)
    return Curve(setting, unit, num_objects, options, current, choose(options, current, num_objects, share, price))


def key_text(detector: Detector, key: str, *values: float) -> str:
    """A setting as the detector's framework spells it, or in words where the catalog has no key.

    >>> from detect.catalog.detectors import load_detector
    >>> key_text(load_detector("yolov5"), "size", 960), key_text(load_detector("yolov3-darknet"), "iou", 0.5)
    ('--imgsz 960', 'NMS threshold 0.5')
    """
    words = {
        "size": "input size",
        "iou": "NMS threshold",
        "max_truth": "objects of a training image",
        "max_det": "detections",
    }
    texts = [f"{value:g}" for value in values]
    pattern = detector.keys.get(key, "")  # type: ignore[call-overload]
    places = [name for _, name, _, _ in Formatter().parse(pattern) if name is not None]
    wanted = max(int(name) for name in places) + 1 if all(places) and places else len(places)
    if wanted == 1 and len(set(texts)) == 1:
        texts = texts[:1]  # the side of a square
    if wanted != len(texts):
        return f"{words.get(key, key)} {(' x ' if key == 'size' else ', ').join(texts)}"
    return str(pattern.format(*texts))


def evenly(dataset: CocoDataset, most: int) -> CocoDataset:
    """Images with objects, spread evenly over a dataset, of about ``most`` objects; the dataset if it has no more."""
    step = -(-len(dataset.instances) // most)
    return dataset if step <= 1 else dataset.take_images(np.unique(dataset.instances.image_rows)[::step])
