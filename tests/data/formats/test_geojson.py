"""QuPath's GeoJSON: points, polygons with holes and in parts, classes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import findings_below, label_folder, labels_in_words

from detect.data.read_dataset import read_dataset

RING = [[1, 1], [5, 1], [5, 7], [1, 7], [1, 1]]
HOLE = [[2, 2], [3, 2], [3, 3], [2, 3], [2, 2]]


def feature(kind: str, coordinates: Any, **properties: Any) -> dict[str, Any]:
    found = {"objectType": "annotation", "classification": {"name": "Tumor", "color": [1, 2, 3]}, **properties}
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": found}


PLACE = "a.geojson, feature 1: annotation 1, image 1: "
FEATURES: dict[str, tuple[Any, list[str], list[str]]] = {
    "a point": (feature("Point", [3, 4]), ["Tumor 2.5 3.5 1 1 3 4 2"], []),
    "points": (feature("MultiPoint", [[3, 4], [5, 6]]), ["Tumor 2.5 3.5 1 1 3 4 2", "Tumor 4.5 5.5 1 1 5 6 2"], []),
    "a polygon": (feature("Polygon", [RING, HOLE]), ["Tumor 1 1 4 6"], []),
    "a polygon in parts": (feature("MultiPolygon", [[RING], [HOLE]]), ["Tumor 1 1 4 6", "Tumor 2 2 1 1"], []),
    "no class": (feature("Point", [3, 4], classification=None), ["unclassified 2.5 3.5 1 1 3 4 2"], []),
    "a line": (feature("LineString", [[3, 4], [5, 6]]), [], [f"{PLACE}a LineString is neither points nor polygons"]),
    "no geometry": ({"type": "Feature", "geometry": None}, [], [f"{PLACE}it has no geometry with coordinates"]),
}


@pytest.mark.parametrize("form", ["a collection", "a list"])
@pytest.mark.parametrize("kind", FEATURES)
def test_what_is_kept_and_said_of_a_feature(tmp_path, kind, form):
    one, annotations, invalid = FEATURES[kind]
    content = [one] if form == "a list" else {"type": "FeatureCollection", "features": [one]}
    label_folder(tmp_path, {"a.geojson": json.dumps(content), "a.png": (100, 50)})
    dataset = read_dataset(tmp_path / "a.geojson", images=tmp_path, keypoints=True)
    assert labels_in_words(dataset) == [f"a.png: {each}" for each in annotations]
    assert findings_below(tmp_path, dataset.invalid) == invalid


def test_the_area_of_a_polygon_is_without_its_hole(tmp_path):
    label_folder(tmp_path, {"a.geojson": json.dumps(feature("Polygon", [RING, HOLE])), "a.png": (100, 50)})
    assert read_dataset(tmp_path / "a.geojson", images=tmp_path).instances.area.tolist() == [23.0]
