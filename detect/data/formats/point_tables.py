"""Points in tables of comma, semicolon or tab separated values: napari's, ImageJ's results, and plain ones.

A table has columns ``axis-0`` and ``axis-1`` (napari: row and column), or ``x`` and ``y``. A column with the names of images
and one with labels are optional: without, the points lie in the image that has the table's name, and are ``point``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence

from detect.data.coco_reader import Progress
from detect.data.formats.label_rows import ImageLabels, LabelBuilder, LabelRows
from detect.data.formats.label_text import numbers_of, read_text, stem_of
from detect.errors import CocoError

IMAGE_COLUMNS = ("image", "image_name", "imagename", "file_name", "filename", "file", "path", "image_path", "img")
LABEL_COLUMNS = ("label", "class", "category", "type", "name", "class_name")
NO_LABEL = "point"
SEPARATORS = (";", "\t", ",")


def table_columns(header: str) -> tuple[str, list[str]] | None:
    """The separator and lower-case columns of a table of points, from its first line; None for any other line.

    >>> table_columns("index;axis-0;axis-1")
    (';', ['index', 'axis-0', 'axis-1'])
    """
    for separator in SEPARATORS:
        columns = [column.strip().strip('"').lower() for column in header.split(separator)]
        if {"x", "y"} <= set(columns) or {"axis-0", "axis-1"} <= set(columns):
            return separator, columns
    return None


def read_point_tables(
    files: Sequence[str], *, keypoints: bool = False, on_progress: Progress | None = None
) -> LabelRows:
    """Read tables of points; each row becomes an annotation with one keypoint.

    Raises:
        CocoError: a table cannot be read, or its points have more than two axes.
    """
    labels = LabelBuilder(", ".join(files), unit="line")
    for done, file in enumerate(sorted(files), 1):
        _read_table(labels, file)
        if on_progress:
            on_progress("reading labels", done, len(files))
    return labels.rows(keypoints=keypoints)


def _read_table(labels: LabelBuilder, file: str) -> None:
    lines = read_text(file).splitlines()
    found = table_columns(lines[0]) if lines else None
    if found is None:
        raise CocoError(f"{file}: no columns x and y, or axis-0 and axis-1")
    separator, columns = found
    if "axis-2" in columns:
        raise CocoError(f"{file}: points with three axes: export those of one plane, with axis-0 and axis-1")
    x, y = (columns.index(name) for name in (("x", "y") if "x" in columns else ("axis-1", "axis-0")))
    imagej = "area" in columns or "slice" in columns or columns[0] == ""  # whose Label is the name of the image
    own = [name for name in columns if name in IMAGE_COLUMNS] or (["label"] if imagej and "label" in columns else [])
    label = next((name for name in LABEL_COLUMNS if name in columns and name not in own), None)
    images: dict[str, ImageLabels] = {}
    if not own:
        images[""] = labels.image(stem_of(file), source=file)
    for number, row in _rows(file, lines, separator):
        if not any(field.strip() for field in row):
            continue
        entry = dict(zip(columns, map(str.strip, row), strict=False))
        name = entry.get(own[0], "") if own else ""
        name = name.partition(":")[0] if imagej else name  # image.tif:0001-0002
        if name not in images:
            images[name] = labels.image(name, source=file)
        with labels.faults_of(images[name], number):
            place = [row[at] if at < len(row) else "" for at in (x, y)]
            place = [each.strip().replace(",", ".") if separator != "," else each.strip() for each in place]
            labels.point(images[name], _label(entry, label), *numbers_of(place), number=number)


def _label(entry: Mapping[str, str], column: str | None) -> str:
    return (entry.get(column) if column else None) or NO_LABEL


def _rows(file: str, lines: Sequence[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """The rows below the header, with the numbers of their lines."""
    try:
        yield from enumerate(csv.reader(lines[1:], delimiter=separator), 2)
    except csv.Error as error:
        raise CocoError(f"{file}: not a table ({error})") from None
