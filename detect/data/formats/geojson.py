"""QuPath's GeoJSON: a feature for each annotation or detection, in pixels of the image that has the file's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detect.data.coco_reader import Progress
from detect.data.formats.label_rows import LabelBuilder, LabelRows, ObjectLabels, in_order, polygon_area
from detect.data.formats.label_text import numbers_of, read_json, stem_of
from detect.errors import CocoError

NO_CLASS = "unclassified"


def read_geojson(files: Sequence[str], *, keypoints: bool = False, on_progress: Progress | None = None) -> LabelRows:
    """Read GeoJSON files. Points become keypoints; a polygon becomes its box, each part of a multipolygon one of its own.

    Raises:
        CocoError: a file cannot be read or has no features.
    """
    labels = LabelBuilder(", ".join(files), unit="feature")
    for file in in_order(files, on_progress):
        content = read_json(file)
        features = content.get("features", [content]) if isinstance(content, Mapping) else content
        if not isinstance(features, list) or not all(isinstance(each, Mapping) for each in features):
            raise CocoError(f"{file}: no list of features, as GeoJSON has")
        image = labels.image(stem_of(file), source=file)
        for number, feature in enumerate(features, 1):
            with image.object(number) as found:
                _read_feature(found, feature)
    return labels.rows(keypoints=keypoints)


def _read_feature(found: ObjectLabels, feature: Mapping[str, Any]) -> None:
    geometry, properties = feature.get("geometry"), feature.get("properties")
    if not isinstance(geometry, Mapping) or not isinstance(geometry.get("coordinates"), list):
        raise ValueError("it has no geometry with coordinates")
    given = properties.get("classification") if isinstance(properties, Mapping) else None
    label = (given.get("name") if isinstance(given, Mapping) else given) or NO_CLASS
    kind, places = geometry.get("type"), geometry["coordinates"]
    if kind in ("Point", "MultiPoint"):
        for place in [places] if kind == "Point" else places:
            x, y = numbers_of(place[:2])
            found.point(label, x, y)
    elif kind in ("Polygon", "MultiPolygon"):
        for rings in [places] if kind == "Polygon" else places:
            outer, *holes = [[numbers_of(place[:2]) for place in ring] for ring in rings]
            found.polygon(label, outer, holes=sum(map(polygon_area, holes)))
    else:
        raise ValueError(f"a {str(kind)[:40]} is neither points nor polygons")
