"""``detect heatmaps peaks`` as a user types it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from detect.cli import heatmap_peaks
from detect.keypoints.peaks import find_peaks

tifffile = pytest.importorskip("tifffile")
zarr = pytest.importorskip("zarr")

POINTS = [(30.3, 40.7), (12.0, 55.5), (90.25, 5.0)]


def gaussians(points=POINTS, hw=(70, 100), sigma: float = 2.0) -> np.ndarray:
    y, x = np.mgrid[: hw[0], : hw[1]]
    each = [np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * sigma**2)) for column, row in points]
    return np.max(each, axis=0).astype(np.float32)


@pytest.fixture
def maps(tmp_path):
    np.save(tmp_path / "maps.npy", gaussians())
    return tmp_path / "maps.npy"


def rows(path):
    with path.open() as stream:
        return [[float(row[name]) for name in row if name in "xyz"] for row in csv.DictReader(stream)]


def test_points_are_written_in_pixels_of_the_image(detect, maps, tmp_path):
    run = detect("heatmaps", "peaks", maps, "--stride", 4, "-o", tmp_path / "out")
    assert (run.code, run.out) == (0, "3 points in 100 x 70 cells\n")
    wanted = sorted([(x + 0.5) * 4 - 0.5, (y + 0.5) * 4 - 0.5] for x, y in POINTS)
    assert np.abs(np.array(sorted(rows(tmp_path / "out" / "maps.csv"))) - wanted).max() < 0.01


@pytest.mark.parametrize(
    ("to", "names"),
    [("napari", {"maps.csv"}), ("geojson", {"maps.geojson"}), ("coco", {"results.json", "images.json"})],
)
def test_each_format_has_its_files(detect, maps, tmp_path, to, names):
    run = detect("heatmaps", "peaks", maps, "--to", to, "-o", tmp_path / "out", "--json")
    assert run.json["points"] == 3
    assert set(run.json["files"]) == names == {path.name for path in (tmp_path / "out").iterdir()}


def test_the_results_can_be_scored(detect, maps, tmp_path):
    detect("heatmaps", "peaks", maps, "--to", "coco", "-o", tmp_path / "out")
    truth = json.loads((tmp_path / "out" / "images.json").read_text())
    for number, (x, y) in enumerate(POINTS, 1):
        entry = {"id": number, "image_id": 1, "category_id": 1, "bbox": [x, y, 1, 1], "keypoints": [x, y, 2]}
        truth["annotations"].append({**entry, "num_keypoints": 1, "area": 1, "iscrowd": 0})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    results = ("--results", tmp_path / "out" / "results.json", "--radius", 0.1)
    run = detect("heatmaps", "score", tmp_path / "truth.json", *results, "--json")
    assert run.json["overall"][0]["micro"]["f1"] == 1.0


def test_integers_are_divided_by_the_highest_of_their_type(detect, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", (gaussians() * 255).round().astype(np.uint8), tile=(32, 32))
    run = detect("heatmaps", "peaks", tmp_path / "a.tif", "--threshold", 0.9)
    assert run.out == "3 points in 100 x 70 cells; uint8 divided by 255\n"
    np.save(tmp_path / "b.npy", gaussians() * 200)
    run = detect("heatmaps", "peaks", tmp_path / "b.npy")
    assert "values up to 198.444: maps of probabilities end at 1" in run.err


def test_close_points_are_split_in_maps_that_fit_into_memory(detect, refused, tmp_path, monkeypatch):
    close = gaussians([(30.2, 30.0), (31.4, 30.0), (80.0, 20.0)])  # one maximum for the first two
    np.save(tmp_path / "a.npy", close)
    command = ("heatmaps", "peaks", tmp_path / "a.npy", "-o", tmp_path / "out")
    assert detect(*command, "--json").json["points"] == 2
    assert detect(*command, "--split", "--sigma", 2, "--json").json["points"] == 3
    wanted = find_peaks(close[None, None], threshold=0.3, min_distance=2.0, split=True, sigma=2.0).cells
    assert np.abs(np.array(rows(tmp_path / "out" / "a.csv")) - wanted).max() < 1e-4
    monkeypatch.setattr(heatmap_peaks, "MAX_SPLIT_CELLS", 6999)
    for options, message in (
        (
            ("--split", "--sigma", "2"),
            "a.npy has 7,000 cells, more than 6,999, which are read at once: close points move",
        ),
        (("--split",), "--split and --sigma: give both"),
        (("--sigma", "2"), "--split and --sigma: give both"),
        (("--split", "--sigma", "2", "--threshold", "1"), "--split: needs a --threshold between 0 and 1, got 1"),
    ):
        assert message in refused(*command, *options)


def test_types_are_the_axis_that_the_user_names(detect, tmp_path):
    np.save(tmp_path / "a.npy", np.stack([gaussians(), gaussians(POINTS[:1])]))
    run = detect("heatmaps", "peaks", tmp_path / "a.npy", "--axes", "cyx", "--json")
    assert run.json["by_type"] == {"type 0": 3, "type 1": 1}


def test_a_volume_with_distances_in_micrometres(detect, tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(12, 40, 60), chunks=(4, 16, 16), dtype="float32")
    for z, y, x, value in ((3, 20, 20, 0.9), (5, 20, 20, 0.8), (3, 20, 24, 0.7)):
        array[z, y, x] = value
    arguments = ("heatmaps", "peaks", tmp_path / "a.zarr", "-o", tmp_path / "out", "--spacing", "0.5,0.5,2")
    assert detect(*arguments, "--json").json["points"] == 3
    assert detect(*arguments, "--min-distance", "3um", "--json").json["points"] == 2  # 2 and 4 micrometres away
    assert rows(tmp_path / "out" / "a.csv") == [[20.0, 20.0, 3.0], [20.0, 20.0, 5.0]]
    header = (tmp_path / "out" / "a.csv").read_text().splitlines()[0]
    assert header == "x,y,z,score,type,x_um,y_um,z_um,pixel_origin"
    assert detect(*arguments, "--min-distance", "3", "--json").json["points"] == 2  # the one in the next slice but one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--min-distance", "3um"), "does not say how large its cells are: give --spacing"),
        (("--min-distance", "1,2"), "--min-distance: expected one number"),
        (("--spacing", "1,2,3"), "--spacing: expected one number, or 2 for x, y"),
        (("--stride", "0"), "--stride: expected numbers"),
        (("--axes", "zyx"), "--axes takes one letter for each"),
    ],
)
def test_mistakes_are_one_line(refused, maps, tmp_path, arguments, message):
    assert message in refused("heatmaps", "peaks", maps, "-o", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_points_of_a_volume_do_not_fit_formats_of_images(refused, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 5), np.float32))
    assert "for points in volumes use csv or napari" in refused(
        "heatmaps", "peaks", tmp_path / "a.npy", "--to", "geojson", "-o", tmp_path / "out"
    )
