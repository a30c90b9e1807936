"""Advice on one detector and one dataset: what is lost before any training, and the settings that change it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import msgspec

from detect.advice.advice_sums import AdviceSums, FirstLook, Plan, drift_sums
from detect.advice.anchor_losses import AnchorChoice
from detect.advice.curves import Curve, limit_curve, nms_curve, ranges_curve, reg_max_curve, size_curve
from detect.advice.data_health import DataSign, data_signs, usual_labels
from detect.advice.drift import Drift, DriftSums, drift
from detect.advice.image_hashes import ImageHashes
from detect.advice.lost_objects import beyond_in_mosaics
from detect.advice.lost_sums import LossSums
from detect.advice.tile_cuts import tiling_for
from detect.advice.trials import chosen_anchors, range_trials, size_trials
from detect.anchors.instances import ResizedInstances, require_boxes
from detect.anchors.sweep import rules_of_sizes
from detect.catalog.detectors import Detector, load_detector
from detect.data import CocoDataset
from detect.data.dataset_counts import DatasetCounts
from detect.data.resize import ResizeRule, parse_resize

SHARE = 0.001  # of the objects: what another value must save before a setting is changed

Ask = Callable[[Callable[[CocoDataset], Any], str], Any]
"""Computes something on a dataset, at once or on its shards, and adds it up; the text says what."""


@dataclass(frozen=True)
class Advice:
    """What a detector loses of a dataset, and the settings that change it; made by :func:`advise`."""

    detector: Detector
    counts: DatasetCounts
    """After the resize rule, which may cut tiles."""
    sums: AdviceSums
    curves: tuple[Curve, ...]
    signs: tuple[DataSign, ...]
    """What the labels themselves show."""
    beyond_in_mosaics: float
    """Expected share of the objects of a training mosaic for which no query is left."""
    drift: Drift | None
    image_ms: float | None = None
    """Time of the detector for one image at its present settings; costs are then also given in time."""

    @property
    def rule(self) -> ResizeRule:
        return parse_resize(self.detector.resize)

    @property
    def num_objects(self) -> int:
        return self.counts.num_boxes

    @property
    def losses(self) -> tuple[LossSums, ...]:
        """Every reason that applies to the detector, also where nothing is lost."""
        return self.sums.losses

    @property
    def across_categories(self) -> int | None:
        """See :attr:`AdviceSums.across_categories`; None if suppression does run over all, or does not run."""
        nms = self.detector.nms
        if nms is None or nms.across == "all" or len(self.counts.category_ids) < 2:
            return None
        return self.sums.across_categories

    @property
    def changes(self) -> tuple[Curve, ...]:
        """The settings that are worth changing."""
        return tuple(curve for curve in self.curves if curve.is_worth_it)

    @property
    def most_lost(self) -> LossSums:
        return max(self.losses, key=lambda each: each.num_lost)


def advise(
    dataset: CocoDataset,
    detector: str | Detector,
    *,
    size: int | None = None,
    validation: CocoDataset | None = None,
    anchors: AnchorChoice | None = None,
    share: float = SHARE,
    image_ms: float | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Advice:
    """Tell which objects of a dataset a detector cannot learn or return, and which settings change that.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> advice = advise(read_coco(sample_annotations("bccd")), "yolo11")
    >>> [(each.reason, each.num_lost) for each in advice.losses if each.num_lost]
    [('suppressed', 8)]

    Args:
        dataset: the training data.
        detector: a name of the catalog, a YAML file of the same fields, or a description.
        size: first size of the detector's resize rule, by default its own.
        validation: compared with the training data.
        anchors: of a detector with anchors; by default those that it ships with.
        share: of the objects that another value must save before a setting is changed.
        image_ms: time of the detector for one image at its present settings; costs are then also given in time.
        on_progress: called with what is computed, the steps done, and their number.

    Raises:
        CatalogError: no detector has this name.
        ResizeError: the detector's resize rule has no size to change.
        FitError: the dataset has no usable boxes.
    """
    steps, num_steps = count(), 2 if validation is None else 4

    def ask(work: Callable[[CocoDataset], Any], what: str, *, of: CocoDataset = dataset) -> Any:
        if on_progress:
            on_progress(what, next(steps), num_steps)
        return work(of)

    others = None if validation is None else partial(ask, of=validation)
    how: dict[str, Any] = {"size": size, "anchors": anchors, "share": share, "image_ms": image_ms}
    advice = advise_by(ask, detector, validation=others, **how)
    if on_progress:
        on_progress(f"{advice.detector.name}: done", num_steps, num_steps)
    return advice


def advise_by(
    ask: Ask,
    detector: str | Detector,
    *,
    size: int | None = None,
    validation: Ask | None = None,
    anchors: AnchorChoice | None = None,
    share: float = SHARE,
    image_ms: float | None = None,
) -> Advice:
    """:func:`advise` on datasets that answer questions: whole, or in shards whose answers are added."""
    detector = detector if isinstance(detector, Detector) else load_detector(detector)
    if size is not None:
        detector = msgspec.structs.replace(detector, resize=str(rules_of_sizes(detector.resize, [size])[0]))
    name, rule = detector.name, detector.resize
    look: FirstLook = ask(partial(FirstLook.of, resize=rule), f"{name}: looking at the boxes")
    require_boxes(look.counts)
    others: DriftSums | None = None
    if validation is not None:
        counts = validation(partial(FirstLook.of, resize=rule), f"{name}: looking at the validation data").counts
        work = partial(drift_sums, resize=rule, names=_names(counts))
        others = validation(work, f"{name}: counting the validation data")
    plan = _plan(look, detector, anchors, others.images if others else None)
    sums: AdviceSums = ask(partial(AdviceSums.of, plan=plan), f"{name}: counting what is lost")
    mosaics = beyond_in_mosaics(sums.curves.images_of, detector.queries, detector.mosaic)
    signs = data_signs(sums.signs, look.counts, plan.usual)
    found = drift(sums.drift, others) if sums.drift and others else None
    return Advice(detector, look.counts, sums, _curves(sums, plan, share), signs, mosaics, found, image_ms)


def _plan(look: FirstLook, detector: Detector, anchors: AnchorChoice | None, validation: ImageHashes | None) -> Plan:
    sample = ResizedInstances.of(look.sample.dataset, detector.resize)
    return Plan(
        detector,
        chosen_anchors(anchors, look.sample, detector),
        size_trials(look.sample, detector, anchors),
        range_trials(look.sample, detector),
        usual=usual_labels(sample, look.files),
        tiling=tiling_for(sample),
        names=_names(look.counts),
        validation=validation,
    )


def _curves(advised: AdviceSums, plan: Plan, share: float) -> tuple[Curve, ...]:
    sums, detector = advised.curves, plan.detector
    curves = [
        size_curve(sums.sizes, plan.sizes, detector, share=share) if sums.sizes and plan.sizes else None,
        ranges_curve(sums.ranges, plan.ranges, share=share) if sums.ranges and plan.ranges else None,
        reg_max_curve(sums, detector, share=share),
        limit_curve("objects of a training image", "max_truth", sums, detector),
        limit_curve("queries", "queries", sums, detector),
        nms_curve(sums, detector, share=share),
        limit_curve("detections of an image", "max_det", sums, detector),
    ]
    return tuple(curve for curve in curves if curve)


def _names(counts: DatasetCounts) -> dict[int, str]:
    return {key: counts.category_name(key) for key in counts.category_ids}
