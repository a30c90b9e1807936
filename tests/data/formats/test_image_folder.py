"""Hugging Face's metadata.jsonl: objects as lists or as objects, names or numbers, and lines that cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import findings_below, label_folder, labels_in_words

from detect.data.read_dataset import read_dataset
from detect.errors import CocoError

BOXES = [[1, 2, 10, 20]]
PLACE = "metadata.jsonl, line 1, object 1: annotation 1, image 1: "
OBJECTS: dict[str, tuple[Any, list[str], list[str]]] = {
    "numbers": ({"bbox": BOXES, "categories": [0]}, ["class 0 1 2 10 20"], []),
    "names": ({"bbox": BOXES, "category": ["cat"], "id": [9]}, ["cat 1 2 10 20"], []),
    "a list of objects": ([{"bbox": BOXES[0], "category": "cat"}], ["cat 1 2 10 20"], []),
    "nothing": (None, [], []),
    "empty lists": ({"bbox": [], "categories": []}, [], []),
    "three numbers": (
        {"bbox": [[1, 2, 3]], "categories": [0]},
        [],
        [f"{PLACE}bbox [1, 2, 3] is not (x, y, width, height)"],
    ),
    "a negative width": ({"bbox": [[1, 2, -3, 4]], "categories": [0]}, [], [f"{PLACE}width -3 is not positive"]),
    "text": ({"bbox": [[1, 2, "x", 4]], "categories": [0]}, [], [f"{PLACE}'x' is not a number"]),
    "no category": ([{"bbox": BOXES[0]}], [], [f"{PLACE}it has no label"]),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_is_kept_and_said_of_objects(tmp_path, kind):
    objects, annotations, invalid = OBJECTS[kind]
    line = json.dumps({"file_name": "train/a.png", "objects": objects, "width": None})
    label_folder(tmp_path, {"metadata.jsonl": f"{line}\r\n\r\n", "train/a.png": (100, 50)})
    for source in (tmp_path, tmp_path / "metadata.jsonl"):
        dataset = read_dataset(source)
        assert labels_in_words(dataset) == [f"train/a.png: {each}" for each in annotations]
        assert findings_below(tmp_path, dataset.invalid) == invalid
        assert dataset.images.wh.tolist() == [[100, 50]]


def test_lines_without_objects_are_counted(tmp_path):
    label_folder(tmp_path, {"metadata.jsonl": '{"file_name": "a.png", "boxes": [[1, 2, 3, 4]]}', "a.png": (9, 9)})
    assert findings_below(tmp_path, read_dataset(tmp_path).suspicious) == [
        "metadata.jsonl: lines without objects are read as images without objects: 1, the first is metadata.jsonl, line 1"
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "b.png"', "line 2: not JSON"),
        ('{"name": "b.png"}', "line 2: no file_name"),
        (
            '{"file_name": "b.png", "objects": {"bbox": [[1, 2, 3, 4]], "categories": []}}',
            "line 2: objects has no lists",
        ),
        ('{"file_name": "b.png", "objects": {"boxes": []}}', "line 2: objects has no lists"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, message):
    label_folder(tmp_path, {"metadata.jsonl": f'{{"file_name": "a.png"}}\n{line}\n'})
    with pytest.raises(CocoError, match=rf"metadata\.jsonl, {message}"):
        read_dataset(tmp_path)
