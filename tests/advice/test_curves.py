"""Curves of settings: counted by hand on a few objects, and chosen where the gain is worth the cost."""

from __future__ import annotations

import math

import msgspec
from builders import dataset_of

from detect.advice import curves
from detect.advice.curves import Curve, CurveSums, Option, choose, limit_curve, nms_curve, reg_max_curve
from detect.advice.image_sample import ImageSample
from detect.advice.overlaps import overlapping_pairs
from detect.advice.trials import TrialSums, range_trials, size_trials
from detect.anchors.instances import ResizedInstances
from detect.catalog.detectors import Detector, load_detector
from detect.data import CocoDataset


def sums_of(dataset: CocoDataset, detector: Detector) -> CurveSums:
    instances = ResizedInstances.of(dataset, detector.resize)
    pairs = overlapping_pairs(instances.boxes, instances.dataset.instances.image_rows)
    return CurveSums.of(dataset, instances, detector, pairs, None, None)


def size_curve(dataset: CocoDataset, detector: Detector, *, share: float) -> Curve:
    trials = size_trials(ImageSample.of(dataset), detector, None)
    assert trials
    return curves.size_curve(TrialSums.of(dataset, trials), trials, detector, share=share)


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
    curve = size_curve(dataset, detector, share=0.0)
    assert curve
    plain = {option.value: option.num_lost for option in curve.options if not option.finer}
    finer = {option.value: (option.num_lost, option.cost) for option in curve.options if option.finer}
    assert plain[64] == curve.now.num_lost == 2
    assert plain[128] == 0  # (10, 16) holds 12
    assert finer[64] == (0, detector.finer.cost)
    assert curve.best.text == "model=yolov8s-p2.yaml"  # 1.38 times the compute, against 4 times
    assert curve.is_worth_it


def test_the_cost_of_an_input_size_is_its_number_of_pixels():
    curve = size_curve(dataset_of([[0, 0, 50, 50]]), load_detector("yolo11"), share=0.001)
    assert {option.value: round(option.cost, 4) for option in curve.options}[1280] == 4.0
    assert curve.now.text == "imgsz=640"
    assert {option.text for option in curve.options} >= {"imgsz=960", "imgsz=1280"}


def test_objects_that_are_small_are_counted_by_size():
    curve = size_curve(dataset_of([[0, 0, 6, 6], [9, 9, 20, 20]]), load_detector("yolo11"), share=0.001)
    assert {option.value: option.num_small for option in curve.options}[640] == 1
    assert {option.value: option.num_small for option in curve.options}[960] == 0


def test_the_smallest_reg_max_that_reaches_every_side_is_chosen():
    # 620 px about the middle of 640: the nearest centre of stride 32 is 16 px off, so 326 px or 10.2 strides are needed
    detector = msgspec.structs.replace(load_detector("yolo11"), reg_max=8)
    curve = reg_max_curve(sums_of(dataset_of([[10, 10, 620, 620]]), detector), detector, share=0.0)
    assert (curve.now.num_lost, curve.best.value, curve.best.num_lost) == (1, 12, 0)
    assert curve.best.text == "reg_max: 12 in the model's YAML"
    fcos = load_detector("fcos")
    assert reg_max_curve(sums_of(dataset_of([[10, 10, 620, 620]]), fcos), fcos, share=0.0) is None


def test_a_higher_nms_threshold_must_save_more_objects_for_each_step():
    # pairs of an IoU of .6: both stay from there on
    boxes = [[40.0 * number, 0, 20, 20] for number in range(10)] + [[40.0 * number, 5, 20, 20] for number in range(10)]
    detector = load_detector("yolov3-darknet")
    sums = sums_of(dataset_of(boxes), detector)
    curve = nms_curve(sums, detector, share=0.001)
    assert {option.value: option.num_lost for option in curve.options} == {
        value: 10 if value < 0.6 else 0 for value in (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
    }
    assert curve.best.value == 0.6
    assert nms_curve(sums, detector, share=0.4).best.value == 0.45  # three steps cost more than 10 of 20
    assert nms_curve(sums, load_detector("rf-detr"), share=0.001) is None


def test_limits_are_raised_to_the_most_crowded_image():
    few, many = [[9.0, 9, 9, 9]] * 3, [[float(number), 0, 9, 9] for number in range(350)]
    detector = load_detector("rf-detr")
    curve = limit_curve("queries", "queries", sums_of(dataset_of(few, many), detector), detector)
    assert (curve.now.text, curve.now.num_lost) == ("num_queries=300", 50)
    assert (curve.best.text, curve.best.num_lost) == ("num_queries=400 (published weights do not fit)", 0)
    assert limit_curve("objects", "max_truth", sums_of(dataset_of(few), detector), detector) is None


def test_ranges_are_scaled_and_the_last_ones_hold_equal_shares():
    dataset = dataset_of([[20.0 * number, 20.0 * number, 12 + number, 12 + number] for number in range(25)])
    detector = load_detector("mmdet-fcos")
    trials = range_trials(ImageSample.of(dataset), detector)
    assert trials
    curve = curves.ranges_curve(TrialSums.of(dataset, trials), trials, share=0.001)
    assert [option.value for option in curve.options] == [0.5, 1, 2, 0]
    assert curve.now.text == "model.bbox_head.regress_ranges=((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))"
    assert curve.chosen == curve.current
