"""``detect heatmaps render`` as a user types it: shards, pictures, counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import points_dataset, written
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from detect.keypoints.targets import render_heatmaps
from detect.samples import sample_annotations

NUCLEI = sample_annotations("nuclei")
IMAGES = NUCLEI.parent / "images"
CONTENT = json.loads(NUCLEI.read_text("utf-8"))
POINTS = {  # of each image, in the order of annotation ids, straight from the file
    image["id"]: [entry["keypoints"][:2] for entry in CONTENT["annotations"] if entry["image_id"] == image["id"]]
    for image in CONTENT["images"]
}


@pytest.mark.parametrize("pack", ["npz", "pt"])
def test_shards_hold_the_maps_of_all_images_and_are_read_without_running_code(detect, tmp_path, pack):
    out = tmp_path / "out"
    assert detect("heatmaps", "render", NUCLEI, "-o", out, "--per-shard", 30, "--pack", pack, "--stride", 2).code == 0
    names = [f"targets-{number:05}.{pack}" for number in range(3)]
    assert sorted(path.name for path in out.iterdir()) == ["overlays.png", *names, "targets.json"]
    seen: list[int] = []
    for name in names:
        path = out / name
        shard = torch.load(path, weights_only=True) if pack == "pt" else np.load(path, allow_pickle=False)
        ids = shard["image_ids"].tolist()
        expected = render_heatmaps([np.array(POINTS[own]).reshape(-1, 2) for own in ids], (128, 128), stride=2)
        assert_array_equal(np.asarray(shard["heatmaps"]), expected.heatmaps)
        assert_array_equal(np.asarray(shard["positives"]), expected.positives)
        assert_array_equal(np.asarray(shard["offsets"]), expected.offsets)
        assert list(shard["type_names"]) == ["nucleus"]
        assert (float(shard["stride"]), str(shard["pixel_origin"])) == (2.0, "center")
        seen += ids
    assert sorted(seen) == sorted(POINTS)


def test_rows_of_a_shard_belong_to_their_annotations(detect, tmp_path):
    detect("heatmaps", "render", NUCLEI, "-o", tmp_path, "--num-pictures", 0, "--per-shard", 20)
    by_id = {entry["id"]: entry for entry in CONTENT["annotations"]}
    shard = np.load(tmp_path / "targets-00002.npz")
    names = {image["id"]: image["file_name"] for image in CONTENT["images"]}
    assert [names[own] for own in shard["image_ids"].tolist()] == shard["file_names"].tolist()
    place = shard["positives"][:, :1:-1] + shard["offsets"]  # column, row
    assert len(place) > 50
    for own, cell, size in zip(shard["annotation_ids"].tolist(), place, shard["sizes"], strict=True):
        x, y = by_id[own]["keypoints"][:2]
        assert_allclose(cell, [(x + 0.5) / 4 - 0.5, (y + 0.5) / 4 - 0.5], atol=1e-5)
        assert_allclose(size, np.array(by_id[own]["bbox"][2:]) / 4)


def test_crowds_have_weight_0_but_for_the_points_in_them(detect, tmp_path, truth):
    detect("heatmaps", "render", truth, "-o", tmp_path / "out", "--shape", "pixel")
    shard = np.load(tmp_path / "out" / "targets-00000.npz")
    assert_array_equal(shard["weights"][:3], 1)
    expected = np.ones((25, 25))
    expected[:11, :11] = 0  # box 0 to 40 - .5 for pixel indices: cell 10 covers 40 to 44, its edge is touched at most
    expected[7, 7] = 1  # the point (30, 30)
    found = shard["weights"][3, 0]
    assert_array_equal(found[:10, :10], expected[:10, :10])
    assert_array_equal(found[11:], 1)
    assert_array_equal(found[:, 11:], 1)


def test_the_index_counts_what_is_in_the_files(detect, tmp_path):
    content = points_dataset()
    content["annotations"][0]["keypoints"] = [10, 10, 1]  # hidden
    content["annotations"][1]["keypoints"] = [120, 50, 2]  # outside
    content["images"][2]["width"] = 60  # a file of its own
    path = written(tmp_path / "a.json", content)
    printed = detect("heatmaps", "render", path, "-o", tmp_path / "out", "--occluded", "ignore", "--json").json
    index = json.loads((tmp_path / "out" / "targets.json").read_text("utf-8"))
    assert printed == index
    assert {
        name: index[name] for name in ("images", "drawn", "outside", "ignored", "unlabelled", "ignored_regions")
    } == {
        "images": 4,
        "drawn": 2,
        "outside": 1,
        "ignored": 1,
        "unlabelled": 0,
        "ignored_regions": 1,
    }
    assert sorted((each["images"], each["map_hw"]) for each in index["files"]) == [(1, [25, 15]), (3, [25, 25])]
    for each in index["files"]:
        shard = np.load(tmp_path / "out" / each["file"])
        assert list(shard["heatmaps"].shape) == [each["images"], 1, *each["map_hw"]]
        assert len(shard["positives"]) == each["drawn"]


def test_boxes_are_points_of_their_categories_with_gaussians_of_their_size(detect, tmp_path, truth):
    detect(
        "heatmaps", "render", truth, "--from", "boxes", "--sigma-of-size", 0.5, "--sigma", 0.5, "-o", tmp_path / "out"
    )
    shard = np.load(tmp_path / "out" / "targets-00000.npz")
    assert str(shard["pixel_origin"]) == "corner"
    # the box (5, 6) to (15, 14): centre (10, 10), in cells 2; sigmas .5 * (10, 8) / 4 = 1.25, 1
    row, column = np.mgrid[:5, :5]
    gaussian = np.exp(-(((column - 2) / 1.25) ** 2 + (row - 2) ** 2) / 2)
    assert_allclose(shard["heatmaps"][0, 0, :5, :5], gaussian, rtol=1e-5)


def test_pictures_show_images_and_maps(detect, tmp_path):
    detect("heatmaps", "render", NUCLEI, "--images", IMAGES, "-o", tmp_path / "with", "--num-pictures", 5)
    detect("heatmaps", "render", NUCLEI, "-o", tmp_path / "without", "--num-pictures", 5)
    sheets = [np.asarray(Image.open(tmp_path / name / "overlays.png")) for name in ("with", "without")]
    assert sheets[0].shape == sheets[1].shape == (2 * 520 + 8, 4 * 520 + 8, 3)
    assert (sheets[0] != sheets[1]).mean() > 0.3
    assert (sheets[1] == 70).mean() > 0.3  # the grey ground


@pytest.mark.parametrize(("source", "x"), [("keypoints", 10.5), ("boxes", 10.0)])
def test_pictures_mark_points_where_they_are_in_continuous_pixels(detect, tmp_path, source, x):
    path = written(
        tmp_path / "one.json", points_dataset(annotations=points_dataset()["annotations"][:1])
    )  # at pixel (10, 10)
    detect("heatmaps", "render", path, "--from", source, "-o", tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out" / "overlays.png"))[8:508, 8:508]  # enlarged 5 times
    for places in np.nonzero((picture == 255).all(axis=2)):
        assert (places.min() + places.max() + 1) / 2 == pytest.approx(x * 5, abs=0.5)


def test_without_a_folder_it_counts_and_writes_nothing(detect, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = detect("heatmaps", "render", NUCLEI)
    assert "318 points drawn in 80 images, 1 map each (nucleus); 0 share the cell" in result.out
    assert list(tmp_path.iterdir()) == []


def test_files_of_another_run_are_told(detect, tmp_path, truth):
    assert "another run" not in detect("heatmaps", "render", truth, "-o", tmp_path / "out", "--per-shard", 1).err
    again = detect("heatmaps", "render", truth, "-o", tmp_path / "out", "--per-shard", 2)
    assert "also holds 2 files of another run, such as targets-00002.npz" in again.err


def test_images_that_cannot_be_shown_stop_it_before_anything_is_written(refused, tmp_path):
    shutil.copytree(IMAGES, tmp_path / "images")
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    images, out = ("--images", tmp_path / "images"), tmp_path / "out"
    assert "truncated" in refused("heatmaps", "render", NUCLEI, *images, "-o", out)
    assert not out.exists()


def angled(path: Path) -> Path:
    """Three points with angles of 30 degrees, none, and 200 degrees."""
    content = points_dataset()
    content["annotations"][0]["angle"], content["annotations"][2]["angle"] = 30.0, 200.0
    return written(path, content)


@pytest.mark.parametrize(("orientation", "factor"), [("directed", 1), ("axis", 2)])
def test_orientations_are_cosine_and_sine_and_unknown_without_an_angle(detect, tmp_path, orientation, factor):
    run = detect(
        *("heatmaps", "render", angled(tmp_path / "a.json"), "--orientation", orientation, "-o", tmp_path / "out")
    )
    assert run.code == 0
    assert "angles are 'angle', in degrees, clockwise on screen, 0 to the right: 2 of " in run.err
    assert " without an angle" in run.out
    shard = np.load(tmp_path / "out" / "targets-00000.npz")
    found = dict(zip(shard["annotation_ids"].tolist(), shard["orientations"].tolist(), strict=True))
    for number, angle in ((1, 30.0), (3, 200.0)):
        turned = np.deg2rad(factor * angle)
        assert_allclose(found[number], [np.cos(turned), np.sin(turned)], atol=1e-6)
    assert np.isnan([each for number, each in found.items() if number not in {1, 3}]).all()
    index = json.loads((tmp_path / "out" / "targets.json").read_text("utf-8"))
    assert (index["orientation"], index["without_angle"]) == (orientation, len(found) - 2)


def test_without_orientation_there_are_no_orientations(detect, tmp_path):
    detect("heatmaps", "render", angled(tmp_path / "a.json"), "-o", tmp_path / "out")
    assert "orientations" not in np.load(tmp_path / "out" / "targets-00000.npz")
    index = json.loads((tmp_path / "out" / "targets.json").read_text("utf-8"))
    assert (index["orientation"], "without_angle" in index) == ("none", False)
