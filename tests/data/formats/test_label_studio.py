"""Label Studio's exports: percentages, rotation, several annotations of a task, and the names of images."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import findings_below, label_folder, labels_in_words

from detect.data.formats.label_studio import UNLABELLED
from detect.data.read_dataset import read_dataset
from detect.errors import CocoError


def region(kind: str, **value: Any) -> dict[str, Any]:
    size = {"original_width": 200, "original_height": 100, "image_rotation": 0}
    return {"id": "x", "type": kind, "value": {**value, kind: value.get(kind, ["cat"])}, **size}


def task(*regions: Any, image: str = "/data/upload/1/a%20b.png", **fields: Any) -> dict[str, Any]:
    annotation = {"id": 5, "was_cancelled": False, "ground_truth": False, "result": list(regions)}
    return {"id": 7, "data": {"image": image}, "annotations": [annotation], **fields}


PLACE = "a.json: task 7, region 1: annotation 1, image 1: "
REGIONS: dict[str, tuple[Any, list[str], list[str], list[str]]] = {
    "a box": (region("rectanglelabels", x=10, y=20, width=5, height=10, rotation=0), ["cat 20 20 10 10"], [], []),
    "a box turned by a quarter about its corner": (
        *(region("rectanglelabels", x=50, y=20, width=5, height=20, rotation=90), ["cat 80 20 20 10"], []),
        ["a.json: rotated boxes are read as the boxes around them: 1, the first is a.json: task 7, region 1"],
    ),
    "a polygon": (region("polygonlabels", points=[[10, 10], [20, 10], [20, 30]]), ["cat 20 10 20 20"], [], []),
    "a keypoint": (region("keypointlabels", x=10, y=20, width=1), ["cat 19.5 19.5 1 1 20 20 2"], [], []),
    "an ellipse": (region("ellipselabels", x=50, y=50, radiusX=5, radiusY=20), ["cat 90 30 20 40"], [], []),
    "a choice of the whole image": (region("choices", choices=["good"]), [], [], []),
    "a brush": (
        *(region("brushlabels", rle=[1, 2]), []),
        [f"{PLACE}a region of type 'brushlabels' is neither a box, polygon, ellipse nor keypoint with a label"],
        [],
    ),
    "no label": (
        region("keypointlabels", x=10, y=20, keypointlabels=[]),
        *([], [f"{PLACE}it has no label"], []),
    ),
    "no size": (
        {**region("keypointlabels", x=10, y=20), "original_width": None},
        [],
        [f"{PLACE}no original_width and original_height: its percentages cannot be made pixels"],
        [],
    ),
}


@pytest.mark.parametrize("kind", REGIONS)
def test_what_is_kept_counted_and_said_of_a_region(tmp_path, kind):
    one, annotations, invalid, suspicious = REGIONS[kind]
    label_folder(tmp_path, {"a.json": json.dumps([task(one)]), "a b.png": (200, 100)})
    dataset = read_dataset(tmp_path / "a.json", keypoints=True)
    assert labels_in_words(dataset) == [f"a b.png: {each}" for each in annotations]
    assert findings_below(tmp_path, dataset.invalid) == invalid
    assert findings_below(tmp_path, dataset.suspicious) == suspicious


def test_of_several_annotations_the_ground_truth_is_read_and_the_task_is_named(tmp_path):
    made = [
        {"was_cancelled": True, "result": [region("keypointlabels", x=1, y=1)]},
        {"result": [region("keypointlabels", x=10, y=10)]},
        {"result": [region("keypointlabels", x=50, y=50)], "ground_truth": True},
    ]
    label_folder(tmp_path, {"a.json": json.dumps([task(annotations=made)])})
    dataset = read_dataset(tmp_path / "a.json", keypoints=True)
    assert labels_in_words(dataset) == ["a b.png: cat 99.5 49.5 1 1 100 50 2"]
    (said,) = findings_below(tmp_path, dataset.suspicious)
    assert said == (
        "a.json: of several annotations of a task the ground truth is read, else the first that is not cancelled: 1, "
        "the first is a.json: task 7"
    )


def test_tasks_without_an_annotation_are_images_without_objects_and_told(tmp_path):
    own = region("keypointlabels", x=10, y=10)
    skipped, predicted = task(annotations=[{"was_cancelled": True, "result": [own]}]), task(annotations=[])
    predicted["predictions"] = [{"result": [own]}]
    none = task(annotations=[{"result": []}])  # somebody has looked, and found nothing
    label_folder(tmp_path, {"a.json": json.dumps([skipped, predicted, none]), "a b.png": (200, 100)})
    dataset = read_dataset(tmp_path / "a.json", keypoints=True)
    assert (len(dataset.images), len(dataset.annotations)) == (3, 0)
    assert findings_below(tmp_path, dataset.suspicious) == [f"a.json: {UNLABELLED}: 2, the first is a.json: task 7"]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/1/a.png", "a.png"),
        ("/data/local-files/?d=day%201/a.png", "day 1/a.png"),
        ("https://host/x/a.png?token=1", "a.png"),
        ("s3://bucket/x/a.png", "a.png"),
    ],
)
def test_the_name_of_an_image_is_the_end_of_its_address(tmp_path, address, name):
    text = json.dumps([task(region("keypointlabels", x=1, y=1), image=address)])
    assert read_dataset(label_folder(tmp_path, {"a.json": text})).images.file_names == (name,)


def test_a_list_of_something_else_is_refused(tmp_path):
    label_folder(tmp_path, {"a.json": '[{"data": 1, "annotations": []}, 5]'})
    with pytest.raises(CocoError, match=r"a\.json: not a list of Label Studio's tasks"):
        read_dataset(tmp_path / "a.json")
