"""Curves of settings: counted by hand on a few objects, and chosen where the gain is worth the cost."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from builders import dataset_of

from detect.advice import curves
from detect.advice.curves import (
    Option,
    choose,
    evenly,
    key_text,
    limit_curve,
    lost_in_training,
    nms_curve,
    ranges_curve,
    reg_max_curve,
    size_curve,
    with_finer_level,
)
from detect.advice.overlaps import overlapping_pairs
from detect.anchors.instances import ResizedInstances
from detect.catalog.detectors import AnchorDetector, Detector, load_detector
from detect.data import CocoDataset, read_coco
from detect.samples import sample_annotations


def resized(dataset: CocoDataset, detector: Detector) -> ResizedInstances:
    return ResizedInstances.of(dataset, detector.resize)


OPTIONS = [Option(640, "640", 90), Option(960, "960", 4, 2.0), Option(1280, "1280", 0, 4.0)]


def compute(option: Option) -> float:
    return 20 * math.log2(option.cost)


def test_the_cheapest_sum_of_lost_objects_and_price_is_chosen():
    # 90 + 0, 4 + 20, 0 + 40
    assert choose(OPTIONS, 0, 1000, 0.001, compute) == 1
    assert choose(OPTIONS, 0, 1000, 0.001, lambda option: 0.0) == 2


def test_nothing_changes_unless_more_than_the_share_is_saved():
    assert choose(OPTIONS, 0, 1000, 0.086, compute) == 0  # 86 of 1,000 are not more than that
    assert choose(OPTIONS, 0, 1000, 0.085, compute) == 1
    assert choose(OPTIONS, 2, 1000, 0.001, compute) == 2  # nothing is lost


def test_of_equal_values_the_nearest_is_chosen():
    options = [Option(value, "", lost) for value, lost in ((100, 0), (200, 0), (300, 9), (1000, 0))]
    assert choose(options, 2, 10, 0.0, lambda option: 0.0) == 1


def test_a_larger_input_or_a_finer_level_gives_small_objects_a_cell():
    # at stride 8 centres are 4, 12, 20, ...: boxes from 5 to 8 and from 21 to 24 hold none; at stride 4, they hold 6 and 22
    detector = msgspec.structs.replace(load_detector("yolov8-8.3"), resize="letterbox:64")
    dataset = dataset_of([[5, 5, 3, 3], [21, 21, 3, 3], [0, 0, 40, 40]], side=64)
    curve = size_curve(dataset, detector, None, share=0.0)
    assert curve
    plain = {option.value: option.num_lost for option in curve.options if not option.finer}
    finer = {option.value: (option.num_lost, option.cost) for option in curve.options if option.finer}
    assert plain[64] == curve.now.num_lost == 2
    assert plain[128] == 0  # (10, 16) holds 12
    assert finer[64] == (0, detector.finer.cost)
    assert curve.best.text == "model=yolov8s-p2.yaml"  # 1.38 times the compute, against 4 times
    assert curve.is_worth_it


def test_the_cost_of_an_input_size_is_its_number_of_pixels():
    curve = size_curve(dataset_of([[0, 0, 50, 50]]), load_detector("yolo11"), None, share=0.001)
    assert {option.value: round(option.cost, 4) for option in curve.options}[1280] == 4.0
    assert curve.now.text == "imgsz=640"
    assert {option.text for option in curve.options} >= {"imgsz=960", "imgsz=1280"}


def test_objects_that_are_small_are_counted_by_size():
    curve = size_curve(dataset_of([[0, 0, 6, 6], [9, 9, 20, 20]]), load_detector("yolo11"), None, share=0.001)
    assert {option.value: option.num_small for option in curve.options}[640] == 1
    assert {option.value: option.num_small for option in curve.options}[960] == 0


@pytest.mark.parametrize("resize", ["none", "tiles:640:100"])
def test_a_rule_without_a_size_has_no_curve(resize):
    detector = msgspec.structs.replace(load_detector("yolo11"), resize=resize)
    assert size_curve(dataset_of([[0, 0, 50, 50]]), detector, None, share=0.001) is None


def test_anchors_are_fitted_anew_at_each_size():
    fitted = []

    def fit(instances: ResizedInstances, detector: Detector):
        fitted.append((str(instances.rule), detector.strides))
        from detect.anchors.known import load_anchors

        return load_anchors("yolov5")

    size_curve(dataset_of([[0, 0, 50, 50]]), load_detector("yolov5"), fit, share=0.001)
    assert fitted == [(f"letterbox:{size}", [8, 16, 32]) for size in (640, 960, 1280)]


def test_an_object_that_is_both_too_large_and_without_a_positive_counts_once():
    detector = msgspec.structs.replace(load_detector("yolo11-8.3"), reg_max=2)  # 32 px on stride 32
    dataset = dataset_of([[0, 0, 640, 3], [100, 100, 20, 20]])
    # the first holds no centre, and is longer than 64 px
    assert lost_in_training(resized(dataset, detector), detector) == 1


def test_the_smallest_reg_max_that_reaches_every_side_is_chosen():
    # 620 px about the middle of 640: the nearest centre of stride 32 is 16 px off, so 326 px or 10.2 strides are needed
    detector = msgspec.structs.replace(load_detector("yolo11"), reg_max=8)
    curve = reg_max_curve(resized(dataset_of([[10, 10, 620, 620]]), detector), detector, share=0.0)
    assert (curve.now.num_lost, curve.best.value, curve.best.num_lost) == (1, 12, 0)
    assert curve.best.text == "reg_max: 12 in the model's YAML"
    assert reg_max_curve(resized(dataset_of([[10, 10, 620, 620]]), detector), load_detector("fcos"), share=0.0) is None


def test_a_higher_nms_threshold_must_save_more_objects_for_each_step():
    # pairs of an IoU of .6: both stay from there on
    boxes = [[40.0 * number, 0, 20, 20] for number in range(10)] + [[40.0 * number, 5, 20, 20] for number in range(10)]
    detector = load_detector("yolov3-darknet")
    instances = resized(dataset_of(boxes), detector)
    pairs = overlapping_pairs(instances.boxes, instances.dataset.instances.image_rows)
    curve = nms_curve(pairs, len(instances), detector, share=0.001)
    assert {option.value: option.num_lost for option in curve.options} == {
        value: 10 if value < 0.6 else 0 for value in (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
    }
    assert curve.best.value == 0.6
    assert (
        nms_curve(pairs, len(instances), detector, share=0.4).best.value == 0.45
    )  # three steps cost more than 10 of 20
    assert nms_curve(pairs, len(instances), load_detector("rf-detr"), share=0.001) is None


def test_limits_are_raised_to_the_most_crowded_image():
    few, many = [[9.0, 9, 9, 9]] * 3, [[float(number), 0, 9, 9] for number in range(350)]
    detector = load_detector("rf-detr")
    curve = limit_curve("queries", "queries", resized(dataset_of(few, many), detector), detector)
    assert (curve.now.text, curve.now.num_lost) == ("num_queries=300 (published weights do not fit)", 50)
    assert (curve.best.text, curve.best.num_lost) == ("num_queries=400 (published weights do not fit)", 0)
    assert limit_curve("objects", "max_truth", resized(dataset_of(few), detector), detector) is None


def test_ranges_are_scaled_and_the_last_ones_hold_equal_shares():
    dataset = dataset_of([[20.0 * number, 20.0 * number, 12 + number, 12 + number] for number in range(25)])
    detector = load_detector("mmdet-fcos")
    curve = ranges_curve(dataset, detector, share=0.001)
    assert [option.value for option in curve.options] == [0.5, 1, 2, 0]
    assert curve.now.text == "model.bbox_head.regress_ranges=((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))"
    assert curve.chosen == curve.current
    assert ranges_curve(dataset, load_detector("yolo11"), share=0.001) is None


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
        curve = size_curve(dataset_of([[0, 0, 50, 50]]), detector, None, share=0.001)
        assert all(option.value % detector.size_multiple == 0 for option in curve.options)
    large = msgspec.structs.replace(load_detector("yolo11"), resize="letterbox:20000")
    curve = size_curve(dataset_of([[0, 0, 50, 50]]), large, None, share=0.001)
    assert curve.now.value == 20000
    assert max(option.value for option in curve.options) <= 65536


def test_a_sample_has_images_with_objects_alone(monkeypatch):
    monkeypatch.setattr(curves, "MAX_BOXES", 1)
    dataset = dataset_of([], [[0, 0, 50, 50], [9, 9, 40, 40]], [])
    assert size_curve(dataset, load_detector("yolo11"), None, share=0.001).num_objects == 2
    assert ranges_curve(dataset, load_detector("fcos"), share=0.001).num_objects == 2


def test_given_anchors_have_no_finer_level():
    from detect.anchors.known import load_anchors

    finer = msgspec.structs.replace(load_detector("yolov5"), finer=load_detector("yolov8").finer)
    curve = size_curve(dataset_of([[0, 0, 50, 50]]), finer, load_anchors("yolov5"), share=0.001)
    assert not any(option.finer for option in curve.options)


def test_images_of_a_sample_are_spread_evenly(monkeypatch):
    dataset = read_coco(sample_annotations("bccd"))
    part = evenly(dataset, 1000)  # of 4,886: every fifth image
    assert len(part.images) == 73
    assert part.images.ids.tolist() == dataset.images.ids[::5].tolist()
    assert evenly(dataset, 5000) is dataset
    monkeypatch.setattr(curves, "MAX_BOXES", 1000)
    curve = size_curve(dataset, load_detector("yolo11"), None, share=0.001)
    assert curve.num_objects == len(part.instances)


def test_a_finer_level_has_half_the_stride():
    assert with_finer_level(load_detector("yolov8")).strides == [4, 8, 16, 32]
    yolov5 = with_finer_level(load_detector("yolov5"))
    assert isinstance(yolov5, AnchorDetector)
    assert yolov5.numbers == [3, 3, 3, 3]


def test_every_key_of_the_catalog_takes_its_numbers():
    from detect.catalog.detectors import detectors

    numbers = {"size": (640, 1024), "ranges": (32, 64, 128, 256)}
    for each in detectors().values():
        for key in each.keys:
            text = key_text(each, key, *numbers.get(key, (7,)))
            assert "{" not in text
            assert any(f"{number}" in text for number in numbers.get(key, (7,)))
    assert np.isfinite(load_detector("yolov8").finer.cost)
