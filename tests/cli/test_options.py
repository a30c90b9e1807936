"""Options that commands share: their choices are the code's, and their words are the same everywhere."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
from builders import coco_content, commands, label_folder, photo, written

from detect.anchors.grid_convention import CONVENTIONS
from detect.anchors.instances import BALANCES
from detect.cli import heatmaps, options
from detect.conventions import ORIGIN_SHIFTS
from detect.data.coco_entries import BoxForm
from detect.data.exif import Exif
from detect.evaluation.precision_recall import GOALS
from detect.evaluation.predicted_points import SOURCES
from detect.fitting.fit import METHODS
from detect.fitting.fit_levels import FREE
from detect.fitting.structured import LAYOUTS
from detect.interop.anchor_formats import FORMATS
from detect.keypoints.orientations import ORIENTATIONS
from detect.keypoints.targets import CHOICES
from detect.samples import sample_annotations

COMMANDS = {name: each for name, each in commands().items() if not hasattr(each, "commands")}


def test_choices_are_what_the_code_offers():
    assert set(get_args(options.Method)) == set(METHODS) - {"mixture"}  # LogGaussianMixture is for Python alone
    assert get_args(options.Layout) == (FREE, *LAYOUTS)
    assert get_args(options.Balance) == BALANCES
    assert tuple(FORMATS) == options.TEXT_FORMATS
    assert get_args(options.ConventionName) == tuple(CONVENTIONS)
    assert get_args(options.PointSource) == tuple(SOURCES)
    assert get_args(options.PixelOriginName) == tuple(ORIGIN_SHIFTS)
    assert get_args(options.OrientationName) == ORIENTATIONS
    assert get_args(options.Goal) == GOALS
    assert get_args(options.BoxFormName) == get_args(BoxForm)
    assert get_args(options.ExifName) == get_args(Exif)
    for name, choices in (("shape", heatmaps.Shape), ("blend", heatmaps.Blend), ("occluded", heatmaps.Occluded)):
        assert get_args(choices) == tuple(CHOICES[name])


@pytest.mark.parametrize("old", ["--grid", "--pictures", "--skip-broken", "--radii", "--gt", "--pred", "--hidden"])
def test_one_thing_has_one_word(old):
    assert [name for name, command in COMMANDS.items() for each in command.params if old in each.opts] == []


@pytest.mark.parametrize("name", ["resize", "convention", "findings", "strict", "pixel_origin", "output"])
def test_an_option_is_explained_alike_by_every_command(name):
    own = [each for command in COMMANDS.values() for each in command.params if each.name == name]
    own = [each for each in own if each.default not in ("detect-demo", "predictions", "exported")]
    assert len(own) > 2
    if name != "output":
        assert len({each.help for each in own}) == 1
    assert len({each.default for each in own if each.default is not None and name != "output"}) <= 1


def test_commands_that_run_a_detector_take_a_device():
    with_device = {name for name, command in COMMANDS.items() if "device" in {each.name for each in command.params}}
    assert with_device == {"evaluate", "explain", "predict", "train"}


def test_the_default_resize_rule_is_that_of_given_anchors_or_none(detect):
    nuclei = str(sample_annotations("nuclei"))
    rules = [
        detect("anchors", "fit", nuclei, "-k", 1, "--json").json["resize"],
        detect("anchors", "score", nuclei, "--anchors", "yolov3-coco", "--json").json["anchors"][0]["resize"],
        detect("anchors", "sweep", nuclei, "--anchors", "yolov3-coco", "--sizes", "320", "--json").json["settings"][0][
            "resize"
        ],
    ]
    assert rules == ["none", "stretch:416x416", "stretch:320x320"]


SQUARE = ("--resize", "letterbox:64")


def corners(tmp_path):
    """A file whose boxes are written as two corners."""
    boxes = np.array([(x, y, 9 + x % 7, 12 + y % 5) for x in range(2, 50, 4) for y in range(3, 45, 6)], float)
    boxes[:, 2:] += boxes[:, :2]
    return written(tmp_path / "corners.json", coco_content(boxes.tolist()))


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_file_that_looks_like_another_form_is_told_of_right_after_reading(detect, tmp_path, as_json):
    path = corners(tmp_path)
    run = detect("anchors", "fit", path, "-k", 2, *SQUARE, *as_json)
    assert run.code == 0
    assert run.err.startswith(f"warning: {path}: bbox looks like (x0, y0, x1, y1): ")
    assert run.err.splitlines()[0].endswith("; --bbox xyxy, or data.bbox=xyxy of a run, reads them so")
    if as_json:
        json.loads(run.out)
    run = detect("anchors", "fit", path, "-k", 2, *SQUARE, "--bbox", "xyxy", *as_json)
    assert (run.code, "bbox looks like" in run.err) == (0, False)


def test_an_error_after_reading_says_what_was_left_out(detect, tmp_path):
    content = coco_content([(1, 2, 10, 10)] * 4, image_ids=[1, 7, 7, 7])
    content["images"][1]["width"] = -1
    path = written(tmp_path / "a.json", content)
    run = detect("anchors", "fit", path, "-k", 3, *SQUARE)
    left_out = f"4 entries were invalid and left out, the first: {path}: image 7: size -1x64 is not positive"
    assert (run.code, run.err) == (2, f"detect: 3 clusters need 3 distinct shapes, got 1: fit fewer; {left_out}\n")
    for command in (("-k", 1, "--weight", "dust=2"), ("-k", 2, "--method", "kmeans")):
        run = detect("anchors", "fit", path, *command, *SQUARE)
        assert run.code == 2
        assert run.err.endswith(f"; {left_out}\n")
        assert run.err.count("left out") == 1
    run = detect("anchors", "fit", written(tmp_path / "b.json", coco_content([])), *SQUARE)
    assert (run.code, "left out" in run.err) == (2, False)


def test_images_without_a_size_need_a_folder_or_no_rule(detect, tmp_path):
    content = coco_content([(1, 2, 10, 10)])
    del content["images"][0]["width"]
    path = written(tmp_path / "a.json", content)
    assert detect("anchors", "fit", path, "-k", 1).code == 0
    run = detect("anchors", "fit", path, "-k", 1, "--resize", "letterbox:640")
    assert run.code == 2
    assert run.err == (
        f"detect: 1 image has no width and height in {path}, such as image 1: "
        "--images FOLDER reads them from the image files, or --resize none does without\n"
    )


def test_labels_of_turned_photos_are_warned_of_and_categories_left_out(detect, tmp_path):
    photo(tmp_path / "images" / "a.jpg", orientation=6)
    label_folder(tmp_path, {"labels/a.txt": "0 .5 .5 .5 .5\n1 .2 .2 .1 .1", "labels/classes.txt": "cell\nspeck"})
    for fields, size, told in (((), [96, 128], True), (("--exif", "ignore"), [128, 96], False)):
        out = tmp_path / f"out{size[0]}"
        run = detect("convert", tmp_path / "labels", "--to", "coco", "-o", out, *fields, "--ignore-category", "Speck")
        assert (run.code, "warning: 1 image has an EXIF orientation" in run.err) == (0, told)
        assert "warning: left out: 1 annotation of 'speck' (--ignore-category)" in run.err
        content = json.loads((out / "annotations.json").read_text("utf-8"))
        assert [content["images"][0][side] for side in ("width", "height")] == size
        assert content["annotations"][0]["bbox"] == [size[0] / 4, size[1] / 4, size[0] / 2, size[1] / 2]
        assert [each["name"] for each in content["categories"]] == ["cell"]


def test_options_that_change_what_files_hold_are_named():
    assert options.DatasetFiles(["a"]).option is None
    assert options.DatasetFiles(["a"], bbox="xyxy", strict=True).option == "--bbox"
    assert options.DatasetFiles(["a"], ignore_category=["b"]).option == "--ignore-category"


def test_labels_that_are_fetched_are_announced_before_they_are_read(detect, monkeypatch):
    def offline(url, mode):
        raise OSError("no route to host")

    monkeypatch.setattr("fsspec.open", offline)
    run = detect("anchors", "fit", "https://host/labels", "-k", "3")
    announced, error = run.err.splitlines()
    assert announced == "https://host/labels: read through the network, part by part; nothing of it is kept"
    assert error == "detect: https://host/labels/dataset.json: no route to host"
    assert run.code == 2
    assert "network" not in detect("anchors", "fit", "memory://labels", "-k", "3").err
