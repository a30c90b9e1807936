"""Reading the parts of Parquet datasets: columns of numbers as arrays, without an object for each row.

Rows that :mod:`detect.data.entry_columns` marks as odd are read one by one, with the findings that their COCO file gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64
from numpy import ndarray

from detect.data.coco_entries import (
    ANGLE_FIELDS,
    NO_ID,
    UNKNOWN_PX,
    AnnotationEntries,
    Category,
    Image,
    ImageEntries,
    Rows,
)
from detect.data.coco_reader import Progress
from detect.data.coco_tolerance import TolerantReader
from detect.data.entry_columns import ANNOTATIONS, BOX, IMAGES, EntryKind
from detect.data.parquet_files import DESCRIPTION, Part, is_url, open_file, parquet_parts, read_description
from detect.errors import CocoError
from detect.text_formats import decode_json

if TYPE_CHECKING:
    from collections.abc import Iterator

ANNOTATION_COLUMNS = ("id", "image_id", "category_id", *BOX, "area", "iscrowd", "odd")


def read_parquet(
    source: str, *, keypoints: bool = False, angles: bool = False, on_progress: Progress | None = None
) -> list[Rows]:
    """Read a Parquet dataset, or one part of it, given its folder or URL or a part's file.

    Raises:
        CocoError: a part is missing, cannot be read, or is not what the dataset says about it.
    """
    parts, rows = parquet_parts(source), []
    if not parts:
        raise CocoError(f"{source}: the dataset has no parts")
    for number, part in enumerate(parts):
        if on_progress:
            on_progress(f"reading {part.folder}", number, len(parts))
        rows.append(read_part(part, keypoints=keypoints, angles=angles))
    return rows


def read_part(part: Part, *, keypoints: bool = False, angles: bool = False) -> Rows:
    """Read one part as a COCO file of its own is read.

    Raises:
        CocoError: a file of the part is missing, truncated or damaged, lacks a column, or has another number of rows than
            the dataset says.
    """
    tolerant = TolerantReader(part.annotations_file, keypoints=keypoints, angles=angles)
    categories = _categories(part.folder, tolerant)
    images = _read_images(part, tolerant)
    more = [*(["keypoints"] if keypoints else []), *(["angle", "rotation"] if angles else [])]
    table = read_columns(part.annotations_file, ANNOTATIONS, ANNOTATION_COLUMNS, part.num_annotations, more=more)
    odd = table["odd"].to_numpy()
    plain = _plain_annotations(table.filter(pa.array(~odd)) if odd.any() else table, keypoints=keypoints, angles=angles)
    annotations = [plain]
    if odd.any():
        tolerant.skip(plain)
        annotations.append(tolerant.annotations(_odd_entries(part.annotations_file, odd)))
    return tolerant.rows(images, AnnotationEntries.join(annotations), categories)


def read_image_field(source: str, name: str) -> list[dict[str, Any]]:
    """The id and one other field of each image that has it and need not be read one by one."""
    found = []
    for part in parquet_parts(source):
        table = read_columns(part.images_file, IMAGES, ("id",), part.num_images, more=(name,))
        if name in table.column_names:
            pairs = zip(table["id"].to_pylist(), table[name].to_pylist(), strict=True)
            found += [
                {"id": id_, name: _parsed(text, part.images_file)} for id_, text in pairs if None not in (id_, text)
            ]
    return found


def read_columns(
    file: str, kind: EntryKind, columns: Sequence[str], num_rows: int, *, more: Sequence[str] = ()
) -> pa.Table:
    """Read columns of a file of a part, and those of ``more`` that it has.

    Raises:
        CocoError: it is missing, truncated or damaged, lacks a column or has one of another type, or has another number of
            rows.
    """
    schema = kind.schema(more)
    with open_parquet(file) as opened:
        names = [*columns, *(name for name in more if name in opened.schema_arrow.names)]
        check_columns(file, opened.schema_arrow, [schema.field(name) for name in names])
        if opened.metadata.num_rows != num_rows:
            raise CocoError(f"{file}: {opened.metadata.num_rows:,} rows, and {DESCRIPTION} says {num_rows:,}")
        return opened.read(columns=names)


def check_columns(file: str, own: pa.Schema, wanted: Iterable[pa.Field]) -> None:
    """Raise CocoError if a file lacks a column, or has it with another type."""
    for field in wanted:
        if field.name not in own.names:
            raise CocoError(f"{file}: no column {field.name!r}")
        if own.field(field.name).type != field.type:
            raise CocoError(f"{file}: column {field.name!r} is {own.field(field.name).type}, not {field.type}")


@contextmanager
def open_parquet(file: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, local or by URL. An error while it is open names the file.

    Raises:
        CocoError: it is missing, truncated or damaged.
    """
    with open_file(file) as source:
        try:
            with pq.ParquetFile(source if is_url(file) else file) as opened:
                yield opened
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a name of a column may be damaged
            if isinstance(error, OSError) and error.errno:
                raise
            reason = str(error).strip() or type(error).__name__
            raise CocoError(f"{file}: a truncated or damaged Parquet file ({reason.splitlines()[0]})") from None


def _categories(folder: str, tolerant: TolerantReader) -> Sequence[Category] | None:
    text = read_description(folder).texts().get("categories")
    content = None if text is None else _parsed(text, f"{folder}/{DESCRIPTION}")
    if content is not None and not isinstance(content, list):
        raise CocoError(f"{folder}/dataset.json: 'categories' is not a list")
    return tolerant.categories(content)


def _read_images(part: Part, tolerant: TolerantReader) -> Sequence[Image]:
    table = read_columns(part.images_file, IMAGES, (*IMAGES.types, "odd"), part.num_images)
    odd = table["odd"].to_numpy()
    plain = table.filter(pa.array(~odd)) if odd.any() else table
    wh = [_filled(plain[name], UNKNOWN_PX) for name in ("width", "height")]
    images = ImageEntries(plain["id"].to_numpy(), np.stack(wh, axis=1), plain["file_name"].to_pylist())
    if not odd.any() and (images.wh != UNKNOWN_PX).all():
        return images
    return [*images, *tolerant.images(_odd_entries(part.images_file, odd))]  # a list, in which sizes can be filled in


def _odd_entries(path: str, odd: Any) -> list[Any]:
    with open_parquet(path) as file:
        raw = file.read(columns=["raw"])["raw"]
    return [_parsed(text, path) for text in raw.filter(pa.array(odd)).to_pylist()]


def _parsed(text: str | bytes | None, file: str) -> Any:
    """A value that was JSON when it was written to the file."""
    return decode_json(text or "", lambda reason: CocoError(f"{file}: {reason}: a damaged Parquet dataset"))


def _plain_annotations(table: pa.Table, *, keypoints: bool, angles: bool) -> AnnotationEntries:
    boxes_xywh = np.stack([_floats(table, name) for name in BOX], axis=1)
    return AnnotationEntries(
        ids=_filled(table["id"], NO_ID),
        image_ids=table["image_id"].to_numpy(),
        category_ids=table["category_id"].to_numpy(),
        boxes_xywh=boxes_xywh,
        has_box=~np.isnan(boxes_xywh[:, 0]),
        iscrowd=_filled(table["iscrowd"], 0) != 0,
        area=_floats(table, "area"),
        keypoints=_points(table) if keypoints else None,
        angles_deg=np.stack([_floats(table, name) for name in ANGLE_FIELDS], axis=1) if angles else None,
    )


def _floats(table: pa.Table, name: str) -> Float64[ndarray, " n"]:
    """A column, NaN where it is null; NaN if the table lacks it."""
    if name not in table.column_names:
        return np.full(len(table), math.nan)
    return _filled(table[name], math.nan)


def _filled(column: pa.ChunkedArray, missing: float) -> Any:
    return (column.fill_null(missing) if column.null_count else column).to_numpy()


def _points(table: pa.Table) -> tuple[Float64[ndarray, "_ 3"], ...]:
    if "keypoints" not in table.column_names:
        return tuple(np.zeros((0, 3)) for _ in range(len(table)))
    lists = table["keypoints"].combine_chunks()
    numbers = lists.flatten().to_numpy().reshape(-1, 3)
    lengths = lists.value_lengths().fill_null(0).to_numpy() // 3
    return tuple(np.split(numbers, np.cumsum(lengths)[:-1])) if len(lengths) else ()
