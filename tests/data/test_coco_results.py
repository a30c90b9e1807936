"""Results in COCO's format: rows of a dataset, and the file that is not one."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from builders import written
from numpy.testing import assert_array_equal

from detect.data import CocoDataset, CocoResults, read_coco, read_results
from detect.errors import CocoError


@pytest.fixture
def dataset() -> CocoDataset:
    images = [{"id": number, "width": 64, "height": 64} for number in (30, 10)]
    return read_coco({"images": images, "categories": [{"id": 2, "name": "cell"}], "annotations": []})


def test_columns_follow_the_file_and_images_the_dataset(tmp_path, dataset):
    entries = [
        {"image_id": 30, "category_id": 2, "score": 0.5, "keypoints": [1, 2, 0.9], "more": [1]},
        {"image_id": 10, "category_id": 2, "score": 1, "bbox": [1, 2, 3, 4]},
    ]
    results = read_results(written(tmp_path / "results.json", entries), dataset)
    assert_array_equal(results.image_rows, [1, 0])
    assert_array_equal(results.scores, [0.5, 1])
    assert_array_equal(results.keypoints[0], [[1, 2, 0.9]])
    assert results.keypoints[1].shape == (0, 3)
    assert_array_equal(results.boxes_xywh, [[np.nan] * 4, [1, 2, 3, 4]])
    assert results.invalid == ()
    none = read_results(written(tmp_path / "none.json", []), dataset)
    assert (none.scores.shape, none.boxes_xywh.shape) == ((0,), (0, 4))


def test_ids_may_be_the_texts_that_the_dataset_has(tmp_path):
    images = [{"id": name, "width": 64, "height": 64} for name in ("b", "a", "3")]
    dataset = read_coco({"images": images, "categories": [{"id": "cell", "name": "cell"}], "annotations": []})
    entries = [{"image_id": name, "category_id": "cell", "score": "0.5"} for name in ("a", 3, "c")]
    results = read_results(written(tmp_path / "results.json", entries), dataset)
    labels = {finding.image_id: finding.reason for finding in dataset.suspicious}
    found = dataset.images.ids[results.image_rows].tolist()
    assert found[1] == 3
    assert labels[found[0]] == f"id is the text 'a': read as the id {found[0]}"
    assert [finding.reason for finding in results.invalid] == ["entry 2 of the results: no image has this id"]
    assert_array_equal(results.scores, [0.5, 0.5])


@pytest.mark.parametrize("field", ["image_id", "category_id", "score", "bbox", "keypoints", "angle"])
def test_an_integer_longer_than_python_reads_refuses_its_row(tmp_path, dataset, field):
    good = {"image_id": 30, "category_id": 2, "score": 0.5, "bbox": [1, 2, 3, 4], "keypoints": [1, 2, 3], "angle": 1}
    text = json.dumps([good, {**good, field: ["here", 2, 3] if field == "keypoints" else "here"}])
    results = read_results(written(tmp_path / "results.json", text.replace('"here"', "9" * 5000)), dataset)
    assert_array_equal(results.places, [0])
    assert [re.match("(entry 1|.* of the result list)", each.reason) is not None for each in results.invalid] == [True]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"image_id": 31}, "image 31: entry 1 of the results: no image has this id"),
        ({"image_id": 10, "category_id": 1}, "image 10: entry 1 of the results: no category has the id 1"),
        ({"score": float("nan")}, "image 10: entry 1 of the results: score nan is not finite"),
        ({"score": "high"}, "entry 1 of the result list: score is the text 'high', not a number"),
        *(
            ({"bbox": box}, "entry 1 of the results: no bbox of four finite numbers without a negative size")
            for box in ([1, 2, -3, 4], [1, 2, 3, -4], [1, 2, math.nan, 4], [math.inf, 2, 3, 4], [math.nan] * 4)
        ),
        ({"keypoints": [1, 2, 1, math.inf, 2, 1]}, "entry 1 of the results: a keypoint is infinite"),
        ({"angle": -math.inf}, "entry 1 of the results: its angle is infinite"),
        (
            {"keypoints": [1, 2]},
            "entry 1 of the result list: keypoints has 2 numbers, not three (x, y, visibility) per keypoint",
        ),
    ],
)
def test_an_entry_that_cannot_be_used_is_listed_and_the_others_kept(tmp_path, dataset, entry, reason):
    sound = {"image_id": 10, "category_id": 2, "score": 0.5}
    results = read_results(written(tmp_path / "results.json", [sound, {**sound, **entry}]), dataset)
    (finding,) = results.invalid
    assert str(finding).endswith(reason)
    assert len(results.scores) == 1


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"images": [], "annotations": []}, "a dataset, not results: expected COCO results"),
        ({}, "no list: expected COCO results"),
        ("[{", "not JSON .*: expected COCO results"),
        ("", "not JSON .*: expected COCO results"),
    ],
)
def test_a_file_that_holds_no_results_is_named(tmp_path, dataset, content, what):
    with pytest.raises(CocoError, match=what):
        read_results(written(tmp_path / "results.json", content), dataset)
    with pytest.raises(CocoError, match="No such file"):
        read_results(tmp_path / "none.json", dataset)


@pytest.mark.usefixtures("unchecked")
def test_columns_of_different_lengths_are_refused():
    columns = [np.zeros(2, int)] * 3 + [np.zeros(2), np.zeros((2, 4)), (np.zeros((0, 3)),) * 2]
    for place in range(len(columns)):
        shorter = [column[: 1 if place == number else 2] for number, column in enumerate(columns)]
        lengths = [len(column) for column in shorter]
        with pytest.raises(ValueError, match=rf"columns of one length, got {re.escape(str(lengths))}"):
            CocoResults(*shorter, ())
