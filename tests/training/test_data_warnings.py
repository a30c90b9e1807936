"""What people read before the first step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detect.anchors.anchor_set import AnchorSet
from detect.training.builder import training_anchors
from detect.training.config import TrainConfig
from detect.training.data_warnings import data_warnings
from detect.training.inputs import read_inputs


def changed(squares: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """A changed copy of the annotations, as an override."""
    content = json.loads((squares / "annotations.json").read_text())
    change(content)
    path.write_text(json.dumps(content))
    return f"data.train=['{path}']"


def warnings_of(config: TrainConfig) -> list[str]:
    inputs = read_inputs(config)
    return data_warnings(config, inputs, anchors=training_anchors(config, inputs.train.dataset))


def test_sound_data_have_no_warnings(tiny):
    assert warnings_of(tiny()) == []


def test_categories_with_few_positive_anchors_are_named_with_remedies(tiny, squares, tmp_path):
    def add_dots(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 9, "name": "dot"})
        for image in content["images"]:  # the best anchor is that of 2 x 2 around (8, 8)
            new = {"id": 100 + image["id"], "image_id": image["id"], "category_id": 9, "bbox": [8, 8, 1, 1]}
            content["annotations"].append(new)

    fields = (changed(squares, tmp_path / "two.json", add_dots), "data.val=[]")
    AnchorSet.of([[(12, 12), (13, 13)], [(2, 2)]], strides=(2, 16)).save(tmp_path / "anchors.yaml")
    (warning,) = warnings_of(tiny(*fields, f"model.anchors={tmp_path}/anchors.yaml"))
    assert warning.startswith("uneven assignment: positive anchors per box: dot 1.0; mean of all boxes ")
    assert warning.endswith(
        "a short training hardly learns categories with few positive anchors: try model.assigner=atss"
    )
    fields += ("model.assigner=atss", "model.anchors=fit", "model.levels=p3-p4", "model.per_level=1")
    (warning,) = warnings_of(tiny(*fields))
    # ATSS has nothing for a pixel
    assert warning.startswith("uneven assignment: positive anchors per box: dot 0.0; mean of all boxes ")
    assert warning.endswith("few positive anchors: try model.max_strides=4")


def test_what_is_left_out_is_said_once(tiny, squares, tmp_path):
    def spoil(content: dict[str, Any]) -> None:
        content["annotations"][0]["category_id"] = 99  # no such category
        content["annotations"][1]["keypoints"] = [40, 3, 2]

    fields = (changed(squares, tmp_path / "invalid.json", spoil), "data.val=[]", "data.val_share=0.25")
    (line,) = warnings_of(tiny(*fields))
    assert line.startswith("left out: 1 invalid entries of the annotation files, such as ")
    assert "annotation 1, image 1" in line
    lines = warnings_of(tiny(*fields, task="landmarks"))
    assert lines == [line, "left out: 1 labelled training points lie outside their images"]


def test_boxes_without_extent_in_single_precision_are_counted(tiny, squares, tmp_path):
    # the floats about 31.5 are 1.9e-6 apart: from 31.4999996 to 31.5000007 begins and ends at one of them
    sliver = {"image_id": 1, "category_id": 7, "bbox": [31.4999996, 3, 1.1e-6, 5], "area": 1}
    slivers = [{"id": 98, "iscrowd": 0, **sliver}, {"id": 99, "iscrowd": 1, **sliver}]
    train = changed(squares, tmp_path / "slivers.json", lambda content: content["annotations"].extend(slivers))
    assert warnings_of(tiny(train, "data.val=[]")) == ["left out: 1 training boxes have no extent after resizing"]


@pytest.mark.parametrize(("on_gpu", "count"), [(True, 1), (False, 0)])
def test_a_gpu_that_is_not_used_is_named(tiny, monkeypatch, on_gpu, count):
    monkeypatch.setattr("torch.cuda.is_available", lambda: on_gpu)
    lines = warnings_of(tiny())
    assert lines == ["a GPU is available, but training runs on the CPU: set optimisation.accelerator=cuda"] * count
