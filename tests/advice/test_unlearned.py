"""Objects without a positive, beside the frameworks' own assignment code, plain loops, and every case of small inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from assigners import FIXED, PEERS, CellPeer, Fixed, Scene
from builders import crowd_of, crowded, instances_of
from hypothesis import given
from numpy.testing import assert_array_equal

from detect.advice.unlearned import unlearned_objects
from detect.anchors.instances import ResizedInstances
from detect.catalog.detectors import Detector, load_detector
from detect.catalog.matching import CELL_RULES, MaxIoURule
from detect.data import read_coco
from detect.samples import sample_annotations


def sample(name: str, resize: str, *, images: int) -> ResizedInstances:
    """The first images of a sample without objects that are labelled twice: of such two, frameworks learn one."""
    content = json.loads(sample_annotations(name).read_text())
    distinct = {(each["image_id"], each["category_id"], *each["bbox"]): each for each in content["annotations"]}
    content["annotations"] = list(distinct.values())
    dataset = read_coco(content)
    return ResizedInstances.of(dataset.take_images(np.arange(images)), resize)


def image_by_image(instances: ResizedInstances, detector: Detector) -> Iterator[ResizedInstances]:
    """Images with objects, one at a time; for cells in eighths of a pixel, which single precision holds exactly."""
    for row in np.unique(instances.dataset.instances.image_rows):
        one = ResizedInstances.of(instances.dataset.take_images(np.array([row])), instances.rule)
        if detector.rule in CELL_RULES:
            vars(one)["boxes"] = np.rint(one.boxes * 8) / 8  # in place of the cached column
        yield one


def check_cells(one: ResizedInstances, detector: Detector, peer: CellPeer) -> int:
    """The objects lost in one image, after every prediction that was tried."""
    found = unlearned_objects(one, detector)
    scene, lost, rows = Scene.of(one, detector.strides, peer.origin), set(found.lost.tolist()), range(len(one))
    tried = [peer.random(scene, seed) for seed in range(2)] + [peer.for_one(scene, row) for row in {0, *lost}]
    assert not set().union(*tried) & lost
    assert max(map(len, tried)) <= len(one) - found.num_lost
    perfect = peer.perfect(scene)
    assert len(perfect) == len(one) - found.num_lost
    assert set(rows) - lost - set(found.contested.tolist()) <= perfect
    return found.num_lost


CROWDED = [("bccd", "letterbox:32", 60), ("nuclei", "letterbox:32", 80)]


@pytest.mark.parametrize(("name", "resize", "images"), CROWDED)
@pytest.mark.parametrize("detector", PEERS)
def test_no_prediction_makes_a_framework_learn_a_lost_object_and_one_makes_it_learn_all_others(
    detector, name, resize, images
):
    known = load_detector(detector)
    every = image_by_image(sample(name, resize, images=images), known)
    assert sum(check_cells(one, known, PEERS[detector]) for one in every) > 0


def test_a_centre_within_a_hundredth_of_a_pixel_of_a_side_is_outside_for_tood():
    boxes = [[7.9, 7.995, 4, 4], [23.9, 7.9, 4, 4], [4, 36, 4.005, 5]]  # around (8, 8), (24, 8) and (8, 40)
    instances = instances_of(boxes)
    assert unlearned_objects(instances, load_detector("tood")).lost.tolist() == [0, 2]
    assert check_cells(instances, load_detector("tood"), PEERS["tood"]) == 2


AT_ONE_POINT = [[6, 6, 4, 4], [5, 5, 4, 4], [6, 6, 5, 5]]  # around (8, 8), a point of stride 8 alone
AT_TWO = [14, 14, 4, 4]  # around (16, 16), a point of the strides 8 and 16


def test_objects_beyond_the_cells_inside_any_box_are_lost_by_rtmdet():
    found = unlearned_objects(instances_of(AT_ONE_POINT), load_detector("rtmdet"))
    assert (found.num_lost, found.lost.tolist(), found.contested.tolist()) == (2, [], [0, 1, 2])
    # three points for four objects: one of the first three may have a point of the fourth
    assert unlearned_objects(instances_of([*AT_ONE_POINT, AT_TWO]), load_detector("rtmdet")).num_lost == 1


def test_mmdetection_gives_an_object_a_cell_inside_another_box_alone():
    assert check_cells(instances_of([*AT_ONE_POINT, AT_TWO]), load_detector("rtmdet"), PEERS["rtmdet"]) == 1


def check_fixed(one: ResizedInstances, detector: Detector, learn: Fixed) -> int:
    found = unlearned_objects(one, detector)
    columns, rows = one.image_canvas_wh[0].tolist()
    learned = learn(detector, torch.from_numpy(one.boxes).float(), (rows, columns))
    assert set(found.lost.tolist()) == set(range(len(one))) - learned
    assert found.num_contested == 0
    return found.num_lost


@pytest.mark.parametrize(("name", "resize", "images"), [("bccd", "letterbox:128", 20), ("nuclei", "letterbox:128", 40)])
@pytest.mark.parametrize("detector", FIXED)
def test_lost_objects_are_those_that_a_framework_gives_no_anchor_or_cell(detector, name, resize, images):
    known = load_detector(detector)
    every = image_by_image(sample(name, resize, images=images), known)
    num_lost = sum(check_fixed(one, known, FIXED[detector]) for one in every)
    assert num_lost > 0 or "retinanet" in detector


# ---- without a framework


def cells_inside(box: list[int], strides: list[int], origin: float, margin: float) -> set[tuple[int, float, float]]:
    x, y, width, height = box
    return {
        (stride, column, row)
        for stride in strides
        for column in range(-(-64 // stride))
        for row in range(-(-64 // stride))
        if margin < (column + origin) * stride - x < width - margin
        and margin < (row + origin) * stride - y < height - margin
    }


@given(crowded())
def test_an_object_without_a_cell_inside_it_is_lost(rows):
    cases: tuple[tuple[str, float, float], ...] = (("tood", 0.0, 0.01), ("yolov8-8.3", 0.5, 0.0), ("ppyoloe", 0.5, 0.0))
    for name, origin, margin in cases:
        detector = load_detector(name)
        empty = [not cells_inside(row[:4], detector.strides, origin, margin) for row in rows]
        assert_array_equal(unlearned_objects(crowd_of(rows), detector).lost, np.flatnonzero(empty))


@given(crowded())
def test_rtmdet_loses_the_objects_beyond_the_cells_inside_any_box(rows):
    detector = load_detector("rtmdet")
    every = set().union(*(cells_inside(row[:4], detector.strides, 0.0, 0.0) for row in rows))
    assert unlearned_objects(crowd_of(rows), detector).num_lost == max(len(rows) - len(every), 0)


def rendered(rows: list[list[int]], stride: int) -> np.ndarray:
    """CenterNet's map of each category: 1 in the cell that holds the centre of an object (Zhou et al. 2019, section 3)."""
    heat = np.zeros((2, 64 // stride, 64 // stride))
    for x, y, width, height, category in rows:
        heat[category - 1, int((y + height / 2) / stride), int((x + width / 2) / stride)] = 1
    return heat


@given(crowded())
def test_objects_of_a_category_in_one_cell_have_one_peak_of_the_map(rows):
    found = unlearned_objects(crowd_of(rows), load_detector("centernet"))
    assert len(rows) - found.num_lost == rendered(rows, 4).sum()
    alone = [rendered([row], 4) for row in rows]
    shared = [any((a * b).any() for k, b in enumerate(alone) if k != j) for j, a in enumerate(alone)]
    assert_array_equal(found.contested, np.flatnonzero(shared))
    assert len(found.lost) == 0


def test_a_rule_with_anchors_needs_a_detector_with_anchors():
    detector = Detector(name="mine", strides=[8, 16], resize="none", matching=MaxIoURule())
    with pytest.raises(TypeError, match="mine has anchors, but no description of them"):
        unlearned_objects(instances_of([[0, 0, 8, 8]]), detector)
