"""Detection on tiles: objects at edges are found once and whole, and images no larger than a tile as ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import with_threshold
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy import ndimage

from detect.anchors.anchor_set import AnchorSet
from detect.data import CocoResults, read_coco
from detect.data.resize import parse_resize
from detect.detectors.backbones import build_backbone
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.retinanet import RetinaNetDetector
from detect.heads.postprocess import Detections
from detect.keypoints.peaks import Peaks
from detect.loading.dataset import DetectionData
from detect.loading.labels import LabelMap
from detect.samples import sample_annotations
from detect.training.inference import find_objects
from detect.training.slicing import TileGrid, merge_boxes, merge_points

BOXES, POINTS = LabelMap((3,), ("cell",)), LabelMap((3,), ("cell",), ("cell",), {3: (0,)})
NUCLEI = sample_annotations("nuclei")


def box_detector() -> RetinaNetDetector:
    backbone = build_backbone("tiny", strides=(4, 8), in_channels=1, seed=0)
    anchors = AnchorSet.of([[(10, 10)], [(20, 20)]], strides=(4, 8))
    return RetinaNetDetector(backbone, anchors, 1, pyramid_channels=32, num_convs=1, seed=1).eval()


def landmark_detector() -> LandmarkDetector:
    backbone = build_backbone("tiny", strides=(2, 4), in_channels=1, seed=0)
    return LandmarkDetector(backbone, 1, pyramid_channels=8, num_convs=0, seed=1).eval()


def components(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes and centres of bright parts, which are the same wherever a window shows them whole."""
    labels, count = ndimage.label(image[0].numpy() > 0.5)
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]
    table = torch.tensor(boxes, dtype=torch.float32).reshape(count, 4)
    return table, (table[:, :2] + table[:, 2:]) / 2 - 0.5


def finds_components(task: str) -> Any:
    def boxes(images: Any, image_hw: Any) -> list[Detections]:
        tables = [components(image)[0] for image in images]
        return [Detections(each, torch.full((len(each),), 0.5), torch.zeros(len(each)).long()) for each in tables]

    def points(images: Any, image_hw: Any) -> Peaks:
        tables = [components(image)[1] for image in images]
        number = torch.arange(len(images)).repeat_interleave(torch.tensor([len(each) for each in tables]))
        cells = torch.cat(tables)
        return Peaks(cells, torch.full((len(cells),), 0.5), number, torch.zeros_like(number), None, len(images), 1)

    model = box_detector() if task == "boxes" else landmark_detector()
    model.detect = boxes if task == "boxes" else points
    return model


def data_of(folder: Path, *images: np.ndarray, resize: str = "none") -> DetectionData:
    entries = []
    for number, values in enumerate(images, 1):
        Image.fromarray(values).save(folder / f"{number}.png")
        entries.append(
            {"id": number, "width": values.shape[1], "height": values.shape[0], "file_name": f"{number}.png"}
        )
    dataset = read_coco({"images": entries, "categories": [{"id": 3, "name": "cell"}], "annotations": []})
    return DetectionData(dataset, folder, resize=parse_resize(resize), channels=1)


def found_in(results: CocoResults, task: str) -> np.ndarray:
    """Rows of image, score and coordinates, in one order."""
    places = results.boxes_xywh if task == "boxes" else np.concatenate([np.zeros((0, 3)), *results.keypoints])[:, :2]
    rows = np.column_stack([results.image_rows, results.scores, places])
    return in_order(rows)


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T.round(2))]


@given(st.integers(0, 10**6), st.sampled_from(["boxes", "landmarks"]))
def test_objects_smaller_than_the_overlap_are_found_once_and_whole(tmp_path_factory, seed, task):
    """A detector that sees no farther than an object finds in tiles what it finds in the whole image."""
    draws = np.random.default_rng(seed)
    values = np.zeros((draws.integers(60, 260), draws.integers(60, 260)), np.uint8)
    for y, x in zip(*np.nonzero(draws.random((9, 9)) < 0.7), strict=True):  # one in each part of 28 px, apart
        height, width = draws.integers(6, 25, 2)
        values[28 * y + 1 : 28 * y + 1 + height, 28 * x + 1 : 28 * x + 1 + width] = 255
    data, model = data_of(tmp_path_factory.mktemp("data"), values), finds_components(task)
    labels = BOXES if task == "boxes" else POINTS
    whole = find_objects(model, data, labels=labels)
    sliced = find_objects(model, data, labels=labels, tiles="tiles:80:30", batch_size=3)
    assert_allclose(found_in(sliced, task), found_in(whole, task))


@pytest.mark.parametrize("task", ["boxes", "landmarks"])
@pytest.mark.parametrize("resize", ["none", "letterbox:96"])
def test_images_no_larger_than_a_tile_are_detected_whole(tmp_path, task, resize):
    draws = np.random.default_rng(0)
    images = [draws.integers(0, 255, hw, np.uint8) for hw in ((40, 64), (64, 64), (100, 30))]
    data = data_of(tmp_path, *images, resize=resize)
    model, labels = (box_detector(), BOXES) if task == "boxes" else (landmark_detector(), POINTS)
    model = with_threshold(model, 0.009)
    whole = find_objects(model, data, labels=labels)
    assert len(whole.scores) > 20
    assert_array_equal(
        found_in(find_objects(model, data, labels=labels, tiles="tiles:100:20"), task), found_in(whole, task)
    )
    some = find_objects(model, data, labels=labels, tiles="tiles:64:20")
    small, others = (found_in(each, task) for each in (whole, some))
    assert_allclose(others[others[:, 0] < 2], small[small[:, 0] < 2], rtol=1e-5, atol=1e-4)  # in other batches


@pytest.mark.parametrize("task", ["boxes", "landmarks"])
def test_a_mosaic_gives_what_its_images_give(tmp_path, task):
    """Nuclei, 128 px each: exactly if the tiles are the images; away from their borders if tiles overlap."""
    files = sorted((NUCLEI.parent / "images").iterdir())[:9]
    images = [np.asarray(Image.open(file).convert("L")) for file in files]
    mosaic = np.concatenate([np.concatenate(images[row : row + 3], axis=1) for row in (0, 3, 6)])
    (tmp_path / "one").mkdir()
    single, large = data_of(tmp_path, *images), data_of(tmp_path / "one", mosaic)
    model, labels = (box_detector(), BOXES) if task == "boxes" else (landmark_detector(), POINTS)
    model = with_threshold(model, 0.011 if task == "boxes" else 0.0095)
    own = found_in(find_objects(model, single, labels=labels), task)
    assert len(own) > 100
    corners = np.stack([own[:, 0] % 3, own[:, 0] // 3], axis=1) * 128
    wanted = np.column_stack([own[:, 1], own[:, 2:4] + corners, own[:, 4:]])
    by_image = found_in(find_objects(model, large, labels=labels, tiles="tiles:128:0", batch_size=2), task)[:, 1:]
    overlapping = found_in(find_objects(model, large, labels=labels, tiles="tiles:128:64"), task)[:, 1:]

    def inside(rows: np.ndarray, margin_px: float) -> np.ndarray:
        """Those so far from the borders of their image."""
        low, high = rows[:, 1:3], rows[:, 1:3] + (rows[:, 3:] if task == "boxes" else 0)
        first = np.floor_divide(low, 128) * 128
        return in_order(rows[((low >= first + margin_px) & (high <= first + 128 - margin_px)).all(axis=1)])

    if task == "landmarks":  # those of two images less than two cells apart are one
        assert_allclose(inside(by_image, 4), inside(wanted, 4), rtol=1e-4, atol=1e-3)
        assert_allclose(inside(overlapping, 38), inside(wanted, 38), rtol=1e-4, atol=1e-3)
    else:  # with an overlap some are suppressed by boxes that reach beyond an image
        assert_allclose(in_order(by_image), in_order(wanted), rtol=1e-4, atol=1e-3)
        apart = np.abs(inside(overlapping, 38)[:, None] - inside(wanted, 38)).max(axis=2)
        assert (apart.min(axis=1) < 1e-3).all()
        assert len(apart) > 0.6 * len(inside(wanted, 38)) > 5


def test_tiles_end_with_the_image():
    grid = TileGrid.of((250, 90), parse_resize("tiles:100:20"))
    assert grid.corners.tolist() == [[0, 0], [80, 0], [150, 0]]
    assert grid.tile_wh == (100, 90)


def test_equal_points_of_two_tiles_are_one_and_those_of_one_tile_stay():
    grid = TileGrid.of((150, 90), parse_resize("tiles:100:50"))  # the overlap is 50 <= x < 100
    points = np.array([[74.0, 10], [75.5, 10], [73.0, 10], [20, 10], [95, 10]])
    tile = np.array([0, 1, 0, 0, 0])  # the last is too near the edge of its tile, and the other does not see it
    options = {"scores": np.array([0.5, 0.8, 0.9, 0.4, 0.9]), "cell_px": 2.0}
    assert merge_points(grid, points, tile, classes=np.zeros(5, int), **options).tolist() == [2, 0, 3]
    assert merge_points(grid, points, tile, classes=np.array([0, 1, 1, 0, 0]), **options).tolist() == [2, 0, 3]
    assert merge_points(grid, points, tile, classes=np.array([0, 1, 0, 0, 0]), **options).tolist() == [2, 1, 0, 3]


def test_boxes_of_one_tile_that_the_detector_kept_stay():
    grid = TileGrid.of((150, 90), parse_resize("tiles:100:50"))
    boxes = np.array([[65.0, 10, 85, 40], [66, 10, 86, 40], [65, 11, 85, 41], [65, 10, 85, 40]])
    columns = {"scores": np.array([0.9, 0.5, 0.8, 0.7]), "classes": np.array([0, 0, 0, 1])}
    rows = merge_boxes(grid, boxes, np.array([0, 0, 1, 1]), **columns, iou_threshold=0.5)
    assert rows.tolist() == [0, 3, 1]  # the third is the first of the other tile; the last is of another class


def test_pieces_of_an_object_larger_than_the_overlap_are_kept():
    grid = TileGrid.of((150, 90), parse_resize("tiles:100:50"))
    boxes, options = (
        np.array([[20.0, 0, 100, 40], [50.0, 0, 130, 40]]),
        {"scores": np.array([0.5, 0.8]), "iou_threshold": 0.5},
    )
    assert merge_boxes(grid, boxes, np.array([0, 1]), classes=np.zeros(2, int), **options).tolist() == [1, 0]


def test_nothing_found_is_ordinary(tmp_path):
    data = data_of(tmp_path, np.zeros((90, 150), np.uint8))
    for task in ("boxes", "landmarks"):
        labels = BOXES if task == "boxes" else POINTS
        assert len(find_objects(finds_components(task), data, labels=labels, tiles="tiles:50:10").scores) == 0
