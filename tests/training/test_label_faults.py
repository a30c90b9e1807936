"""What labels show of their faults: each planted, and none claimed that is not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from builders import changed
from PIL import Image

from detect.anchors.anchor_set import AnchorSet
from detect.loading.dataset import DetectionData, collate
from detect.training.config import TrainConfig
from detect.training.inputs import read_inputs
from detect.training.label_faults import countable_share, unlearnable, wrong_labels

ANCHORS = AnchorSet.of([[(8, 8)], [(12, 12)]], strides=(4, 8))
FITTING = AnchorSet.of([[(8, 8), (11, 11), (14, 14)]], strides=(1,))  # those of all squares


@pytest.fixture
def data(tiny, squares, tmp_path) -> Callable[..., tuple[TrainConfig, DetectionData]]:
    """The squares with changed annotations, as a run reads them."""

    def read(change: Callable[[dict[str, Any]], object], *fields: str, task: str = "boxes", images: str = ""):
        train = changed(squares, tmp_path, "changed.json", change)
        own = [f"data.images={images}"] if images else []
        config = tiny(f"data.train={train}", "data.val=[]", *own, *fields, task=task)
        return config, read_inputs(config).train

    return read


def causes(config: TrainConfig, data: DetectionData, anchors: AnchorSet | None = FITTING) -> list[str]:
    data.augment = None
    return unlearnable(config, data, collate([data[place] for place in range(len(data))]), anchors=anchors)


def test_sound_labels_show_nothing(data):
    config, sound = data(lambda _: None)
    assert wrong_labels(sound) == []
    assert causes(config, sound) == []
    config, sound = data(lambda _: None, "model.stride=1", task="landmarks")
    assert wrong_labels(sound) == []
    assert causes(config, sound, None) == []


def test_a_constant_image_is_named_also_behind_one_without_objects(data, squares, tmp_path):
    for file in squares.glob("*.png"):
        shutil.copy(file, tmp_path)
    Image.new("L", (32, 32), 7).save(tmp_path / "2.png")

    def empty(content):
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] != 1]

    config, train = data(empty, images=str(tmp_path))
    train.image_rows = train.image_rows[1:3]
    found = causes(config, train.without_broken())
    assert [each for each in found if "constant" in each] == ["2.png is constant: all its pixels are 0.0275"]


def test_normalised_points(data):
    def normalise(content):
        for each in content["annotations"]:
            each["keypoints"][:2] = [number / 32 for number in each["keypoints"][:2]]

    (fault,) = wrong_labels(data(normalise, task="landmarks")[1])
    assert fault.startswith("points lie within 1 px: normalised? All 12 lie from 0 to 1.")
    assert wrong_labels(data(normalise)[1]) == []  # boxes are in pixels


def test_boxes_that_are_misread_are_those_of_the_dataset(data):
    def corners(content):
        for each in content["annotations"]:
            x, y, width, height = each["bbox"]
            each["bbox"] = [x, y, x + width, y + height]

    _, misread = data(corners)
    (fault,) = wrong_labels(misread)
    assert fault == misread.dataset.misread[0]
    assert "bbox looks like (x0, y0, x1, y1)" in fault


def test_boxes_that_no_anchor_reaches_and_boxes_under_a_pixel(data):
    def shrink(content):
        content["annotations"][0]["bbox"] = [4.2, 4.2, 0.5, 2]

    config, small = data(shrink, "model.allow_low_quality_matches=false")
    thin, far, unassigned = causes(config, small)
    assert thin == "1 of 12 boxes are under 1 px wide or high after resize none"
    # the nearest centre is that of cell (4, 4), so that the box lies within an anchor of 8 x 8: 1 / 64
    assert far == (
        "no anchor reaches 40% of 1 of 12 boxes (their best IoU is 0.02 to 0.02; sqrt(area) is 1 to 1 px, of anchors "
        "8 to 14 px)"
    )
    assert unassigned == "1 of 12 boxes have no positive anchor"


def test_boxes_that_suppression_removes_and_boxes_beyond_the_limit(data):
    def double(content):
        first = content["annotations"][0]
        content["annotations"].append({**first, "id": 99})

    found = causes(*data(double, "model.detections_per_image=2"))
    assert (
        "2 of 13 boxes overlap another of their category by more than model.iou_threshold=0.5: suppression keeps one"
        in (" ".join(found))
    )
    assert "an image has 3 boxes, more than model.detections_per_image=2" in found

    def other(content):
        double(content)
        content["categories"].append({"id": 9, "name": "other"})
        content["annotations"][-1]["category_id"] = 9

    assert not any("suppression" in cause for cause in causes(*data(other)))  # which is by category


def test_images_that_say_nothing_or_two_things(data, squares, tmp_path):
    for number in range(1, 9):
        (tmp_path / f"{number}.png").write_bytes((squares / f"{number}.png").read_bytes())
    Image.new("L", (32, 32), 51).save(tmp_path / "3.png")
    (tmp_path / "5.png").write_bytes((squares / "2.png").read_bytes())
    found = causes(*data(lambda _: None, images=str(tmp_path)))
    assert found == [
        "3.png is constant: all its pixels are 0.2",
        "2.png and 5.png have the same pixels and different labels",
    ]

    def copy(content):
        boxes = [each["bbox"] for each in content["annotations"] if each["image_id"] == 2]
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] != 5]
        content["annotations"] += [
            {"id": 100 + n, "image_id": 5, "category_id": 7, "bbox": box} for n, box in enumerate(boxes)
        ]

    assert causes(*data(copy, images=str(tmp_path))) == found[:1]


def test_points_that_are_not_labelled_or_too_close(data):
    def hide(content):
        for each in content["annotations"]:
            each["keypoints"][2] = 0 if each["image_id"] < 3 else 2

    config, hidden = data(hide, task="landmarks")
    hidden.image_rows = hidden.image_rows[:2]
    assert causes(config, hidden, None) == ["no point of these images is labelled: their visibility is 0"]

    def close(content):
        for each in content["annotations"]:
            if each["image_id"] == 1:
                each["keypoints"] = [9, 9 + each["id"], 2]

    config, near = data(close, "model.stride=1", task="landmarks")
    (cause,) = causes(config, near, None)
    assert cause.startswith("2 of 12 points lie within 2 cells of model.stride=1 of another of their type")


def test_coco_counts_a_hundred_detections(data):
    assert countable_share(data(lambda _: None)[1]) == 1.0

    def many(content):
        content["annotations"] = [
            {"id": number, "image_id": 1, "category_id": 7, "bbox": [number % 16, number // 16, 9, 9]}
            for number in range(1, 251)
        ]

    assert countable_share(data(many)[1]) == pytest.approx(0.4)
