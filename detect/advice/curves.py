"""Curves: the objects lost at each value of one setting, its cost, and the value that is worth choosing.

A curve counts the lost objects at each value, those of input sizes and regression ranges on a sample of the images
(:mod:`detect.advice.trials`). What is counted of a shard is ``CurveSums``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.advice.distances import needed_reach
from detect.advice.lost_objects import lost_to_nms
from detect.advice.overlaps import OverlappingPairs
from detect.advice.trials import Trials, TrialSums, key_text
from detect.anchors.instances import ResizedInstances
from detect.catalog.detectors import Detector
from detect.data import CocoDataset
from detect.data.resize import parse_resize
from detect.ops.exact_sums import Sums

IOUS = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
WORTH = 0.005  # share of the objects that a doubling of the compute must save
IOU_STEP = 0.05  # a threshold higher by this keeps more duplicates, and must save ``share`` of the objects
ROUND_TO = 100  # queries and detections of an image are set to a multiple
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


@dataclass(frozen=True)
class CurveSums(Sums):
    """What the curves of a detector are made from."""

    num_objects: int
    sizes: TrialSums | None
    ranges: TrialSums | None
    reaches: Mapping[int, int]
    """How many objects need each number of strides to their farthest side; empty where distances have no limit."""
    images_of: Mapping[int, int]
    """How many images have each number of objects."""
    suppressed: tuple[int, ...]
    """The objects that suppression removes at each of :func:`nms_values`."""

    @classmethod
    def of(
        cls,
        dataset: CocoDataset,
        instances: ResizedInstances,
        detector: Detector,
        pairs: OverlappingPairs,
        sizes: Trials | None,
        ranges: Trials | None,
    ) -> CurveSums:
        """Count what the curves need of a dataset, or of a shard; ``pairs`` are those of :func:`lost_to_nms`."""
        needed = needed_reach(instances, detector.strides[-1]) if detector.reg_max else np.zeros(0, np.int64)
        own = instances.dataset
        return cls(
            len(instances),
            None if sizes is None else TrialSums.of(dataset, sizes),
            None if ranges is None else TrialSums.of(dataset, ranges),
            times_of(needed),
            times_of(np.bincount(own.instances.image_rows, minlength=len(own.images))),
            tuple(lost_to_nms(pairs, value).num_lost for value in nms_values(detector)),
        )

    def beyond(self, most: int) -> int:
        """The objects beyond this number of an image."""
        return sum((number - most) * times for number, times in self.images_of.items() if number > most)


def times_of(numbers: Int64[ndarray, " n"]) -> dict[int, int]:
    """How often each number occurs, in rising order."""
    values, times = np.unique(numbers, return_counts=True)
    return dict(zip(values.tolist(), times.tolist(), strict=True))


def size_curve(sums: TrialSums, trials: Trials, detector: Detector, *, share: float) -> Curve:
    """Objects without a positive, and too large ones, by input size, without and with a finer level."""
    own = [(each.detector.resize, each.finer) for each in trials.trials].index(
        (str(parse_resize(detector.resize)), False)
    )
    options = []
    for number, each in enumerate(trials.trials):
        cost = each.factor * sums.num_pixels[number] / max(sums.num_pixels[own], 1)
        counts = sums.num_lost[number], cost, each.finer, sums.num_small[number]
        options.append(Option(each.value, each.text, *counts))

    def price(option: Option) -> float:
        smaller = option.cost < 1  # saves by chance what it costs in all other objects
        return math.inf if smaller else WORTH * sums.num_objects * math.log2(option.cost)

    chosen = choose(options, own, sums.num_objects, share, price)
    return Curve("input size", "px", sums.num_objects, tuple(options), own, chosen)


def ranges_curve(sums: TrialSums, trials: Trials, *, share: float) -> Curve:
    """Objects without a positive by the factor of FCOS's regression ranges; the last value is ranges of equal shares."""
    pairs = zip(trials.trials, sums.num_lost, strict=True)
    options = tuple(Option(each.value, each.text, lost) for each, lost in pairs)
    return _curve("regression ranges", "x the present ranges", sums.num_objects, options, 1.0, share=share)


def reg_max_curve(sums: CurveSums, detector: Detector, *, share: float) -> Curve | None:
    """Objects with a side that no cell reaches, by the number of bins."""
    if detector.reg_max is None:
        return None
    more = int(not detector.reaches_reg_max)
    enough = max(sums.reaches, default=1) + more

    def option(value: int) -> Option:
        lost = sum(times for needed, times in sums.reaches.items() if needed + more > value)
        return Option(value, key_text(detector, "reg_max", value), lost)

    options = tuple(map(option, sorted({*REG_MAXES, detector.reg_max, enough})))
    return _curve("reg_max", "bins", sums.num_objects, options, detector.reg_max, share=share)


def nms_values(detector: Detector) -> list[float]:
    """The IoU thresholds of suppression that are compared."""
    return sorted({*IOUS, detector.nms.iou}) if detector.nms else []


def nms_curve(sums: CurveSums, detector: Detector, *, share: float) -> Curve | None:
    """Perfectly predicted objects that suppression removes, by its IoU threshold."""
    if detector.nms is None:
        return None
    present, pairs = detector.nms.iou, zip(nms_values(detector), sums.suppressed, strict=True)
    options = tuple(Option(value, key_text(detector, "iou", value), lost) for value, lost in pairs)

    def price(option: Option) -> float:
        return share * sums.num_objects * abs(option.value - present) / IOU_STEP

    return _curve("NMS threshold", "IoU", sums.num_objects, options, present, share=share, price=price)


def limit_curve(
    setting: str, key: Literal["max_truth", "queries", "max_det"], sums: CurveSums, detector: Detector
) -> Curve | None:
    """Objects beyond a number of an image, by that number: no object of the most crowded image may be beyond it."""
    present: int | None = getattr(detector, key)
    if present is None:
        return None
    most = max(sums.images_of, default=0)
    enough = max(-(-most // ROUND_TO), 1) * ROUND_TO
    values = sorted({present, enough, *(each for each in LIMITS if each < most)})
    texts = {value: key_text(detector, key, value) for value in values}
    texts[present] = texts[present].partition(" (")[0]  # brackets tell what another value costs
    options = tuple(Option(value, text, sums.beyond(value)) for value, text in texts.items())
    return _curve(setting, "an image", sums.num_objects, options, present, share=0.0)


def _curve(
    setting: str,
    unit: str,
    num_objects: int,
    options: tuple[Option, ...],
    present: float,
    *,
    share: float,
    price: Callable[[Option], float] = lambda _: 0.0,
) -> Curve:
    current = [each.value for each in options].index(present)
    return Curve(setting, unit, num_objects, options, current, choose(options, current, num_objects, share, price))
