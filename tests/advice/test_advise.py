"""Advice as a whole: every reason that applies, the settings that change it, and what is said about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import dataset_of

from detect.advice.advise import advise
from detect.catalog.detectors import detectors, load_detector
from detect.data import read_coco
from detect.errors import CatalogError, FitError
from detect.samples import sample_annotations


@pytest.fixture(scope="module")
def nuclei():
    return read_coco(sample_annotations("nuclei"))


@pytest.mark.parametrize("name", [name for name in detectors() if not name.startswith("effdet-d")] + ["effdet-d0"])
def test_every_detector_of_the_catalog_is_advised_on(name):
    advice = advise(dataset_of([[10, 10, 90, 60], [300, 300, 8, 9]]), name)
    reasons = [loss.reason for loss in advice.losses]
    detector = load_detector(name)
    assert "no positive" in reasons
    assert ("suppressed" in reasons) == (detector.nms is not None)
    assert ("too large" in reasons) == (detector.reg_max is not None)
    assert ("not returned" in reasons) == (detector.max_det is not None)
    assert ("dropped" in reasons) == (detector.max_truth is not None)
    assert all(curve.now.text for curve in advice.curves)


def test_the_losses_of_the_nuclei_and_the_settings_that_change_them(nuclei):
    advice = advise(nuclei, "yolo11-8.3", size=128)
    assert str(advice.rule) == "letterbox:128"
    assert {loss.reason: loss.num_lost for loss in advice.losses} == {
        "no positive": 12, "too large": 0, "suppressed": 0, "not returned": 0,
    }  # fmt: skip
    assert advice.most_lost.reason == "no positive"
    (change,) = advice.changes
    assert change.setting == "input size"
    assert change.best.num_lost < 4
    assert len(advice.sums.small) > 0
    assert advice.sums.tiles is None  # the images are not shrunk
    assert advice.across_categories is None  # there is one category


def test_progress_names_the_detector_and_reaches_its_total(nuclei):
    calls = []
    advise(nuclei, "rf-detr", on_progress=lambda *call: calls.append(call))
    assert [done for _, done, _ in calls] == [0, 1, 2]
    assert all(what.startswith("rf-detr: ") and total == 2 for what, _, total in calls)


def test_large_images_are_advised_on_tiles():
    boxes = [[100.0 * number, 100.0 * number, 30, 30] for number in range(20)]
    advice = advise(dataset_of(boxes, side=2560), "yolo11")
    assert advice.sums.tiles
    assert advice.sums.tiles.tiling.shrink == pytest.approx(4.0)
    assert advice.sums.tiles.tiling.is_enough
    assert advice.sums.tiles.per_image == advice.sums.tiles.num_tiles == 25
    assert advice.sums.tiles.cost == 25.0


def test_mosaics_count_for_detectors_with_queries():
    many = [[float(number), 0, 9, 9] for number in range(100)]
    assert advise(dataset_of(many), "ultralytics-rt-detr").beyond_in_mosaics == 0.25  # 400 objects, 300 queries
    assert advise(dataset_of(many), "rt-detr").beyond_in_mosaics == 0.0


def test_coco_counts_100_detections_of_an_image_and_category():
    many = [[float(number), 0, 9, 9] for number in range(110)]
    one = dataset_of(many)
    assert advise(one, "rt-detr").sums.unscored == 10
    categories = np.where(np.arange(110) < 50, 1, 2)
    two = replace(one, annotations=replace(one.annotations, category_ids=categories), categories={1: "cell", 2: "dust"})
    assert advise(two, "rt-detr").sums.unscored == 0


def test_validation_data_is_compared(nuclei):
    halves = [nuclei.take_images(np.arange(start, len(nuclei.images), 2)) for start in (0, 1)]
    assert advise(halves[0], "yolo11", validation=halves[1]).drift.shared_ids == ()
    assert advise(nuclei, "yolo11", validation=halves[1]).drift.shared_ids
    assert advise(nuclei, "yolo11").drift is None


def test_what_cannot_be_advised_on_is_refused(nuclei):
    with pytest.raises(CatalogError, match="no detector is named 'yolo12'"):
        advise(nuclei, "yolo12")
    with pytest.raises(FitError, match="no usable boxes"):
        advise(dataset_of([]), "yolo11")
