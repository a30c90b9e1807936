"""Trials: a detector at other input sizes and regression ranges, on a sample of the images of a dataset.

Up to ``MAX_BOXES`` objects the sample is the dataset; for anchors, whose matching is slower, up to ``MAX_BOXES_ANCHORS``.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

import msgspec
import numpy as np

from detect.advice.anchor_losses import AnchorChoice
from detect.advice.image_sample import MAX_BOXES, ImageSample, part_of
from detect.advice.lost_objects import small_objects, too_large_objects
from detect.advice.unlearned import unlearned_objects
from detect.anchors.anchor_set import AnchorSet
from detect.anchors.instances import ResizedInstances
from detect.anchors.sweep import rules_of_sizes
from detect.catalog.detectors import AnchorDetector, Detector
from detect.catalog.matching import FcosRanges
from detect.data import CocoDataset
from detect.data.resize import LARGEST_SIDE_PX, ResizeRule, parse_resize
from detect.ops.exact_sums import Sums

MAX_BOXES_ANCHORS = 1_000
FACTORS = (0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4)  # of the present input size
FACTORS_ANCHORS = (1, 1.5, 2)
RANGE_FACTORS = (0.5, 1, 2)


@dataclass(frozen=True)
class Trial:
    """A detector at another input size or with other regression ranges, tried on a sample of the images."""

    value: float
    text: str
    detector: Detector
    """Its resize rule has the size."""
    factor: float = 1.0
    """Compute at the same input size / that of the detector without a finer level."""
    finer: bool = False
    anchors: AnchorSet | None = None


@dataclass(frozen=True)
class Trials:
    """The detectors to try on a sample: the images whose hash is at most ``limit``."""

    limit: int
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class TrialSums(Sums):
    """What each trial loses."""

    num_objects: int
    num_lost: tuple[int, ...]
    num_small: tuple[int, ...]
    num_pixels: tuple[int, ...]
    """Pixels of the resized images, for each trial."""

    @classmethod
    def of(cls, dataset: CocoDataset, trials: Trials) -> TrialSums:
        """Count what each trial loses of the images in the sample."""
        part = part_of(dataset, trials.limit)
        rules = dict.fromkeys(each.detector.resize for each in trials.trials)
        resized = {rule: ResizedInstances.of(part, rule) for rule in rules}
        pixels = {rule: int(each.image_canvas_wh.prod(axis=1).sum()) for rule, each in resized.items()}
        lost, small = [], []
        for each in trials.trials:
            instances = resized[each.detector.resize]
            lost.append(lost_in_training(instances, each.detector, each.anchors))
            small.append(len(small_objects(instances, each.detector.strides)))
        num_pixels = tuple(pixels[each.detector.resize] for each in trials.trials)
        return cls(len(part.instances), tuple(lost), tuple(small), num_pixels)


def size_trials(sample: ImageSample, detector: Detector, anchors: AnchorChoice | None) -> Trials | None:
    """The detector at other input sizes, without and with a finer level; None if the resize rule has no size."""
    rule = parse_resize(detector.resize)
    if not rule.sizes or rule.name == "tiles":
        return None
    versions = [(detector, "", 1.0)]
    if detector.finer and not isinstance(anchors, AnchorSet):
        versions.append((with_finer_level(detector), detector.finer.text, detector.finer.cost))
    part = sample.first(MAX_BOXES_ANCHORS if isinstance(detector, AnchorDetector) else MAX_BOXES)
    trials = []
    for version, finer, factor in versions:
        for each in _other_sizes(rule, detector):
            size = key_text(detector, "size", *each.sizes)
            text = size if not finer else finer if each == rule else f"{size}, {finer}"
            changed = msgspec.structs.replace(version, resize=str(each))
            own = chosen_anchors(anchors, part, changed)
            trials.append(Trial(each.sizes[0], text, changed, factor, bool(finer), own))
    return Trials(part.limit, tuple(trials))


def chosen_anchors(anchors: AnchorChoice | None, sample: ImageSample, detector: Detector) -> AnchorSet | None:
    """The anchors given, or fitted to a sample as given; None for those that a detector ships with."""
    if not callable(anchors) or not isinstance(detector, AnchorDetector):
        return None if callable(anchors) else anchors
    return anchors(ResizedInstances.of(sample.dataset, detector.resize), detector)


def range_trials(sample: ImageSample, detector: Detector) -> Trials | None:
    """FCOS's regression ranges times a factor, and ranges of equal shares; None for other detectors.

    The farthest side of an object is about half of its longer side away: equal shares are quantiles of that.
    """
    rule = detector.matching
    if not isinstance(rule, FcosRanges):
        return None
    instances = ResizedInstances.of(sample.dataset, detector.resize)
    quantiles = np.linspace(0, 1, len(detector.strides) + 1)[1:-1]
    steps = np.arange(len(quantiles))  # limits differ by a pixel at least
    equal = np.maximum.accumulate(np.ceil(np.quantile(instances.shapes.max(axis=1) / 2, quantiles)) - steps) + steps
    tried = [(factor, tuple(limit * factor for limit in rule.limits)) for factor in RANGE_FACTORS]
    trials = []
    for factor, limits in (*tried, (0.0, tuple(equal.tolist()))):
        changed = msgspec.structs.replace(detector, matching=msgspec.structs.replace(rule, limits=limits))
        trials.append(Trial(factor, key_text(detector, "ranges", *limits), changed))
    return Trials(sample.limit, tuple(trials))


def lost_in_training(instances: ResizedInstances, detector: Detector, anchors: AnchorChoice | None = None) -> int:
    """The objects that have no positive or are too large, each counted once, at the least."""
    unlearned, large = unlearned_objects(instances, detector, anchors), too_large_objects(instances, detector)
    certain = unlearned.lost if large is None else np.union1d(unlearned.lost, large.lost)
    return len(certain) + unlearned.num_contested


def with_finer_level(detector: Detector) -> Detector:
    """The detector with one more level, of half the finest stride."""
    return msgspec.structs.replace(detector, strides=[detector.strides[0] // 2, *detector.strides])


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


def _other_sizes(rule: ResizeRule, detector: Detector) -> tuple[ResizeRule, ...]:
    """The rule at sizes that the detector takes, and at its own, in rising order."""
    step, factors = detector.size_multiple, FACTORS_ANCHORS if isinstance(detector, AnchorDetector) else FACTORS
    sizes = {max(step, round(rule.sizes[0] * factor / step) * step) for factor in factors} | {rule.sizes[0]}
    largest = LARGEST_SIDE_PX * rule.sizes[0] // max(rule.sizes)
    return rules_of_sizes(rule, sorted(size for size in sizes if size <= largest))
