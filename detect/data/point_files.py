"""Points found in one image, map or slide as files: plain CSV, napari's CSV, QuPath's GeoJSON, COCO keypoint results.

Each file states where whole coordinates lie, in a field ``pixel_origin``: ``center`` means that the first pixel's centre is
(0, 0), ``corner`` that its corner is. napari reads centres and QuPath corners, so that their files always have that; in the
others it is the caller's choice. Coordinates are rounded to a ten-thousandth of a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.conventions import ORIGIN_SHIFTS, TYPE_COLORS
from detect.errors import ConfigError
from detect.text_formats import csv_text

DIGITS = 4
FIXED_ORIGIN = {"napari": "center", "geojson": "corner"}
MEANING = {
    "center": "pixel_origin center: whole coordinates are pixel centres, the first pixel's is (0, 0)",
    "corner": "pixel_origin corner: whole coordinates are pixel corners, the first pixel's is (0, 0)",
}


@dataclass(frozen=True, eq=False)
class FoundPoints:
    """Points (x, y[, z]) in pixels of an image, in pixel indices whatever the file will have, with scores and types.

    ``image`` is the image's name, without folder. ``categories`` have for each type the category's id, the type's place
    among the keypoints of the category, and their number. ``spacing`` is in micrometres per pixel, along x, y[, z].
    """

    image: str
    image_wh: tuple[int, int]
    points: Float64[ndarray, "n D"]
    scores: Float64[ndarray, " n"]
    types: Int64[ndarray, " n"]
    type_names: Sequence[str]
    categories: Sequence[tuple[int, int, int]]
    category_names: Mapping[int, str]
    spacing: Sequence[float] | None = None

    def counts(self) -> dict[str, int]:
        """The number of points of each type."""
        counts = np.bincount(self.types, minlength=len(self.type_names)).tolist()
        return dict(zip(self.type_names, counts, strict=True))

    def moved(self, pixel_origin: str) -> Float64[ndarray, "n D"]:
        """The points in this convention, as they are written."""
        return (self.points + (ORIGIN_SHIFTS["center"] - ORIGIN_SHIFTS[pixel_origin])).round(DIGITS)


def point_files(found: FoundPoints, to: str, *, pixel_origin: str = "center") -> dict[str, bytes]:
    """The files of points by name, in a format of ``FORMATS``; those of napari and QuPath follow ``FIXED_ORIGIN``.

    >>> where = {"image": "a.tif", "image_wh": (9, 9), "points": np.array([[3.0, 4.5]])}
    >>> types = {"types": np.array([0]), "type_names": ["cell"], "categories": [(1, 0, 1)], "category_names": {1: "cell"}}
    >>> found = FoundPoints(**where, scores=np.array([0.9]), **types)
    >>> print(point_files(found, "csv")["a.csv"].decode())
    x,y,score,type,pixel_origin
    3.0,4.5,0.9,cell,center
    <BLANKLINE>

    Raises:
        ConfigError: the format has no place for points in volumes.
    """
    if found.points.shape[1] > 2 and to in {"coco", "geojson"}:
        raise ConfigError(f"--to {to}: it has points (x, y) alone; for points in volumes use csv or napari")
    return FORMATS[to](found, FIXED_ORIGIN.get(to, pixel_origin))


def _csv(found: FoundPoints, origin: str) -> dict[str, bytes]:
    """Columns x, y[, z], score, type; and in micrometres, x times the pixel's size, if that is known."""
    axes, points = "xyz"[: found.points.shape[1]], found.moved(origin)
    header, columns = [*axes, "score", "type"], [*points.T.tolist(), found.scores.tolist(), _names(found)]
    if found.spacing is not None:
        header += [f"{axis}_um" for axis in axes]
        columns += (points * np.array(found.spacing)).round(DIGITS).T.tolist()
    return {f"{image_stem(found.image)}.csv": _table([*header, "pixel_origin"], [*columns, [origin] * len(points)])}


def _napari(found: FoundPoints, origin: str) -> dict[str, bytes]:
    """napari's points layer: an index, then axes in the order of arrays; further columns become the points' features."""
    points = found.moved(origin)[:, ::-1]
    header = ["index", *(f"axis-{axis}" for axis in range(points.shape[1])), "score", "type", "pixel_origin"]
    columns = [range(len(points)), *points.T.tolist(), found.scores.tolist(), _names(found), [origin] * len(points)]
    return {f"{image_stem(found.image)}.csv": _table(header, columns)}


def _geojson(found: FoundPoints, origin: str) -> dict[str, bytes]:
    """A detection of QuPath for each point, with its class and its score as a measurement.

    From version 0.4 on QuPath writes classes with a colour and measurements as an object (its pull request 1099); a class
    without a colour is an error when it reads the file.
    """
    colors = [[*bytes.fromhex(color[1:])] for color in TYPE_COLORS]
    classes = [{"name": name, "color": colors[number % len(colors)]} for number, name in enumerate(found.type_names)]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": point},
            "properties": {
                "objectType": "detection",
                "classification": classes[number],
                "measurements": {"score": score},
            },
        }
        for point, score, number in zip(
            found.moved(origin).tolist(), found.scores.tolist(), found.types.tolist(), strict=True
        )
    ]
    content = {"type": "FeatureCollection", "pixel_origin": origin, "image": found.image, "features": features}
    return {f"{image_stem(found.image)}.geojson": msgspec.json.encode(content)}


def _coco(found: FoundPoints, origin: str) -> dict[str, bytes]:
    """``results.json``, one result for each point, and ``images.json``, to which it refers and which has the convention."""
    entries: list[dict[str, Any]] = []
    for (x, y), score, number in zip(
        found.moved(origin).tolist(), found.scores.tolist(), found.types.tolist(), strict=True
    ):
        category, place, count = found.categories[number]
        keypoints = [0.0] * (3 * count)  # those of other types are not predicted
        keypoints[3 * place : 3 * place + 3] = x, y, 1.0
        entries.append({"image_id": 1, "category_id": category, "keypoints": keypoints, "score": score})
    categories: list[dict[str, Any]] = []
    for category, name in found.category_names.items():
        own = [found.type_names[number] for number, each in enumerate(found.categories) if each[0] == category]
        categories.append({"id": category, "name": name, "keypoints": own, "skeleton": []})
    width, height = found.image_wh
    images = {
        "info": {"description": MEANING[origin], "pixel_origin": origin},
        "images": [{"id": 1, "width": width, "height": height, "file_name": found.image}],
        "categories": categories,
        "annotations": [],
    }
    return {"results.json": msgspec.json.encode(entries), "images.json": msgspec.json.encode(images)}


FORMATS: dict[str, Callable[[FoundPoints, str], dict[str, bytes]]] = {
    "csv": _csv,
    "napari": _napari,
    "geojson": _geojson,
    "coco": _coco,
}


def _names(found: FoundPoints) -> list[str]:
    return [found.type_names[number] for number in found.types.tolist()]


def _table(header: Sequence[str], columns: Sequence[Sequence[Any]]) -> bytes:
    return csv_text(header, zip(*columns, strict=True)).encode()


def image_stem(name: str) -> str:
    """The name of an image without its endings.

    >>> image_stem("slide.1.ome.tif"), image_stem("maps.npy")
    ('slide.1', 'maps')
    """
    for ending in (".ome.tiff", ".ome.tif", ".ome.zarr"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name.rpartition(".")[0] or name
