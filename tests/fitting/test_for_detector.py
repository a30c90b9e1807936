"""Anchors fitted for a detector keep its levels, numbers and layout, and score no less than its own under its rule."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from builders import part_of

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.detector_score import score_for
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.catalog.detectors import anchor_detectors, detectors, load_detector
from detect.data import read_coco
from detect.errors import FitError
from detect.fitting.for_detector import DetectorFit, fit_for, objectives_of
from detect.interop.anchor_formats import convert_anchors
from detect.samples import sample_annotations

# one of each layout and rule; all detectors of the catalog on three datasets: `make slow`
NAMES = ("yolov5", "mmdet-yolov3", "torchvision-ssd300", "mmdet-faster-rcnn")


@cache
def fitted(name: str) -> DetectorFit:
    detector = detectors()[name]
    return fit_for(part_of("bccd", detector.resize, step=40), detector)


@pytest.mark.parametrize("name", NAMES)
def test_the_fit_has_the_detectors_levels_and_numbers_and_its_text(name: str):
    fit, detector = fitted(name), detectors()[name]
    assert [level.stride for level in fit.anchors.levels] == detector.strides
    assert [len(level.shapes) for level in fit.anchors.levels] == detector.numbers
    assert all(len(set(level.shapes)) == len(level.shapes) for level in fit.anchors.levels)
    assert convert_anchors(fit.anchors, detector).text


@pytest.mark.parametrize("name", NAMES)
def test_the_fit_scores_no_less_than_the_stock_anchors_under_the_detectors_rule(name: str):
    fit = fitted(name)
    assert fit.stock is not None
    assert fit.score.score >= fit.stock.score
    again = score_for(fit.score.instances, fit.anchors, detectors()[name])
    assert (again.score, again.recall) == (fit.score.score, fit.score.recall)


@pytest.mark.parametrize("name", ["yolov5", "mmdet-yolov3"])
def test_shapes_of_yolo_rise_in_area_from_level_to_level(name: str):
    areas = [w * h for level in fitted(name).anchors.levels for w, h in level.shapes]
    assert areas == sorted(areas)


def test_a_fit_by_shape_is_proved_if_asked():
    yolo = load_detector("yolov5")
    fit = fit_for(part_of("nuclei", yolo.resize, step=40), yolo, certify=0.05)
    ((_, proof),) = fit.anchors.proofs.items()
    assert proof.score <= proof.upper_bound <= proof.score * 1.05


@pytest.mark.parametrize("name", ["torchvision-ssd300", "atss"])
def test_a_layout_is_proved_against_free_shapes_if_asked(name: str):
    detector = load_detector(name)
    instances = part_of("nuclei", detector.resize, step=90)
    plain, proved = fit_for(instances, detector), fit_for(instances, detector, certify=1.0)
    assert not plain.anchors.proofs
    ((score_name, proof),) = proved.anchors.proofs.items()
    assert proof.score <= proof.upper_bound
    assert proved.anchors.levels == plain.anchors.levels
    assert list(plain.anchors.scores) == [score_name]


@pytest.mark.parametrize("name", ["torchvision-ssd300", "mmdet-faster-rcnn", "detectron2-faster-rcnn", "retinanet"])
def test_boxes_of_one_size_give_different_anchors_or_a_line_that_says_what_may_do(name: str):
    detector = load_detector(name)
    one = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [107, 90, 20, 18]}
    image = {"id": 1, "width": 128, "height": 128, "file_name": "a.png"}
    data = read_coco({"images": [image], "annotations": [one], "categories": [{"id": 1, "name": "a"}]})
    fit = fit_for(ResizedInstances.of(data, detector.resize), detector)
    assert convert_anchors(fit.anchors, detector).text  # which takes no anchor twice
    assert fit.stock is not None
    assert fit.score.score > fit.stock.score
    yolo = load_detector("yolov5")
    with pytest.raises(FitError, match="yolov5 takes 9 anchors, and the boxes have 1 size: its own may do"):
        fit_for(ResizedInstances.of(data, yolo.resize), yolo)


def test_a_start_is_never_made_worse():
    yolo = load_detector("yolov5")
    instances = part_of("nuclei", yolo.resize, step=40)
    best = fit_for(instances, yolo)
    again = fit_for(instances, yolo, start=best.anchors)
    assert again.score.score >= best.score.score
    with pytest.raises(
        FitError, match=r"start retinanet has 9 on stride 8, .*; yolov5 takes 3 on stride 8, 3 on stride 16"
    ):
        fit_for(instances, yolo, start=load_anchors("retinanet"))


def test_a_detector_without_stock_anchors_is_fitted_too(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: yolov5\nstrides: [4, 8, 16, 32]\nper_level: 2\n", "utf-8")
    mine = load_detector(file)
    fit = fit_for(part_of("nuclei", mine.resize, step=20), mine)
    assert fit.stock is None
    assert [(level.name, len(level.shapes)) for level in fit.anchors.levels] == [
        ("P2", 2),
        ("P3", 2),
        ("P4", 2),
        ("P5", 2),
    ]


def test_no_boxes_are_an_error_that_names_the_file():
    empty = read_coco({"images": [{"id": 1, "width": 9, "height": 9}], "annotations": [], "categories": []})
    yolo = load_detector("yolov5")
    with pytest.raises(FitError, match="no usable boxes"):
        fit_for(ResizedInstances.of(empty, yolo.resize), yolo)


def test_recall_counts_at_the_threshold_of_the_detectors_own_rule():
    assert {objective.threshold for objective in objectives_of(load_detector("torchvision-faster-rcnn"))} == {0.7}
    assert {objective.threshold for objective in objectives_of(load_detector("yolov5"))} == {0.25}
    assert [objective.on_grid for objective in objectives_of(load_detector("yolov3-darknet"))] == [False]


@pytest.mark.parametrize("base", ["detectron2-retinanet", "effdet-d0"])
def test_sizes_vary_slower_than_ratios_where_the_framework_has_it_so(tmp_path, base):
    # 2 ratios of one size, then of the next: areas within a size are equal
    file = tmp_path / "two.yaml"
    file.write_text(f"base: {base}\nstrides: [16, 32]\nper_level: 4\nscales: 2\n", "utf-8")
    fit = fit_for(part_of("nuclei", "letterbox:128", step=90), load_detector(file))
    areas = np.array(fit.anchors.levels[0].shapes).prod(axis=1).reshape(2, 2)
    assert np.ptp(areas / areas[:, :1], axis=1).max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("sample", ["bccd", "nuclei"])
@pytest.mark.parametrize("name", list(anchor_detectors()))
def test_every_detector_of_the_catalog_on_every_sample(name: str, sample: str):
    detector = detectors()[name]
    instances = ResizedInstances.of(read_coco(sample_annotations(sample)), detector.resize)
    fit = fit_for(instances, detector)
    assert fit.stock is not None
    assert fit.score.score >= fit.stock.score
    anchors = AnchorSet.of([level.shapes for level in fit.anchors.levels], strides=detector.strides)
    assert anchors.num_anchors == detector.num_anchors
    assert convert_anchors(fit.anchors, detector).text
