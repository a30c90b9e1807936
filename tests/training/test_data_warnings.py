"""Warnings before the first step of a run, each planted."""

from __future__ import annotations

from typing import Any

import pytest
from builders import changed

from detect.anchors.anchor_set import AnchorSet
from detect.data import CocoDataset, read_coco
from detect.training.builder import training_anchors, training_assignment
from detect.training.config import TrainConfig
from detect.training.data_warnings import data_warnings, positives_warnings
from detect.training.inputs import read_inputs


def warnings_of(config: TrainConfig) -> list[str]:
    inputs = read_inputs(config)
    dataset = inputs.train.dataset
    return data_warnings(
        config, inputs, assignment=training_assignment(config, dataset, training_anchors(config, dataset))
    )


def positives_of(config: TrainConfig, anchors: AnchorSet, dataset: CocoDataset) -> list[str]:
    return positives_warnings(config, training_assignment(config, dataset, anchors), num_images=len(dataset.images))


def test_sound_data_have_no_warnings(tiny):
    assert warnings_of(tiny()) == []


def test_categories_that_others_outvote_are_named(tiny, squares, tmp_path):
    def add_dots(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 9, "name": "dot"})
        for image in content["images"]:  # the best anchor is that of 2 x 2 around (8, 8)
            new = {"id": 100 + image["id"], "image_id": image["id"], "category_id": 9, "bbox": [8, 8, 1, 1]}
            content["annotations"].append(new)

    fields = (f"data.train={changed(squares, tmp_path, 'two.json', add_dots)}", "data.val=[]")
    AnchorSet.of([[(12, 12), (13, 13)], [(2, 2)]], strides=(2, 16)).save(tmp_path / "anchors.yaml")
    given = (*fields, f"model.anchors={tmp_path}/anchors.yaml")
    assert warnings_of(tiny(*given)) == []  # positives are weighed by category
    (warning,) = warnings_of(tiny(*given, "model.positive_weights=none"))
    assert warning.startswith("uneven assignment: positive anchors per box: dot 1.0; mean of all boxes ")
    assert warning.endswith("; the others outvote them: try model.positive_weights=category")
    fields += ("model.assigner=atss", "model.anchors=fit", "model.levels=p3-p4", "model.per_level=1")
    (warning,) = warnings_of(tiny(*fields))
    # ATSS has nothing for a pixel
    assert warning == "no positive anchors for category dot (8 boxes): they are never learned; try finer model.levels"


def test_sizes_without_positive_anchors_are_named(tiny, squares, tmp_path):
    def widen(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["width"] = image["height"] = 320
        for number, each in enumerate(content["annotations"]):
            each["bbox"] = [20, 20, 20, 20] if number % 2 else [20, 20, 200, 200]

    dataset = read_coco(changed(squares, tmp_path, "sizes.json", widen)[2:-2])
    config = tiny("model.allow_low_quality_matches=false", "model.anchors=some.yaml")
    lines = positives_of(config, AnchorSet.of([[(20, 20)]], strides=[4]), dataset)
    assert lines == [
        "no positive anchors for large, from 96 px (6 boxes): they are never learned; try model.anchors=fit or "
        "model.allow_low_quality_matches=true"
    ]
    lines = positives_of(config, AnchorSet.of([[(20, 20), (200, 200)]], strides=[4]), dataset)
    assert lines == []


def test_single_boxes_without_positive_anchors_are_counted(tiny, squares, tmp_path):
    def shrink(content: dict[str, Any]) -> None:
        content["annotations"][2]["bbox"] = [9, 9, 1, 1]

    dataset = read_coco(changed(squares, tmp_path, "small.json", shrink)[2:-2])
    config = tiny("model.allow_low_quality_matches=false")
    anchors = AnchorSet.of([[(8, 8), (11, 11), (14, 14)]], strides=[1])
    (line,) = positives_of(config, anchors, dataset)
    assert line.startswith("no positive anchors for 1 of 12 boxes: annotation 3: they are never learned")


def test_categories_that_no_object_has_are_named(tiny, squares, tmp_path):
    def name(content: dict[str, Any]) -> None:
        content["categories"].insert(0, {"id": 0, "name": "everything", "keypoints": ["centre"], "skeleton": []})

    field = f"data.train={changed(squares, tmp_path, 'named.json', name)}"
    line = "no training {} of category everything: nothing of them is learned"
    assert warnings_of(tiny(field, "data.val=[]")) == [line.format("boxes")]
    assert warnings_of(tiny(field, "data.val=[]", task="landmarks")) == [line.format("labelled points")]


def test_findings_and_doubts_about_a_whole_file_are_those_of_the_dataset(tiny, squares, tmp_path):
    def corners(content: dict[str, Any]) -> None:
        for each in content["annotations"]:
            x, y, width, height = each["bbox"]
            each["bbox"] = [x, y, x + width, y + height]

    train = changed(squares, tmp_path, "corners.json", corners)
    lines = warnings_of(tiny(f"data.train={train}", f"data.val={train}"))
    dataset = read_coco(train[2:-2])
    assert lines[0] == f"warning: {dataset.warnings[0]}"
    assert "data.bbox=xyxy of a run, reads them so" in lines[0]
    assert lines[1] == f"{len(dataset.suspicious)} suspicious but kept:"
    assert lines[2:7] == [f"  {each}" for each in dataset.suspicious[:5]]
    assert lines[7].endswith(f" more: detect anchors fit {train[2:-2]} --findings lists them all")
    assert warnings_of(tiny(f"data.train={train}", f"data.val={train}", "data.bbox=xyxy")) == []


def test_what_is_left_out_is_said_once(tiny, squares, tmp_path):
    def spoil(content: dict[str, Any]) -> None:
        content["annotations"][0]["category_id"] = 99  # no such category
        content["annotations"][1]["keypoints"] = [40, 3, 2]

    fields = (f"data.train={changed(squares, tmp_path, 'invalid.json', spoil)}", "data.val=[]", "data.val_share=0.25")
    lines = warnings_of(tiny(*fields))
    assert lines[0] == "1 invalid, left out:"
    assert lines[1].endswith("invalid.json: annotation 1, image 1: no category has the id 99")
    assert len(lines) == 2
    outside = "left out: 1 labelled training points lie outside their images"
    assert warnings_of(tiny(*fields, task="landmarks")) == [*lines, outside]


def test_boxes_without_extent_in_single_precision_are_counted(tiny, squares, tmp_path):
    # the floats about 31.5 are 1.9e-6 apart: from 31.4999996 to 31.5000007 begins and ends at one of them
    sliver = {"image_id": 1, "category_id": 7, "bbox": [31.4999996, 3, 1.1e-6, 5], "area": 1}
    slivers = [{"id": 98, "iscrowd": 0, **sliver}, {"id": 99, "iscrowd": 1, **sliver}]
    train = changed(squares, tmp_path, "slivers.json", lambda content: content["annotations"].extend(slivers))
    lines = warnings_of(tiny(f"data.train={train}", "data.val=[]"))
    assert lines[-2] == "left out: 1 training boxes have no extent after resizing"
    assert lines[-1].startswith("no positive anchors for 1 of 13 boxes: annotation 98: ")


@pytest.mark.parametrize(("on_gpu", "count"), [(True, 1), (False, 0)])
def test_a_gpu_that_is_not_used_is_named(tiny, monkeypatch, on_gpu, count):
    monkeypatch.setattr("torch.cuda.is_available", lambda: on_gpu)
    lines = warnings_of(tiny())
    assert lines == ["a GPU is available, but training runs on the CPU: set optimisation.accelerator=cuda"] * count
