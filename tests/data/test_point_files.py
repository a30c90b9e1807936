"""Files of points: each is read back by the program that it is for, with the same pixels."""

from __future__ import annotations

import csv
import importlib
import io
import json
from typing import Any

import numpy as np
import pytest
from builders import label_folder
from numpy.testing import assert_allclose

from detect.data import read_coco, read_results
from detect.data.point_files import FORMATS, FoundPoints, point_files
from detect.data.read_dataset import read_dataset
from detect.errors import ConfigError
from detect.keypoints.coco_keypoints import coco_keypoints

POINTS = np.array([[0.0, 0.0], [10.25, 3.5], [99.123456, 50.0]])  # x, y in pixel indices


def found(points: np.ndarray = POINTS, **changes: Any) -> FoundPoints:
    fields: dict[str, Any] = {
        "image": "slide.ome.tif",
        "image_wh": (100, 60),
        "points": points,
        "scores": np.array([0.9, 0.5, 0.25]),
        "types": np.array([0, 1, 0]),
        "type_names": ["head", "tail, end"],
        "categories": [(7, 0, 2), (7, 1, 2)],
        "category_names": {7: "worm"},
        **changes,
    }
    return FoundPoints(**fields)


def table(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_plain_columns_by_hand():
    rows = table(point_files(found(spacing=(0.5, 0.25)), "csv")["slide.csv"])
    assert rows[1] == {
        "x": "10.25",
        "y": "3.5",
        "score": "0.5",
        "type": "tail, end",
        "x_um": "5.125",
        "y_um": "0.875",
        "pixel_origin": "center",
    }
    assert [row["x"] for row in table(point_files(found(), "csv", pixel_origin="corner")["slide.csv"])] == [
        *("0.5", "10.75", "99.6235")
    ]


def test_napari_has_rows_before_columns_and_always_pixel_centres():
    rows = table(point_files(found(), "napari", pixel_origin="corner")["slide.csv"])
    assert [rows[1][name] for name in ("index", "axis-0", "axis-1", "pixel_origin")] == ["1", "3.5", "10.25", "center"]


def test_qupath_has_a_detection_for_each_point_and_pixel_corners():
    """QuPath's GeoJSON: features with objectType, classification by name and colour, and measurements; x before y."""
    content = json.loads(point_files(found(), "geojson")["slide.geojson"])
    assert (content["type"], content["pixel_origin"], content["image"]) == (
        "FeatureCollection",
        "corner",
        "slide.ome.tif",
    )
    assert content["features"][1] == {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [10.75, 4.0]},
        "properties": {
            "objectType": "detection",
            "classification": {"name": "tail, end", "color": [77, 171, 247]},
            "measurements": {"score": 0.5},
        },
    }


def test_coco_results_refer_to_their_image_and_leave_other_keypoints_out(tmp_path):
    for name, content in point_files(found(), "coco").items():
        (tmp_path / name).write_bytes(content)
    dataset = read_coco(tmp_path / "images.json")
    results = read_results(tmp_path / "results.json", dataset)
    assert (dataset.images.file_names, dataset.images.wh.tolist()) == (("slide.ome.tif",), [[100, 60]])
    assert [each.tolist() for each in results.keypoints][:2] == [[[0, 0, 1], [0, 0, 0]], [[0, 0, 0], [10.25, 3.5, 1]]]
    assert results.category_ids.tolist() == [7, 7, 7]
    content = json.loads((tmp_path / "images.json").read_text())
    assert content["info"]["pixel_origin"] == "center"
    assert content["categories"] == [{"id": 7, "name": "worm", "keypoints": ["head", "tail, end"], "skeleton": []}]


def test_coco_results_load_in_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    for name, content in point_files(found(), "coco").items():
        (tmp_path / name).write_bytes(content)
    loaded = COCO(str(tmp_path / "images.json")).loadRes(str(tmp_path / "results.json"))
    assert next(each["keypoints"][:2] for each in loaded.anns.values()) == [0, 0]


@pytest.mark.parametrize(
    ("to", "origin"), [("csv", "center"), ("csv", "corner"), ("napari", "center"), ("geojson", "corner")]
)
def test_the_package_itself_reads_the_same_points_back(tmp_path, to, origin):
    (name, content), *_ = point_files(found(), to, pixel_origin=origin).items()
    label_folder(tmp_path, {name: content, "slide.png": (100, 60)})
    points = coco_keypoints(read_dataset(tmp_path / name, images=tmp_path, keypoints=True)).landmarks.points
    assert_allclose(sorted(points.tolist()), sorted(POINTS.tolist()), atol=1e-4)


def test_napari_reads_its_file_itself(tmp_path):
    try:
        reader = importlib.import_module("napari_builtins.io")
    except ImportError:
        pytest.skip("napari is not installed")
    volume = np.array([[1.0, 2.0, 3.0], [4.5, 5.0, 6.0], [7.0, 8.0, 9.0]])
    (name, content), *_ = point_files(found(volume), "napari").items()
    (tmp_path / name).write_bytes(content)
    data, about, kind = reader.csv_to_layer_data(str(tmp_path / name), require_type="points")
    assert kind == "points"
    assert_allclose(data, volume[:, ::-1])
    assert_allclose(about["properties"]["score"], [0.9, 0.5, 0.25])
    assert about["properties"]["pixel_origin"].tolist() == ["center"] * 3


def test_volumes_have_three_coordinates_where_the_format_has_them():
    volume = found(np.array([[1.0, 2.0, 3.0]] * 3), spacing=(1.0, 1.0, 4.0))
    row = table(point_files(volume, "csv")["slide.csv"])[0]
    assert [row[name] for name in ("x", "y", "z", "z_um")] == ["1.0", "2.0", "3.0", "12.0"]
    for to in ("coco", "geojson"):
        with pytest.raises(
            ConfigError, match=rf"--to {to}: it has points \(x, y\) alone; for points in volumes use csv or napari"
        ):
            point_files(volume, to)


@pytest.mark.parametrize("to", FORMATS)
def test_no_points_are_a_file_too(to):
    none = found(np.zeros((0, 2)), scores=np.zeros(0), types=np.zeros(0, np.int64))
    files = point_files(none, to)
    assert all(files.values())
    assert none.counts() == {"head": 0, "tail, end": 0}
