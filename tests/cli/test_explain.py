"""``detect explain`` as a user types it: pictures, maps and numbers of one detection, and mistakes in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detect.samples import sample_annotations

IMAGE = sorted((sample_annotations("nuclei").parent / "images").iterdir())[0]
FILES = ["explain.json", "explain.png", "maps.npz", "report.html"]


@pytest.mark.parametrize(("task", "resize"), [("boxes", "letterbox:160"), ("landmarks", "none")])
def test_maps_pictures_and_numbers_are_those_of_the_detection(detect, tmp_path, task, resize, trained):
    out = tmp_path / "out"
    run = trained(task, data={"resize": resize}, score_threshold=0.001, threshold=0.001)
    done = detect("explain", run, IMAGE, "--method", "saliency", "--method", "lrp-z-plus", "-o", out, "--json")
    assert done.code == 0, done.err
    assert sorted(path.name for path in out.iterdir()) == FILES
    content = json.loads((out / "explain.json").read_text("utf-8"))
    assert done.json == content
    assert content["detection"] == 1
    assert content["of"] == ("class" if task == "boxes" else "peak")
    maps = np.load(out / "maps.npz")
    assert sorted(maps) == ["lrp-z-plus", "saliency"]
    side = 160 if task == "boxes" else 128
    assert maps["saliency"].shape == (side, side)
    factor = side / 128
    clipped = np.clip(content["box_in_input"], 0, side) / factor
    np.testing.assert_allclose(content["box"], clipped, atol=1e-3)
    x0, y0, x1, y1 = (round(each) for each in content["box_in_input"])
    positive = maps["saliency"].clip(0)
    share = positive[max(0, y0) : y1, max(0, x0) : x1].sum() / positive.sum()
    assert abs(content["methods"]["saliency"]["energy_inside"] - share) < 0.1
    with Image.open(out / "explain.png") as picture:
        assert picture.width > 3 * 128  # the image and two maps side by side
    page = (out / "report.html").read_text("utf-8")
    assert f"explained: {'class' if task == 'boxes' else 'peak'} logit " in page
    assert "saliency" in page
    assert "Bach et al. 2015" in page


def test_feature_maps_of_layers_are_explained_side_by_side(detect, tmp_path, trained):
    layers = [f"backbone.model.stages.{number}" for number in (1, 2)]
    options = [word for layer in layers for word in ("--maps-of", layer)]
    run = trained("boxes", score_threshold=0.001)
    done = detect("explain", run, IMAGE, "--method", "odam", "--method", "saliency", *options, "-o", tmp_path, "--json")
    assert done.code == 0, done.err
    names = [f"odam of {layer}" for layer in layers]
    assert list(done.json["methods"]) == [*names, "saliency"]
    maps = np.load(tmp_path / "maps.npz")
    assert all(maps[name].max() > 0 for name in names)
    assert (maps[names[0]] != maps[names[1]]).any()
    assert names[0] in (tmp_path / "report.html").read_text("utf-8")


def test_a_place_chooses_the_detection_that_holds_it_and_a_number_the_same(detect, tmp_path, trained):
    run = trained("boxes", score_threshold=0.001)
    arguments = ("explain", run, IMAGE, "--method", "saliency", "-o", tmp_path, "--json")
    third = detect(*arguments, "--detection", 3).json
    x0, y0, x1, y1 = third["box"]
    found = detect(*arguments, "--at", f"{(x0 + x1) / 2},{(y0 + y1) / 2}").json
    assert found["detection"] <= 3
    assert found["score"] >= third["score"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "lime"], "--method lime: there is no such method; there are all, saliency, "),
        (["--detection", "9999"], "--detection 9999: the image has "),
        (["--at", "-5,3"], "--at: expected numbers of 0 or more between commas, got '-5,3'"),
        (["--at", "5"], "--at 5: expected 2 numbers between commas"),
        (["--at", "9000,9000"], "--at 9000,9000: there is no detection at this pixel; the nearest is number "),
        (["--at", "5,5", "--detection", "1"], "--detection and --at: give one of the two"),
        (["--of", "peak"], "run/best.pt finds boxes and has no heatmap; there is class, left, top, right, bottom, iou"),
        (["--maps-of", "backbone"], "--maps-of: only grad-cam and odam take feature maps: --method odam"),
        (["--maps-of", "stages.1", "--method", "odam"], "--maps-of stages.1: the network has no such layer; near it: "),
        (["--maps-of", "head", "--method", "odam"], "--method odam: head gives no maps of rows and columns"),
        (["--of", "iou"], "--of iou and --iou-with X0,Y0,X1,Y1 are given together"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(refused, tmp_path, trained, arguments, message):
    out = tmp_path / "out"
    assert message in refused("explain", trained("boxes"), IMAGE, "-o", out, *arguments)
    assert not out.exists()


def test_sides_of_points_missing_images_and_empty_ones_are_named(detect, refused, tmp_path, trained):
    run = trained("landmarks")
    done = detect("explain", run, IMAGE, "--of", "left", "-o", tmp_path / "out")
    assert (done.code, done.err) == (
        2,
        f"detect: --of left: {run / 'best.pt'} finds points and has no boxes; there is peak\n",
    )
    missing = detect("explain", run, tmp_path / "none.png", "-o", tmp_path / "out")
    assert (missing.code, missing.err) == (2, f"detect: {tmp_path / 'none.png'}: No such file or directory\n")
    folder = detect("explain", run, IMAGE.parent, "-o", tmp_path / "out")
    assert (folder.code, folder.err) == (2, f"detect: {IMAGE.parent}: a folder, where one image file is expected\n")
    strict = trained("landmarks", threshold=0.99)
    assert "finds nothing in it, so there is nothing to explain" in refused(
        "explain", strict, IMAGE, "-o", tmp_path / "out"
    )


def test_without_training_images_the_methods_that_need_them_say_so(refused, tmp_path, trained):
    images = tmp_path / "images"
    shutil.copytree(Path(IMAGE).parent, images)
    run = trained("boxes", data={"images": str(images)})
    shutil.rmtree(images)
    assert "--method: patterns are learned from the run's training images: " in refused(
        "explain", run, IMAGE, "--method", "pattern-net", "-o", tmp_path / "out"
    )
