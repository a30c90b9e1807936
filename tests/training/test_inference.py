"""A detector run over images: results in the images' own pixels, whatever the resize rule, the batch and the order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import with_threshold
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from process_groups import IN_PROCESSES

from detect.anchors.anchor_set import AnchorSet
from detect.data import read_coco, read_results
from detect.data.coco_results import results_json
from detect.data.resize import parse_resize
from detect.detectors.backbones import build_backbone
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.retinanet import RetinaNetDetector
from detect.evaluation.boxes import evaluate_boxes
from detect.evaluation.coco_points import evaluate_landmarks
from detect.heads.postprocess import Detections
from detect.keypoints.coco_keypoints import coco_keypoints
from detect.keypoints.peaks import Peaks
from detect.loading.dataset import DetectionData
from detect.loading.labels import LabelMap
from detect.samples import sample_annotations
from detect.training.inference import batches_by_size, find_objects, validate

SHARED = """
import json
import numpy as np
from builders import with_threshold
from detect.data import read_coco
from detect.detectors.backbones import build_backbone
from detect.detectors.landmarks import LandmarkDetector
from detect.loading.dataset import DetectionData
from detect.loading.labels import LabelMap
from detect.samples import sample_annotations
from detect.training.inference import find_objects, validate

file = sample_annotations("nuclei")
dataset = read_coco(file, keypoints=True).take_images(np.arange(7))
data = DetectionData(dataset, file.parent / "images", resize="none", channels=1)
labels = LabelMap.of(dataset, data.keypoints)
backbone = build_backbone("tiny", strides=(2, 4), in_channels=1, seed=0)
model = with_threshold(LandmarkDetector(backbone, 1, pyramid_channels=8, num_convs=0, seed=1).eval(), 0.009)

def body(rank):
    opened, open_image = [], data.open
    data.open = lambda row: opened.append(row) or open_image(row)
    found = find_objects(model, data, labels=labels, batch_size=2, shared=True)
    own = opened.copy()
    metrics = validate(model, data, labels=labels)
    result = [found.image_rows.tolist(), found.scores.tolist()]
    say(json.dumps([rank, own, metrics, result]))
    if distributed.is_initialized():
        distributed.barrier()

body(-1)
for count in (2, 3):
    in_processes(count, body)
in_processes(9, body)  # of which two have no image
"""
LABELS = LabelMap((3, 7), ("cell", "speck"))
POINTS = LabelMap((3, 7), ("cell", "speck"), ("cell", "speck"), {3: (0,), 7: (1,)})
NUCLEI = sample_annotations("nuclei")


def box_detector(num_classes: int = 2) -> RetinaNetDetector:
    anchors = AnchorSet.of([[(10, 10)], [(20, 20)]], strides=(4, 8))
    backbone = build_backbone("tiny", strides=(4, 8), in_channels=1, seed=0)
    return RetinaNetDetector(backbone, anchors, num_classes, pyramid_channels=32, num_convs=1, seed=1).eval()


def landmark_detector(num_types: int = 2) -> LandmarkDetector:
    backbone = build_backbone("tiny", strides=(2, 4), in_channels=1, seed=0)
    return LandmarkDetector(backbone, num_types, pyramid_channels=8, num_convs=0, seed=1).eval()


def data_of(folder: Path, *sizes_wh: tuple[int, int], resize: str = "none") -> DetectionData:
    """Images of noise, ids 10, 20, ..., each of its own size."""
    draws = np.random.default_rng(0)
    images = []
    for number, (width, height) in enumerate(sizes_wh, 1):
        Image.fromarray(draws.integers(0, 255, (height, width), np.uint8)).save(folder / f"{number}.png")
        images.append({"id": 10 * number, "width": width, "height": height, "file_name": f"{number}.png"})
    categories = [{"id": 3, "name": "cell"}, {"id": 7, "name": "speck"}]
    dataset = read_coco({"images": images, "categories": categories, "annotations": []})
    return DetectionData(dataset, folder, resize=parse_resize(resize), channels=1)


def finds_boxes(*found: tuple[list[float], float, int]) -> RetinaNetDetector:
    """A detector that finds the same boxes in every image."""

    def detect(images: Any, image_hw: Any) -> list[Detections]:
        boxes, scores, classes = zip(*found, strict=True) if found else ((), (), ())
        columns = (torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(classes, dtype=torch.int64))
        return [Detections(*columns) for _ in images]

    model = box_detector()
    model.detect = detect
    return model


def finds_points(*found: tuple[list[float], float, int]) -> LandmarkDetector:
    """A detector that finds the same points in every image."""

    def detect(images: Any, image_hw: Any) -> Peaks:
        points, scores, types = (torch.tensor(column) for column in zip(*found, strict=True))
        count = len(images)
        image = torch.arange(count).repeat_interleave(len(points))
        return Peaks(points.repeat(count, 1), scores.repeat(count), image, types.repeat(count), None, count, 2)

    model = landmark_detector()
    model.detect = detect
    return model


def test_boxes_come_back_from_a_letterbox_by_hand(tmp_path):
    """An image of 80 x 40 in letterbox:160 has the factor 2 and 40 rows of padding above."""
    model = finds_boxes(([20.0, 60.0, 40.0, 80.0], 0.5, 1), ([150.0, 100.0, 160.0, 150.0], 0.75, 0))
    found = find_objects(model, data_of(tmp_path, (80, 40), resize="letterbox:160"), labels=LABELS)
    assert_allclose(found.boxes_xywh, [[75, 30, 5, 10], [10, 10, 10, 10]])  # the first cut to the image
    assert_array_equal(found.category_ids, [3, 7])
    assert_array_equal(found.scores, [0.75, 0.5])
    assert all(len(points) == 0 for points in found.keypoints)


def test_boxes_in_the_padding_are_dropped(tmp_path):
    model = finds_boxes(([0.0, 0.0, 160.0, 40.0], 0.9, 0), ([0.0, 0.0, 160.0, 41.0], 0.8, 0))
    found = find_objects(model, data_of(tmp_path, (80, 40), resize="letterbox:160"), labels=LABELS)
    assert_allclose(found.boxes_xywh, [[0, 0, 80, 0.5]])


def test_points_come_back_as_indices_of_pixels_by_hand(tmp_path):
    """The middle of the image, 40 x 20 in continuous pixels, is at (80, 80) of the letterbox: indices 79.5 and 39.5."""
    model = finds_points(([79.5, 79.5], 0.5, 1))
    data = data_of(tmp_path, (80, 40), resize="letterbox:160")
    center, corner = (
        find_objects(model, data, labels=POINTS, pixel_origin=pixel_origin) for pixel_origin in ("center", "corner")
    )
    assert_allclose(center.keypoints[0], [[39.5, 19.5, 1]])
    assert_allclose(corner.keypoints[0], [[40, 20, 1]])
    assert_array_equal(center.category_ids, [7])
    assert np.isnan(center.boxes_xywh).all()


def test_a_point_of_several_keypoints_leaves_the_others_unpredicted(tmp_path):
    labels = LabelMap((3, 7), ("rod", "speck"), ("head", "tail", "speck"), {3: (0, 1), 7: (2,)})
    model = finds_points(([5.0, 6.0], 0.9, 1), ([7.0, 8.0], 0.8, 0), ([9.0, 4.0], 0.7, 2))
    found = find_objects(model, data_of(tmp_path, (80, 40)), labels=labels)
    assert_array_equal(found.category_ids, [3, 3, 7])
    assert [table.tolist() for table in found.keypoints] == [
        [[0, 0, 0], [5, 6, 1]],
        [[7, 8, 1], [0, 0, 0]],
        [[9, 4, 1]],
    ]


def test_points_far_into_the_padding_are_dropped_and_those_at_the_edge_stay(tmp_path):
    """The image's rows are 40 to 120 of the input, indices 39.5 to 119.5, and a cell of the heatmap is 2."""
    model = finds_points(
        ([10.0, 37.4], 0.9, 0), ([10.0, 37.6], 0.8, 0), ([10.0, 121.4], 0.7, 0), ([10.0, 121.6], 0.6, 0)
    )
    found = find_objects(model, data_of(tmp_path, (80, 40), resize="letterbox:160"), labels=POINTS)
    assert_allclose(found.scores, [0.8, 0.7], rtol=1e-6)


@pytest.mark.parametrize("resize", ["none", "shortest:40:96", "stretch:64x48", "letterbox:64"])
@pytest.mark.parametrize("task", ["boxes", "landmarks"])
def test_neither_the_batch_nor_the_other_images_change_what_is_found(tmp_path, resize, task):
    data = data_of(tmp_path, (48, 40), (64, 32), (48, 40), (32, 64), resize=resize)
    model = with_threshold(box_detector() if task == "boxes" else landmark_detector(), 0.009)
    labels = LABELS if task == "boxes" else POINTS
    every = find_objects(model, data, labels=labels)
    assert len(every.scores) > 20
    data.image_rows = np.array([3, 2, 1, 0])
    one_by_one = find_objects(model, data, labels=labels, batch_size=1)
    assert_array_equal(one_by_one.image_rows, every.image_rows)
    for name in ("scores", "boxes_xywh"):
        assert_allclose(getattr(one_by_one, name), getattr(every, name), atol=2e-3)
    for own, other in zip(every.keypoints, one_by_one.keypoints, strict=True):
        assert_allclose(own, other, atol=2e-3)


def test_results_are_what_the_detector_says_of_each_image(tmp_path):
    """A plain loop; without a resize rule nothing has to be brought back."""
    data, model = data_of(tmp_path, (48, 40), (32, 64)), with_threshold(box_detector(), 0.0095)
    found = find_objects(model, data, labels=LABELS)
    for place in range(2):
        sample = data[place]
        (own,) = model.detect(sample.image[None], sample.image_hw[None])
        rows = np.flatnonzero(found.image_rows == place)
        assert len(rows) == len(own.scores) > 0
        assert_allclose(found.scores[rows], own.scores.numpy(), rtol=1e-5)
        corners = found.boxes_xywh[rows] + np.pad(found.boxes_xywh[rows, :2], ((0, 0), (2, 0)))
        assert_allclose(corners, own.boxes.numpy(), atol=1e-3)
        assert_array_equal(found.category_ids[rows], np.array([3, 7])[own.classes.numpy()])


def test_results_go_by_image_and_falling_score(tmp_path):
    data = data_of(tmp_path, (48, 40), (64, 32), (48, 40))
    found = find_objects(with_threshold(landmark_detector(), 0.009), data, labels=POINTS)
    order = np.lexsort((-found.scores, found.image_rows))
    assert_array_equal(order, np.arange(len(order)))
    assert set(found.image_rows.tolist()) == {0, 1, 2}
    assert set(found.category_ids.tolist()) == {3, 7}


def test_batches_hold_images_of_one_size(tmp_path):
    data = data_of(tmp_path, (48, 40), (64, 32), (48, 40), (48, 40))
    assert batches_by_size(data, 2) == [[0, 2], [3], [1]]


def test_nothing_found_gives_empty_results_and_an_empty_file(tmp_path):
    data = data_of(tmp_path, (48, 40))
    found = find_objects(finds_boxes(), data, labels=LABELS)
    assert found.boxes_xywh.shape == (0, 4)
    assert results_json(found, data.dataset) == b"[]"


def test_progress_counts_the_images(tmp_path):
    calls: list[tuple[str, int, int]] = []
    data = data_of(tmp_path, (48, 40), (64, 32), (48, 40))
    find_objects(finds_boxes(), data, labels=LABELS, batch_size=1, on_progress=lambda *each: calls.append(each))
    assert calls == [("detecting", done, 3) for done in (1, 2, 3)]


@pytest.mark.parametrize("task", ["boxes", "landmarks"])
def test_a_results_file_is_read_back_number_by_number(tmp_path, task):
    data = data_of(tmp_path, (48, 40), (33, 65), resize="letterbox:50")
    model, labels = (box_detector(), LABELS) if task == "boxes" else (landmark_detector(), POINTS)
    found = find_objects(with_threshold(model, 0.009), data, labels=labels)
    path = tmp_path / "results.json"
    path.write_bytes(results_json(found, data.dataset))
    again = read_results(path, data.dataset)
    assert again.invalid == ()
    for name in ("image_rows", "category_ids", "scores", "boxes_xywh"):
        assert_array_equal(getattr(again, name), getattr(found, name))
    for own, other in zip(again.keypoints, found.keypoints, strict=True):
        assert_array_equal(own, other)
    entries = json.loads(path.read_text("utf-8"))
    assert {entry["image_id"] for entry in entries} == {10, 20}
    assert all(("bbox" in entry, "keypoints" in entry) == (task == "boxes", task != "boxes") for entry in entries)


@pytest.mark.parametrize("task", ["boxes", "landmarks"])
def test_validation_gives_the_best_threshold_of_the_results(task):
    dataset = read_coco(NUCLEI, keypoints=task == "landmarks")
    dataset = dataset.take_images(np.arange(8))
    data = DetectionData(dataset, NUCLEI.parent / "images", resize="none", channels=1)
    labels = LabelMap.of(dataset, data.keypoints)
    model = with_threshold(box_detector(1) if task == "boxes" else landmark_detector(1), 0.009)
    metrics = validate(model, data, labels=labels)
    results = find_objects(model, data, labels=labels)
    evaluation = evaluate_boxes(results, dataset) if task == "boxes" else evaluate_landmarks(results, data.keypoints)
    assert (metrics["best_threshold"], metrics["best_f1"]) == (evaluation.best_f1.threshold, evaluation.best_f1.value)
    assert 0.009 < metrics["best_threshold"] < 0.02
    blind = validate(with_threshold(model, 0.9), data, labels=labels)
    assert np.isnan([blind["best_threshold"], blind["best_f1"]]).all()


def test_processes_find_each_image_s_objects_once_however_many_they_are(fresh_python):
    tests = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})"
    alone, *shared = map(json.loads, fresh_python(tests + IN_PROCESSES + SHARED).splitlines())
    _, _, metrics, (rows, scores) = alone
    assert set(rows) == set(range(7))
    for start, count in ((0, 2), (2, 3), (5, 9)):
        results = shared[start : start + count]
        assert sorted(row for _, opened, _, _ in results for row in opened) == list(range(7))
        for rank, _, own, (own_rows, own_scores) in results:
            assert own.keys() == metrics.keys()
            assert_allclose([*own.values()], [*metrics.values()], rtol=1e-6)
            assert own_rows == (rows if rank == 0 else [])
            assert_allclose(own_scores, scores if rank == 0 else [], rtol=1e-4)


@pytest.mark.parametrize("resize", ["none", "letterbox:200", "shortest:200:400"])
def test_a_detector_that_finds_the_true_points_scores_1(resize):
    """Real images and labels: the truth in the network's pixels, given back as found, is the truth again."""
    dataset = read_coco(NUCLEI, keypoints=True)
    data = DetectionData(dataset, NUCLEI.parent / "images", resize=parse_resize(resize), channels=1)
    data.image_rows = data.image_rows[:24]
    model = landmark_detector(1)
    batches = [data[place] for place in range(24)]

    def detect(images: Any, image_hw: Any) -> Peaks:
        own, batches[:] = batches[: len(images)], batches[len(images) :]
        points = torch.cat([sample.points for sample in own])
        image = torch.arange(len(own)).repeat_interleave(torch.tensor([len(sample.points) for sample in own]))
        return Peaks(points, torch.ones(len(points)), image, torch.zeros_like(image), None, len(own), 1)

    model.detect = detect
    labels = LabelMap.of(dataset, coco_keypoints(dataset))
    found = find_objects(model, data, labels=labels)
    scores = evaluate_landmarks(found, coco_keypoints(dataset), radii=(0.01,)).overall[0]
    assert scores.micro.precision == 1
    assert scores.num_matched == len(found.scores) > 60


def finds_angles(model: LandmarkDetector, orientation: str, *angles_deg: float) -> LandmarkDetector:
    """The detector with an orientation, whose points have these angles in every image."""
    find, model.orientation = model.detect, orientation

    def detect(images: Any, image_hw: Any) -> Peaks:
        return replace(find(images, image_hw), angles=torch.deg2rad(torch.tensor(angles_deg)).repeat(len(images)))

    model.detect = detect
    return model


def test_angles_come_back_through_a_stretch_in_degrees(tmp_path):
    """Images of 80 x 40 stretched to 80 x 80: what is a diagonal there has half the height in the image."""
    points = [([9.5, 9.5], 0.9, 0), ([30.0, 9.5], 0.8, 1), ([50.0, 9.5], 0.7, 1)]
    found, half = (
        find_objects(
            finds_angles(finds_points(*points), orientation, 45.0, -90.0, -135.0),
            data_of(tmp_path, (80, 40), resize="stretch:80x80"),
            labels=POINTS,
        ).angles_deg
        for orientation in ("directed", "axis")
    )
    slope = np.rad2deg(np.arctan(0.5))
    assert_allclose(found, [slope, -90, slope - 180], rtol=1e-5)
    assert_allclose(half, [slope, 90, slope], rtol=1e-5)


def test_angles_follow_the_points_of_tiles_and_into_a_file(tmp_path):
    data = data_of(tmp_path, (80, 40), (30, 40))
    model = finds_angles(finds_points(([9.0, 9.0], 0.5, 0), ([25.0, 30.0], 0.9, 1)), "directed", 10.0, 120.0)
    found = find_objects(model, data, labels=POINTS, tiles="tiles:40:0")
    assert_array_equal(found.image_rows, [0, 0, 0, 0, 1, 1])
    assert_allclose(found.angles_deg, [120, 120, 10, 10, 120, 10], rtol=1e-5)
    (tmp_path / "results.json").write_bytes(results_json(found, data.dataset))
    assert_array_equal(read_results(tmp_path / "results.json", data.dataset).angles_deg, found.angles_deg)
    plain = find_objects(finds_points(([9.0, 9.0], 0.5, 0)), data, labels=POINTS)
    assert plain.angles_deg is None
    assert b"angle" not in results_json(plain, data.dataset)
