"""Points in tables of comma, semicolon or tab separated values: napari's, ImageJ's results, and plain ones.

A table has columns ``axis-0`` and ``axis-1`` (napari: row and column), or ``x`` and ``y``; in volumes three of either kind.
A column with the names of images and one with labels are optional: without, the points lie in the image that has the table's
name, and are ``point``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.conventions import ORIGIN_SHIFTS
from detect.data.coco_entries import Finding
from detect.data.coco_reader import Progress
from detect.data.formats.label_rows import ImageLabels, LabelBuilder, LabelRows, in_order
from detect.data.formats.label_text import numbers_of, read_text, short_repr, stem_of
from detect.data.point_files import image_stem
from detect.errors import CocoError
from detect.files import is_file, is_folder
from detect.text_formats import unguarded

IMAGE_COLUMNS = ("image", "image_name", "imagename", "file_name", "filename", "file", "path", "image_path", "img")
LABEL_COLUMNS = ("label", "class", "category", "type", "name", "class_name")
FRAME_COLUMNS = ("frame", "slice", "t", "time", "timepoint")
SCORE_COLUMNS = ("score", "confidence", "probability")
ORIGIN_COLUMN = "pixel_origin"
EXCESS = "values beyond the columns"  # of a row: how many values it has
NO_LABEL = "point"
SEPARATORS = (";", "\t", ",")
AXES = {2: (("x", "y"), ("axis-1", "axis-0")), 3: (("x", "y", "z"), ("axis-2", "axis-1", "axis-0"))}
START_BYTES = 4096  # in which a header ends


def table_columns(header: str) -> tuple[str, list[str]] | None:
    """The separator and lower-case columns of a table of points, from its first line; None for any other line.

    >>> table_columns("index;axis-0;axis-1")
    (';', ['index', 'axis-0', 'axis-1'])
    """
    for separator in SEPARATORS:
        columns = [column.strip().strip('"').lower() for column in header.split(separator)]
        if any(set(axes) <= set(columns) for axes in AXES[2]):
            return separator, columns
    return None


def is_point_table(path: str | Path) -> bool:
    """Whether a file begins as a table of points does; a folder may hold tables."""
    path = Path(path)
    if not is_file(path):
        return is_folder(path)
    try:
        with path.open("rb") as stream:
            lines = stream.read(START_BYTES).decode("utf-8-sig", errors="replace").splitlines()
    except OSError:  # whoever reads it as something else says why
        return False
    return bool(lines) and table_columns(lines[0]) is not None


def read_point_tables(
    files: Sequence[str], *, keypoints: bool = False, on_progress: Progress | None = None
) -> LabelRows:
    """Read tables of points; each row becomes an annotation with one keypoint.

    Points of tables with a column ``pixel_origin`` are read as pixel indices, those of others as they stand.

    Raises:
        CocoError: a table cannot be read, or its points have more than two axes.
    """
    labels = LabelBuilder(", ".join(files), unit="line", pixel_origin="center")
    for file in in_order(files, on_progress):
        table = _Table.of(file)
        if ORIGIN_COLUMN not in table.columns:
            labels.pixel_origin = None
        _read_labels(labels, table)
    return labels.rows(keypoints=keypoints)


def _read_labels(labels: LabelBuilder, table: _Table) -> None:
    if table.num_axes > 2:
        raise CocoError(
            f"{table.file}: points with three axes, which images do not have: detect heatmaps score compares them with "
            "found points in a CSV; for anything else export those of one plane, without the third axis"
        )
    images: dict[str, ImageLabels] = {}
    if table.image is None:
        images[""] = labels.image(stem_of(table.file), source=table.file)
    for number, entry in table.rows():
        name = table.image_of(entry)
        if name not in images:
            images[name] = labels.image(name, source=table.file)
        with images[name].object(number) as found:
            found.point(table.label_of(entry), *table.place_of(entry, "center"))


@dataclass(frozen=True, eq=False)
class PointTable:
    """Points (x, y[, z]) in pixel indices, with images, types and scores, which are 1 if the tables have none.

    ``images`` identifies each image by its name without folder and endings; a table of only a header is an image without
    points. ``file_rows`` and ``lines`` say where a point stands; ``invalid`` are the rows that cannot be used.
    """

    files: tuple[str, ...]
    images: tuple[str, ...]
    type_names: tuple[str, ...]
    points: Float64[ndarray, "n D"]
    scores: Float64[ndarray, " n"]
    image_rows: Int64[ndarray, " n"]
    types: Int64[ndarray, " n"]
    file_rows: Int64[ndarray, " n"]
    lines: Int64[ndarray, " n"]
    invalid: tuple[Finding, ...]
    has_scores: bool

    @property
    def axes(self) -> str:
        """The axes in words: ``x, y`` or ``x, y, z``."""
        return ", ".join("xyz"[: self.points.shape[1]])

    def finding(self, row: int, reason: str) -> Finding:
        """A finding about a point, with its file and line."""
        return Finding(f"{self.files[self.file_rows[row]]}, line {self.lines[row]}", None, None, reason)


def read_points(files: Sequence[str], *, pixel_origin: str = "center") -> PointTable:
    """Read points in images or volumes; ``pixel_origin`` is that of tables without a column of this name.

    Raises:
        CocoError: a table cannot be read, tables differ in their number of axes, or two images in the name that tells them.
    """
    tables = [_Table.of(file) for file in sorted(files)]
    images: dict[str, tuple[int, str]] = {}
    types: dict[str, int] = {}
    values: list[list[float]] = []
    numbers: list[tuple[int, int, int, int]] = []
    invalid: list[Finding] = []
    for file, table in enumerate(tables):
        if table.num_axes != tables[0].num_axes:
            first = f"those of {tables[0].file} {tables[0].num_axes}"
            raise CocoError(f"{table.file}: points with {table.num_axes} axes, {first}: give tables of one kind")
        if table.image is None:
            _row_of(images, stem_of(table.file), table.file)
        for line, entry in table.rows():
            try:
                values.append(table.values_of(entry, pixel_origin))
            except ValueError as error:
                invalid.append(Finding(f"{table.file}, line {line}", None, None, str(error)))
                continue
            path = table.image_of(entry).replace("\\", "/")
            name = image_stem(path.rpartition("/")[2]) or stem_of(table.file)
            kind = types.setdefault(table.label_of(entry), len(types))
            numbers.append((_row_of(images, name, path or table.file), kind, file, line))
    every = np.array(values, float).reshape(-1, tables[0].num_axes + 1)
    image_rows, kinds, file_rows, lines = np.array(numbers, np.int64).reshape(-1, 4).T
    return PointTable(
        files=tuple(table.file for table in tables),
        images=tuple(images),
        type_names=tuple(types),
        points=every[:, :-1],
        scores=every[:, -1],
        image_rows=image_rows,
        types=kinds,
        file_rows=file_rows,
        lines=lines,
        invalid=tuple(invalid),
        has_scores=all(table.score for table in tables),
    )


def _row_of(images: dict[str, tuple[int, str]], name: str, path: str) -> int:
    """The row of an image, which is added if it is new; raises CocoError if another path has its name."""
    row, first = images.setdefault(name, (len(images), path))
    if path != first:
        raise CocoError(f"{path} and {first}: two images of one name, {name!r}, which tells the images: rename one")
    return row


@dataclass(frozen=True, eq=False)
class _Table:
    """The lines of a table of points, and which columns have what."""

    file: str
    lines: list[str]
    separator: str
    columns: list[str]

    @classmethod
    def of(cls, file: str) -> _Table:
        lines = read_text(file).splitlines()
        found = table_columns(lines[0]) if lines else None
        if found is None:
            raise CocoError(f"{file}: no columns x and y, or axis-0 and axis-1")
        if "axis-3" in found[1]:
            raise CocoError(f"{file}: points with four axes or more: export those of one image or volume")
        return cls(file, lines, *found)

    @property
    def num_axes(self) -> int:
        return 3 if any(set(axes) <= set(self.columns) for axes in AXES[3]) else 2

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The columns of x, y[, z]."""
        return next(axes for axes in AXES[self.num_axes] if set(axes) <= set(self.columns))

    @cached_property
    def is_imagej(self) -> bool:
        """Whether a column Label has names of images, as in ImageJ's results."""
        return "area" in self.columns or "slice" in self.columns or self.columns[0] == ""

    @cached_property
    def image(self) -> str | None:
        own = [name for name in self.columns if name in IMAGE_COLUMNS]
        of_imagej = ["label"] if self.is_imagej and "label" in self.columns else []
        return next(iter(own or of_imagej), None)

    @cached_property
    def label(self) -> str | None:
        return next((name for name in LABEL_COLUMNS if name in self.columns and name != self.image), None)

    @cached_property
    def frame(self) -> str | None:
        return next((name for name in FRAME_COLUMNS if name in self.columns), None)

    @cached_property
    def score(self) -> str | None:
        return next((name for name in SCORE_COLUMNS if name in self.columns), None)

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """The rows below the header that are not blank, by column, with the numbers of their lines."""
        reader = csv.reader(self.lines[1:], delimiter=self.separator)
        first: dict[str, str] = {}
        try:
            for row in reader:
                fields = [unguarded(field.strip()) for field in row]
                if any(fields):
                    entry = dict(zip(self.columns, fields, strict=False))
                    self._check_frame(entry, first, reader.line_num + 1)
                    if any(fields[len(self.columns) :]):
                        entry[EXCESS] = str(len(fields))
                    yield reader.line_num + 1, entry
        except csv.Error as error:
            raise CocoError(f"{self.file}: not a table ({error})") from None

    def _check_frame(self, entry: Mapping[str, str], first: dict[str, str], line: int) -> None:
        """Raise CocoError if a row lies in another frame of its image than the ``first`` row did."""
        value = entry.get(self.frame, "") if self.frame else ""
        own = first.setdefault(self.image_of(entry), value)
        if value != own:
            reason = "points of several frames in one image: give each frame a table, or a name in a column image"
            raise CocoError(f"{self.file}, line {line}: {self.frame} {value!r} after {own!r}: {reason}")

    def image_of(self, entry: Mapping[str, str]) -> str:
        """The image of a row; nothing without a column of images."""
        name = entry.get(self.image, "") if self.image else ""
        return name.partition(":")[0] if self.is_imagej else name  # image.tif:0001-0002

    def label_of(self, entry: Mapping[str, str]) -> str:
        return (entry.get(self.label) if self.label else None) or NO_LABEL

    def place_of(self, entry: Mapping[str, str], pixel_origin: str) -> list[float]:
        """The coordinates of a row, in pixel indices if its convention is known; a ValueError says what is wrong.

        ``pixel_origin`` is that of a row that states none.
        """
        if EXCESS in entry:
            count = f"{entry[EXCESS]} values for {len(self.columns)} columns"
            raise ValueError(f"{count}: values with a {self.separator!r} inside need quotes, or another separator")
        origin = entry.get(ORIGIN_COLUMN) or pixel_origin
        if origin not in ORIGIN_SHIFTS:
            raise ValueError(f"{short_repr(origin)} is no pixel origin, {' or '.join(ORIGIN_SHIFTS)}")
        shift = ORIGIN_SHIFTS[origin] - ORIGIN_SHIFTS["center"]
        return [value + shift for value in self._numbers(entry, *self.axes)]

    def values_of(self, entry: Mapping[str, str], pixel_origin: str) -> list[float]:
        """The coordinates of a row in pixel indices, and its score."""
        score = self._numbers(entry, self.score) if self.score else [1.0]
        return [*self.place_of(entry, pixel_origin), *score]

    def _numbers(self, entry: Mapping[str, str], *columns: str) -> list[float]:
        texts = [entry.get(column, "") for column in columns]
        return numbers_of(texts if self.separator == "," else [text.replace(",", ".") for text in texts])
