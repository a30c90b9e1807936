"""Trials: other input sizes and ranges, as the framework spells them, on a sample of the images."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from builders import dataset_of

from detect.advice import trials as trials_module
from detect.advice.image_sample import ImageSample
from detect.advice.trials import (
    TrialSums,
    key_text,
    lost_in_training,
    range_trials,
    size_trials,
    with_finer_level,
)
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.catalog.detectors import AnchorDetector, Detector, detectors, load_detector
from detect.data import read_coco
from detect.samples import sample_annotations

SAMPLE = ImageSample.of(dataset_of([[0, 0, 50, 50]]))


@pytest.mark.parametrize("resize", ["none", "tiles:640:100"])
def test_a_rule_without_a_size_is_not_tried(resize):
    detector = msgspec.structs.replace(load_detector("yolo11"), resize=resize)
    assert size_trials(SAMPLE, detector, None) is None


def test_anchors_are_fitted_anew_at_each_size():
    fitted = []

    def fit(instances: ResizedInstances, detector: Detector):
        fitted.append((str(instances.rule), detector.strides))
        return load_anchors("yolov5")

    trials = size_trials(SAMPLE, load_detector("yolov5"), fit)
    assert trials
    assert trials.trials[0].anchors == load_anchors("yolov5")
    assert fitted == [(f"letterbox:{size}", [8, 16, 32]) for size in (640, 960, 1280)]


def test_an_object_that_is_both_too_large_and_without_a_positive_counts_once():
    detector = msgspec.structs.replace(load_detector("yolo11-8.3"), reg_max=2)  # 32 px on stride 32
    dataset = dataset_of([[0, 0, 640, 3], [100, 100, 20, 20]])
    # the first holds no centre, and is longer than 64 px
    assert lost_in_training(ResizedInstances.of(dataset, detector.resize), detector) == 1


def test_settings_are_spelled_as_the_framework_does_or_in_words():
    assert key_text(load_detector("torchvision-retinanet"), "size", 1200, 2000) == "min_size=1200, max_size=2000"
    assert key_text(load_detector("rtmdet"), "size", 960) == "input size 960"
    assert key_text(load_detector("effdet-d0"), "size", 640) == "image_size=(640, 640)"


def test_a_key_that_cannot_hold_the_sizes_gives_way_to_words():
    assert key_text(load_detector("yolo11"), "size", 640, 480) == "input size 640 x 480"
    assert key_text(load_detector("rf-detr"), "size", 640, 640) == "resolution=640"
    assert key_text(load_detector("torchvision-retinanet"), "size", 640) == "input size 640"
    assert key_text(load_detector("fcos"), "ranges", 32, 64, 128, 256) == "ranges 32, 64, 128, 256"


def test_sizes_are_multiples_that_the_framework_takes_and_fit():
    for name in ("rf-detr", "effdet-d1", "yolo11", "centernet"):
        detector = load_detector(name)
        trials = size_trials(SAMPLE, detector, None)
        assert trials
        assert all(each.value % detector.size_multiple == 0 for each in trials.trials)
    large = msgspec.structs.replace(load_detector("yolo11"), resize="letterbox:20000")
    trials = size_trials(SAMPLE, large, None)
    assert trials
    assert 20000 in {each.value for each in trials.trials}
    assert max(each.value for each in trials.trials) <= 65536


def test_given_anchors_have_no_finer_level():
    finer = msgspec.structs.replace(load_detector("yolov5"), finer=load_detector("yolov8").finer)
    trials = size_trials(SAMPLE, finer, load_anchors("yolov5"))
    assert trials
    assert not any(each.finer for each in trials.trials)
    assert all(each.anchors == load_anchors("yolov5") for each in trials.trials)


def test_images_without_objects_and_beyond_the_sample_are_not_tried(monkeypatch):
    monkeypatch.setattr(trials_module, "MAX_BOXES", 100)
    dataset, detector = read_coco(sample_annotations("bccd")), load_detector("yolo11")
    sample = ImageSample.of(dataset)
    trials = size_trials(sample, detector, None)
    assert trials
    sums = TrialSums.of(dataset, trials)
    assert sums.num_objects == len(sample.first(100).keys) < 150
    part = dataset_of([], [[0, 0, 50, 50], [9, 9, 40, 40]], [])
    trials = size_trials(ImageSample.of(part), detector, None)
    assert trials
    assert TrialSums.of(part, trials).num_pixels[0] == min(each.value for each in trials.trials) ** 2


def test_detectors_without_ranges_try_none():
    assert range_trials(SAMPLE, load_detector("yolo11")) is None


def test_a_finer_level_has_half_the_stride():
    assert with_finer_level(load_detector("yolov8")).strides == [4, 8, 16, 32]
    yolov5 = with_finer_level(load_detector("yolov5"))
    assert isinstance(yolov5, AnchorDetector)
    assert yolov5.numbers == [3, 3, 3, 3]


def test_every_key_of_the_catalog_takes_its_numbers():
    numbers = {"size": (640, 1024), "ranges": (32, 64, 128, 256)}
    for each in detectors().values():
        for key in each.keys:
            text = key_text(each, key, *numbers.get(key, (7,)))
            assert "{" not in text
            assert any(f"{number}" in text for number in numbers.get(key, (7,)))
    assert np.isfinite(load_detector("yolov8").finer.cost)
