"""Advice printed as tables, as JSON objects, and as files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detect.advice.advice_sums import COCO_MAX_DETS
from detect.advice.advise import Advice
from detect.advice.curves import Curve
from detect.advice.data_health import DataSign
from detect.advice.lost_sums import MAX_IDS, MAX_OBJECTS, LossSums
from detect.advice.tile_cuts import TileAdvice
from detect.advice.verdict import cost_in_words, share_text, verdict
from detect.cli.output import json_text, note, print_dataset, show, show_table
from detect.text_formats import csv_text
from detect.wording import plural, significant

if TYPE_CHECKING:
    from detect.anchors.instances import ResizedInstances
    from detect.inspection.level_profile import ModelProfile, ObjectProfile
    from detect.report.advice_page import DatasetPart, DetectorPart

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
        self.left_out: dict[str, Any] = {}
        self.dataset: DatasetPart | None = None

    @property
    def shows_objects(self) -> bool:
        """Whether the objects themselves are needed."""
        return self.profile is not None or (self.with_files and self.images is not None)

    def add(self, advice: Advice, instances: ResizedInstances | None = None) -> None:
        """Print the advice on one detector, and keep what is written; pictures and the model's levels need the instances."""
        if not self.objects:
            self._begin(advice)
        if self.printed:
            print_detector(advice)
        self.objects.append(advice_object(advice))
        seen = self._add_levels(self.profile, advice, instances) if self.profile and instances else None
        if self.with_files:
            from detect.report.advice_page import detector_part

            self.lost += [row for loss in advice.losses for row in _lost_rows(advice, loss)]
            if any(max(len(loss.lost), len(loss.contested)) > MAX_OBJECTS for loss in advice.losses):
                note(
                    f"note: {advice.detector.name}: lost.csv has the first {MAX_OBJECTS:,} objects of a reason and outcome"
                )
            how: dict[str, Any] = {"images": self.images, "instances": instances, "seen": seen}
            self.parts.append(detector_part(advice, len(self.parts), notes=notes(advice), **how))

    def _add_levels(self, profile: ModelProfile, advice: Advice, instances: ResizedInstances) -> ObjectProfile:
        """What the levels of the model suit of the detector's objects."""
        from detect.cli.backbone_results import objects_object
        from detect.inspection.level_profile import profile_objects

        seen = profile_objects(profile, instances)
        lines = seen.in_words(advice.detector)
        if self.printed:
            show(f"{seen.profile.name} beside these objects", style="bold")
            for line in lines:
                show(line)
        self.objects[-1]["model"] = {**objects_object(seen), "in_words": lines}
        return seen

    def _begin(self, advice: Advice) -> None:
        if self.printed:
            print_dataset(advice.counts, "by detector")
        self.labels = labels_object(advice)
        if self.with_files:
            from detect.report.advice_page import dataset_part

            self.dataset = dataset_part(advice)

    def content(self) -> dict[str, Any]:
        """The answers, and what the labels show, as one JSON object."""
        return {"advice": self.objects, **self.labels, **self.left_out}

    def files(self) -> dict[str, str]:
        """``advice.json``, ``lost.csv`` with the lost or contested objects, and ``report.html``."""
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
    sizes = [name for name, *_ in advice.losses[0].by_size]
    show_table(("lost", "at least", "share", *sizes), [_loss_row(advice, each) for each in advice.losses])
    show("at least: lost in any case; by size after the resize: lost, or competing for the same cells", style="dim")
    _print_worst(advice)
    rows = [_curve_row(curve, advice.num_objects) for curve in advice.curves]
    show_table(("setting", "now", "loses", "best", "loses", "compute"), rows)
    for line in notes(advice):
        show(line, style="dim")


def notes(advice: Advice) -> list[str]:
    """What else is known, in sentences; nothing where it does not apply."""
    lines, number = [], advice.num_objects
    if advice.sums.unscored:
        what = f"{plural(advice.sums.unscored, 'object')} ({share_text(advice.sums.unscored, number)})"
        lines.append(f"COCO's AP counts {COCO_MAX_DETS} detections of an image and category: {what} cannot count")
    across, within = advice.across_categories, [each.num_lost for each in advice.losses if each.reason == "suppressed"]
    if across and advice.detector.nms and across > sum(within):
        what = f"{plural(across, 'object')} at IoU {advice.detector.nms.iou:g}"
        lines.append(f"suppression across categories would remove {what}")
    if advice.beyond_in_mosaics:
        images, share = advice.detector.mosaic, f"{advice.beyond_in_mosaics:.2%} of the objects"
        lines.append(f"in mosaics of {images} images {share} have no query left, unless crops cut objects away")
    if advice.sums.tiles:
        lines.append(_tiles_in_words(advice.sums.tiles, advice.image_ms))
    return lines


def _tiles_in_words(tiles: TileAdvice, image_ms: float | None) -> str:
    tiling, cut = tiles.tiling, plural(len(tiles.cut), "object")
    cost = f"{tiles.per_image:.1f} tiles an image, {cost_in_words(tiles.cost, image_ms)}"
    if tiling.is_enough:
        return f"tiles of {tiling.size} px with an overlap of {tiling.overlap} px cut {cut}: {cost}"
    return f"tiles of {tiling.size} px cut {cut} even with an overlap of half a tile: {cost}"


def advice_object(advice: Advice) -> dict[str, Any]:
    """Advice as a JSON object."""
    tiles = advice.sums.tiles
    return {
        "detector": advice.detector.name,
        "source": advice.detector.source,
        "resize": str(advice.rule),
        "objects": advice.num_objects,
        "verdict": list(verdict(advice)),
        "lost": [
            {
                "reason": each.reason,
                "at_least": each.num_lost,
                "lost_ids": [one.annotation_id for one in each.lost][:MAX_IDS],
                "contested": len(each.contested),
                "contested_ids": [one.annotation_id for one in each.contested][:MAX_IDS],
            }
            for each in advice.losses
        ],
        "settings": [_curve_object(curve) for curve in advice.curves],
        "small": {"objects": len(advice.sums.small), "ids": list(advice.sums.small)},
        "beyond_coco_max_dets": advice.sums.unscored,
        "suppressed_across_categories": advice.across_categories,
        "beyond_in_mosaics": advice.beyond_in_mosaics,
        "tiles": tiles
        and {
            "size": tiles.tiling.size,
            "overlap": tiles.tiling.overlap,
            "is_enough": tiles.tiling.is_enough,
            "cut": len(tiles.cut),
            "cut_ids": list(tiles.cut),
            "tiles_per_image": tiles.per_image,
            "cost": tiles.cost,
        },
    }


def labels_object(advice: Advice) -> dict[str, Any]:
    """What the labels show, as a JSON object."""
    found = advice.drift and {**asdict(advice.drift), "in_words": list(advice.drift.summary())}
    return {"labels": [_sign_object(sign) for sign in advice.signs], "drift": found}


def _loss_row(advice: Advice, loss: LossSums) -> list[str]:
    """Lost and contested objects by size: not all of the contested ones are lost."""
    sizes = [f"{count:,} of {whole:,}" for _, count, whole in loss.by_size]
    return [loss.reason, f"{loss.num_lost:,}", share_text(loss.num_lost, advice.num_objects), *sizes]


def _print_worst(advice: Advice) -> None:
    """The categories of the most frequent reason, if there are several."""
    loss, counts = advice.most_lost, advice.counts
    if not loss.num_lost or len(counts.boxes_of) < 2:
        return
    most = sorted(loss.of_category.items(), key=lambda each: -each[1])[:MAX_GROUPS]
    rows = [[counts.category_name(key), f"{lost:,}", share_text(lost, counts.boxes_of[key])] for key, lost in most]
    show_table((f"most {loss.reason}", "objects", "of the category"), rows)


def _curve_row(curve: Curve, number: int) -> list[str]:
    """The setting now and at its best; numbers of a part of the objects say so."""
    part = f" of {curve.num_objects:,}" if curve.num_objects < number else ""
    best = [curve.best.text, f"{curve.best.num_lost:,}{part}", f"{significant(curve.best.cost, 3)} x"]
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


def _sign_object(sign: DataSign) -> dict[str, Any]:
    return {
        "name": sign.name,
        "words": sign.words,
        "objects": len(sign.ids),
        "ids": list(sign.ids),
        "image_ids": list(sign.image_ids),
        "categories": list(sign.categories),
    }


def _lost_rows(advice: Advice, loss: LossSums) -> list[list[Any]]:
    rows = []
    for word, objects in (("lost", loss.lost), ("contested", loss.contested)):
        for each in objects:
            names = each.file_name, advice.counts.category_name(each.category_id)
            sides = f"{each.width:.6g}", f"{each.height:.6g}"
            ids = each.annotation_id, each.image_id
            rows.append([advice.detector.name, loss.reason, word, *ids, *names, *sides])
    return rows
