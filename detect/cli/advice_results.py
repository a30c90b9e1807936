"""Advice printed as tables, as JSON objects, and as files."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detect.advice.advise import COCO_MAX_DETS, Advice
from detect.advice.curves import Curve
from detect.advice.data_health import DataSign
from detect.advice.lost_objects import LostObjects
from detect.advice.tile_cuts import TileAdvice
from detect.advice.verdict import cost_in_words, share_text, verdict
from detect.anchors.instances import category_groups
from detect.cli.output import json_text, print_dataset, show, show_table
from detect.data.dataset_counts import DatasetCounts
from detect.files import csv_text
from detect.wording import plural

if TYPE_CHECKING:
    from detect.inspection.level_profile import ModelProfile, ObjectProfile
    from detect.report.advice_page import DatasetPart, DetectorPart

MAX_LISTED = 1000  # ids in a JSON object; their counts are always complete
MAX_GROUPS = 8  # categories in a printed table
LOST_COLUMNS = (
    "detector",
    "reason",
    "outcome",
    "annotation_id",
    "image_id",
    "file",
    "category",
    "width",
    "height",
)


class Answers:
    """The answers on several detectors: printed, and kept as JSON objects, rows and parts of the page.

    Advice itself is not kept: it holds every box once more. What the labels show is that of the first detector.
    """

    def __init__(
        self, *, printed: bool, with_files: bool, images: Path | None, profile: ModelProfile | None = None
    ) -> None:
        self.printed, self.with_files, self.images, self.profile = printed, with_files, images, profile
        self.objects: list[dict[str, Any]] = []
        self.parts: list[DetectorPart] = []
        self.lost: list[list[Any]] = []
        self.labels: dict[str, Any] = {}
        self.dataset: DatasetPart | None = None

    def add(self, advice: Advice) -> None:
        """Print the advice on one detector, and keep what is written."""
        if not self.objects:
            self._begin(advice)
        if self.printed:
            print_detector(advice)
        self.objects.append(advice_object(advice))
        seen = self._add_levels(self.profile, advice) if self.profile else None
        if self.with_files:
            from detect.report.advice_page import detector_part

            self.lost += [row for loss in advice.losses for row in _lost_rows(advice, loss)]
            self.parts.append(
                detector_part(advice, len(self.parts), notes=notes(advice), images=self.images, seen=seen)
            )

    def _add_levels(self, profile: ModelProfile, advice: Advice) -> ObjectProfile:
        """What the levels of the model suit of the detector's objects."""
        from detect.cli.backbone_results import objects_object
        from detect.inspection.level_profile import profile_objects

        seen = profile_objects(profile, advice.instances)
        lines = seen.in_words(advice.detector)
        if self.printed:
            show(f"{seen.profile.name} beside these objects", style="bold")
            for line in lines:
                show(line)
        self.objects[-1]["model"] = {**objects_object(seen), "in_words": lines}
        return seen

    def _begin(self, advice: Advice) -> None:
        if self.printed:
            print_dataset(DatasetCounts.of(advice.instances.dataset), "by detector")
        self.labels = labels_object(advice)
        if self.with_files:
            from detect.report.advice_page import dataset_part

            self.dataset = dataset_part(advice)

    def content(self) -> dict[str, Any]:
        """The answers, and what the labels show, as one JSON object."""
        return {"advice": self.objects, **self.labels}

    def files(self) -> dict[str, str]:
        """``advice.json``, ``lost.csv`` with every lost or contested object, and ``report.html``."""
        from detect.report.advice_page import advice_page

        files = {
            "advice.json": json_text(self.content(), indent=1) + "\n",
            "lost.csv": csv_text(LOST_COLUMNS, self.lost),
        }
        return files | ({"report.html": advice_page(self.dataset, self.parts)} if self.dataset else {})

    def print_labels(self) -> None:
        """Print what the labels show."""
        signs = [sign["words"] for sign in self.labels["labels"]]
        signs += self.labels["drift"]["in_words"] if self.labels["drift"] else []
        if signs:
            show("\nlabels", style="bold")
        for line in signs:
            show(f"- {line}")


def print_detector(advice: Advice) -> None:
    """Print the verdict on a detector, and the tables behind it."""
    show(f"\n{advice.detector.name}", style="bold")
    for line in verdict(advice):
        show(line)
    sizes = [name for name, *_ in advice.by_size(advice.losses[0])]
    show_table(("lost", "at least", "share", *sizes), [_loss_row(advice, each) for each in advice.losses])
    _print_worst(advice)
    rows = [_curve_row(curve, len(advice.instances)) for curve in advice.curves]
    show_table(("setting", "now", "loses", "best", "loses", "compute"), rows)
    for line in notes(advice):
        show(line, style="dim")


def notes(advice: Advice) -> list[str]:
    """What else is known, in sentences; nothing where it does not apply."""
    lines, number = [], len(advice.instances)
    if not math.isnan(advice.too_large_iou):
        lines.append(
            f"the best IoU with which too large objects can be predicted is {advice.too_large_iou:.2f} on average"
        )
    if advice.unscored:
        what = f"{plural(advice.unscored, 'object')} ({share_text(advice.unscored, number)})"
        lines.append(f"COCO's AP counts {COCO_MAX_DETS} detections of an image and category: {what} cannot count")
    across, within = advice.across_categories, [each.num_lost for each in advice.losses if each.reason == "suppressed"]
    if across and advice.detector.nms and across.num_lost > sum(within):
        what = f"{plural(across.num_lost, 'object')} at IoU {advice.detector.nms.iou:g}"
        lines.append(f"suppression across categories would remove {what}")
    if advice.beyond_in_mosaics:
        images, share = advice.detector.mosaic, f"{advice.beyond_in_mosaics:.2%} of the objects"
        lines.append(f"in mosaics of {images} images {share} have no query left, unless crops cut objects away")
    if advice.tiles:
        lines.append(_tiles_in_words(advice.tiles, advice.image_ms))
    return lines


def _tiles_in_words(tiles: TileAdvice, image_ms: float | None) -> str:
    cuts, cut = tiles.cuts, plural(len(tiles.cuts.cut), "object")
    cost = f"{cuts.num_tiles.mean():.1f} tiles an image, {cost_in_words(tiles.cost, image_ms)}"
    if tiles.is_enough:
        return f"tiles of {cuts.size} px with an overlap of {cuts.overlap} px cut {cut}: {cost}"
    return f"tiles of {cuts.size} px cut {cut} even with an overlap of half a tile: {cost}"


def advice_object(advice: Advice) -> dict[str, Any]:
    """Advice as a JSON object."""
    ids, tiles = advice.instances.dataset.instances.ids, advice.tiles
    return {
        "detector": advice.detector.name,
        "source": advice.detector.source,
        "resize": str(advice.instances.rule),
        "objects": len(advice.instances),
        "verdict": list(verdict(advice)),
        "lost": [
            {
                "reason": each.reason,
                "at_least": each.num_lost,
                "lost_ids": ids[each.lost][:MAX_LISTED].tolist(),
                "contested": len(each.contested),
                "contested_ids": ids[each.contested][:MAX_LISTED].tolist(),
            }
            for each in advice.losses
        ],
        "settings": [_curve_object(curve) for curve in advice.curves],
        "small": {"objects": len(advice.small), "ids": ids[advice.small][:MAX_LISTED].tolist()},
        "beyond_coco_max_dets": advice.unscored,
        "suppressed_across_categories": advice.across_categories and advice.across_categories.num_lost,
        "beyond_in_mosaics": advice.beyond_in_mosaics,
        "tiles": tiles
        and {
            "size": tiles.cuts.size,
            "overlap": tiles.cuts.overlap,
            "is_enough": tiles.is_enough,
            "cut": len(tiles.cuts.cut),
            "cut_ids": ids[tiles.cuts.cut][:MAX_LISTED].tolist(),
            "tiles_per_image": float(tiles.cuts.num_tiles.mean()),
            "cost": tiles.cost,
        },
    }


def labels_object(advice: Advice) -> dict[str, Any]:
    """What the labels show, as a JSON object."""
    ids = advice.instances.dataset.instances.ids
    found = advice.drift and {**asdict(advice.drift), "in_words": list(advice.drift.in_words())}
    return {"labels": [_sign_object(sign, ids) for sign in advice.signs], "drift": found}


def _loss_row(advice: Advice, loss: LostObjects) -> list[str]:
    """Lost and contested objects by size: not all of the contested ones are lost."""
    sizes = [f"{count:,} of {whole:,}" for _, count, whole in advice.by_size(loss)]
    return [loss.reason, f"{loss.num_lost:,}", share_text(loss.num_lost, len(advice.instances)), *sizes]


def _print_worst(advice: Advice) -> None:
    """The categories of the most frequent reason, if there are several."""
    loss, groups = advice.most_lost, category_groups(advice.instances)
    if not loss.num_lost or len(groups) < 2:
        return
    counts = [(int(np.isin(group.rows, loss.rows).sum()), group) for group in groups]
    most = sorted((each for each in counts if each[0]), key=lambda each: -each[0])[:MAX_GROUPS]
    rows = [[group.name, f"{count:,}", share_text(count, len(group.rows))] for count, group in most]
    show_table((f"most {loss.reason}", "objects", "of the category"), rows)


def _curve_row(curve: Curve, number: int) -> list[str]:
    """The setting now and at its best; numbers of a part of the objects say so."""
    part = f" of {curve.num_objects:,}" if curve.num_objects < number else ""
    best = [curve.best.text, f"{curve.best.num_lost:,}{part}", f"{curve.best.cost:.3g} x"]
    end = best if curve.is_worth_it else ["keep", "", ""]
    return [curve.setting, curve.now.text, f"{curve.now.num_lost:,}{part}", *end]


def _curve_object(curve: Curve) -> dict[str, Any]:
    return {
        "setting": curve.setting,
        "objects": curve.num_objects,
        "now": asdict(curve.now),
        "best": asdict(curve.best),
        "is_worth_it": curve.is_worth_it,
        "options": [asdict(option) for option in curve.options],
    }


def _sign_object(sign: DataSign, ids: Any) -> dict[str, Any]:
    return {
        "name": sign.name,
        "words": sign.words,
        "objects": len(sign.rows),
        "ids": ids[sign.rows][:MAX_LISTED].tolist(),
        "image_ids": list(sign.image_ids)[:MAX_LISTED],
        "categories": list(sign.categories),
    }


def _lost_rows(advice: Advice, loss: LostObjects) -> list[list[Any]]:
    dataset = advice.instances.dataset
    own, rows = dataset.instances, []
    for word, chosen in (("lost", loss.lost), ("contested", loss.contested)):
        for row in chosen.tolist():
            image = int(own.image_rows[row])
            names = dataset.images.file_names[image], dataset.category_name(int(own.category_ids[row]))
            sides = [f"{side:.6g}" for side in own.boxes_xywh[row, 2:].tolist()]
            ids = int(own.ids[row]), int(dataset.images.ids[image])
            rows.append([advice.detector.name, loss.reason, word, *ids, *names, *sides])
    return rows
