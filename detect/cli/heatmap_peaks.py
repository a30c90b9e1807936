"""``detect heatmaps peaks``: the points of maps or volumes in a file of any size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detect.cli.options import AsJson, Output, expert
from detect.cli.output import length, note, numbers, print_answer, reading_bar, save, show
from detect.errors import ConfigError

if TYPE_CHECKING:
    from detect.data.point_files import FoundPoints
    from detect.data.volumes import ArrayFile
    from detect.keypoints.peaks import Peaks

PointFormat = Literal["csv", "napari", "geojson", "coco"]
To = Annotated[
    PointFormat,
    typer.Option(
        "--to", help="Format of the points: plain CSV, napari's CSV, QuPath's GeoJSON, COCO keypoint results."
    ),
]
MAX_SPLIT_CELLS = 2**27  # 1 GB in double precision


def peaks(
    *,
    maps: Annotated[
        Path,
        typer.Argument(
            metavar="MAPS",
            help="Maps or a volume: .npy, .npz, TIFF, OME-TIFF, or a folder of zarr or OME-Zarr. Values from 0 to 1; "
            "uint8 is divided by 255, uint16 by 65,535.",
        ),
    ],
    to: To = "csv",
    threshold: Annotated[float, typer.Option(min=-1e9, max=1e9, help="The value of a point is above it.")] = 0.3,
    min_distance: Annotated[
        str, typer.Option(help="The least distance of two points, in cells, or in micrometres as in 4um.")
    ] = "2",
    stride: Annotated[str, typer.Option(help="Image pixels per cell, one number or x,y[,z].")] = "1",
    spacing: Annotated[
        str | None, typer.Option(help="Micrometres per cell, one number or x,y[,z]. Default: what the file says.")
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(
            help="The file's axes in its order, one letter each: x, y, z, and c for keypoint types, such as cyx for maps "
            "of several types. Default: what the file says, else yx, zyx or czyx."
        ),
    ] = None,
    split: Annotated[
        bool,
        typer.Option("--split", help="Fit close points together, also those that share one maximum; needs --sigma."),
    ] = False,
    sigma: Annotated[
        str | None,
        typer.Option(help="For --split: standard deviation of the Gaussians in cells, one number or x,y[,z]."),
    ] = None,
    max_peaks: Annotated[int | None, expert(min=1, help="Points kept of each type, the highest first.")] = None,
    output: Output = None,
    json: AsJson = False,
) -> None:
    """Find the points of maps or volumes, also of files larger than memory.

    `detect heatmaps peaks maps.zarr --threshold 0.3 --stride 2 --to geojson -o points`

    A point is a cell or plateau without a higher neighbour, located between cells by the values around it. Files are read
    tile by tile, with the points of the whole map. The points are in image pixels; each file says in `pixel_origin`
    whether whole coordinates are pixel centres (CSV, napari, COCO) or corners (GeoJSON, as QuPath has it). Without -o it
    only counts. --split reads a map as a whole, since close points move each other along chains.
    """
    from detect.data.point_files import point_files
    from detect.data.volumes import open_array
    from detect.keypoints.tiled_peaks import default_tile, find_tiled_peaks

    array = open_array(maps, axes=axes)
    array.check_maps()
    per_cell = along_axes(spacing, "--spacing", len(array.extents)) if spacing else array.spacing_xyz
    strides = along_axes(stride, "--stride", len(array.extents))
    distance: dict[str, Any] = _distance(min_distance, per_cell, maps)
    options: dict[str, Any] = {"threshold": threshold, "max_peaks": max_peaks, **distance}
    if split or sigma:
        found = _find_split(array, sigma, is_split=split, **options)
    else:
        tile = default_tile(array.extents, max(piece_sides(array), default=1))
        with reading_bar() as on_progress:
            options |= {"num_types": array.num_channels, "tile": tile, "on_progress": on_progress}
            found = find_tiled_peaks(read_tensors(array), array.extents, **options)
    points = _points(array, found, strides, per_cell)
    if len(points.scores) and points.scores.max() > 1:
        note(
            f"note: values up to {points.scores.max():g}: maps of probabilities end at 1, and --threshold is on their scale"
        )
    files = point_files(points, to)
    content = {"points": len(points.scores), "by_type": points.counts(), "files": [*files] if output else []}
    print_answer(json, lambda: content, lambda: show(_sentence(array, points)))
    if output:
        save(output, files)


def _find_split(array: ArrayFile, sigma: str | None, *, is_split: bool, threshold: float, **options: Any) -> Peaks:
    """The points of a whole map, with those that share a maximum."""
    from detect.keypoints.peaks import find_peaks

    if not is_split or sigma is None:
        raise ConfigError("--split and --sigma: give both")
    if not 0 < threshold < 1:
        raise ConfigError(f"--split: needs a --threshold between 0 and 1, got {threshold:g}")
    num_cells = math.prod(array.extents) * array.num_channels
    if num_cells > MAX_SPLIT_CELLS:
        raise ConfigError(
            f"--split: {array.path} has {num_cells:,} cells, more than {MAX_SPLIT_CELLS:,}, which are read at once: close "
            "points move each other along chains, so that no tile has the points of the whole map"
        )
    sigmas = along_axes(sigma, "--sigma", len(array.extents))
    maps = read_tensors(array)([slice(0, extent) for extent in array.extents])[None]
    return find_peaks(maps, threshold=threshold, split=True, sigma=sigmas, **options)


def piece_sides(array: ArrayFile) -> list[int]:
    """The extents of a file's chunks along x and y."""
    return [array.pieces[array.axes.index(axis)] for axis in "xy"] if array.pieces else []


def read_tensors(array: ArrayFile) -> Any:
    """A function that reads windows of maps as tensors."""
    import torch

    return lambda window: torch.from_numpy(array.as_maps(array.read(window)))


def _points(array: ArrayFile, found: Peaks, strides: list[float], per_cell: Any) -> FoundPoints:
    from detect.data.point_files import FoundPoints

    names = [f"type {number}" for number in range(array.num_channels)] if array.num_channels > 1 else ["point"]
    sizes = [round(extent * each) for extent, each in zip(reversed(array.extents), strides, strict=False)]
    return FoundPoints(
        array.path.name,
        (sizes[0], sizes[1]),
        found.in_image(strides).double().numpy(),
        found.scores.double().numpy(),
        found.types.numpy(),
        names,
        [(number + 1, 0, 1) for number in range(len(names))],
        dict(enumerate(names, 1)),
        None if per_cell is None else [size / each for size, each in zip(per_cell, strides, strict=True)],
    )


def along_axes(text: str, option: str, num_axes: int) -> list[float]:
    """One number for each axis x, y[, z]."""
    found = numbers(text, option, least=1e-6)
    if len(found) not in {1, num_axes}:
        raise ConfigError(
            f"{option}: expected one number, or {num_axes} for {', '.join('xyz'[:num_axes])}, got {text!r}"
        )
    return found * num_axes if len(found) == 1 else found


def _distance(text: str, per_cell: Any, maps: Path) -> dict[str, Any]:
    """The least distance of points and the size of cells in its unit."""
    value, is_physical = length(text, "--min-distance", least=0)
    if not is_physical:
        return {"min_distance": value}
    if per_cell is None:
        raise ConfigError(f"--min-distance {text}: {maps} does not say how large its cells are: give --spacing")
    return {"min_distance": value, "spacing": per_cell}


def _sentence(array: ArrayFile, points: FoundPoints) -> str:
    from detect.data.volumes import SCALES
    from detect.wording import plural

    size = " x ".join(f"{extent:,}" for extent in reversed(array.extents))
    text = f"{plural(len(points.scores), 'point')} in {size} cells"
    if len(points.type_names) > 1:
        text += f" ({', '.join(f'{name}: {count:,}' for name, count in points.counts().items())})"
    scale = SCALES.get(array.dtype.name)
    return text + (f"; {array.dtype} divided by {scale:,}" if scale else "")
