"""The columns of tables of entries: their types, and the values of fields in them.

Columns hold floats; how an entry's numbers are written in JSON, as 10 or as 10.0, is kept in the bits of one integer, its
style, so that the columns give its text again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64, UInt16
from msgspec import UNSET, Meta, Raw
from numpy import ndarray

from detect.data.coco_entries import Integer, Pixels
from detect.data.parquet_files import NOT_A_NAME

Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | float
ARROW_TYPES = {Number: pa.float64(), list[Number]: pa.list_(pa.float64()), str: pa.string()}  # of others, integers
BOX = ("x", "y", "width", "height")
AROUND = {"position": pa.int64(), "style": pa.uint16(), "odd": pa.bool_(), "raw": pa.string()}
RESERVED = {*AROUND, *BOX, "image_row", ""}  # columns that no field of an entry has as its name
LARGEST_WHOLE = 2.0**53  # beyond it a float does not hold each whole number
WHOLE_BIT = {"x": 1, "y": 2, "width": 4, "height": 8, "area": 16, "angle": 32, "rotation": 64}
BOOL_BIT = 128  # iscrowd is true or false, not 1 or 0
LIST_SHIFT = 8  # the bits from here on are the style of a list
LIST_STYLES = ("whole", "point", "whole visibility", "whole where possible")


@dataclass(frozen=True)
class EntryKind:
    """Which fields of images or annotations are columns of their own."""

    name: str
    image_id: str  # the field that names an entry's image
    types: Mapping[str, Any]  # in JSON
    required: tuple[str, ...]
    core: tuple[str, ...]  # columns that every table has

    def is_field(self, name: str) -> bool:
        """Whether a field with this name can have a column."""
        return name in self.types or not (name in RESERVED or NOT_A_NAME.search(name))

    def columns_of(self, field: str) -> dict[str, Any]:
        """The columns of a field, with their types in Arrow."""
        if field == "bbox" and field in self.types:
            return dict.fromkeys(BOX, pa.float64())
        return {field: ARROW_TYPES.get(self.types[field], pa.int64()) if field in self.types else pa.string()}

    def schema(self, fields: Sequence[str]) -> pa.Schema:
        """The columns of a table of entries with these fields."""
        columns = {"position": AROUND["position"]}
        for field in (*self.core, *fields):
            columns |= self.columns_of(field)
        return pa.schema(columns | AROUND)


ANNOTATIONS = EntryKind(
    "annotations",
    "image_id",
    {
        "id": Integer,
        "image_id": Integer,
        "category_id": Integer,
        "bbox": tuple[Number, Number, Number, Number],
        "area": Number,
        "iscrowd": Integer | bool,
        "keypoints": list[Number],
        "angle": Number,
        "rotation": Number,
    },
    ("image_id", "category_id"),
    ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
)
_IMAGE_FIELDS = {"id": Integer, "width": Pixels, "height": Pixels, "file_name": str}
IMAGES = EntryKind("images", "id", _IMAGE_FIELDS, ("id",), tuple(_IMAGE_FIELDS))

Values = Mapping[str, Sequence[Any]]  # the values of each field, UNSET where an entry lacks it


def needs_reading(kind: EntryKind, values: Values, count: int) -> Bool[ndarray, " n"]:
    """Whether each entry has to be read one by one, although its fields have the right types."""
    odd = np.zeros(count, bool)
    for name in kind.required:
        odd |= _missing(values.get(name, [UNSET] * count))
    if kind is ANNOTATIONS:
        without_box = _missing(values.get("bbox", [UNSET] * count))
        if without_box.any():
            odd |= without_box & ~_missing(values.get("segmentation", [UNSET] * count))
        for row, points in enumerate(values.get("keypoints", ())):
            odd[row] |= points is not UNSET and len(points) % 3 != 0
        for row, attributes in enumerate(values.get("attributes", ())):
            text = b"" if attributes is UNSET else bytes(attributes)
            odd[row] |= b'"rotation"' in text or b"\\u" in text
    return odd


def typed_columns(
    kind: EntryKind, values: Values, count: int
) -> tuple[dict[str, Any], UInt16[ndarray, " n"], Bool[ndarray, " n"]]:
    """The columns of fields with types, the style of each entry's numbers, and the entries that these do not give again."""
    columns: dict[str, Any] = {}
    style, inexact = np.zeros(count, np.uint16), np.zeros(count, bool)
    for name in [name for name in kind.types if name in values]:
        own, missing = values[name], _missing(values[name])
        mask = missing if missing.any() else None
        if mask is not None:
            filler: Any = {"bbox": (0, 0, 0, 0), "keypoints": (), "file_name": ""}.get(name, 0)
            own = [filler if value is UNSET else value for value in own]
        types = list(kind.columns_of(name).items())
        if types[0][1] == pa.float64():
            flat = list(chain.from_iterable(own)) if name == "bbox" else own
            numbers, is_whole, exact = (each.reshape(count, -1) for each in read_numbers(flat))
            inexact |= ~exact.all(axis=1)
            for place, (column, arrow_type) in enumerate(types):
                columns[column] = pa.array(np.ascontiguousarray(numbers[:, place]), arrow_type, mask=mask)
                style += np.uint16(WHOLE_BIT[column]) * is_whole[:, place]
        elif name == "keypoints":
            bits, found = list_styles(own)
            style, inexact = style | bits, inexact | ~found
            lists = [None if lost else list(map(float, value)) for value, lost in zip(own, missing, strict=True)]
            columns[name] = pa.array(lists, types[0][1])
        elif name == "file_name":
            columns[name] = pa.array(own, types[0][1], mask=mask)
        else:
            if bool in set(map(type, own)):
                style |= np.where([type(value) is bool for value in own], np.uint16(BOOL_BIT), np.uint16(0))
            columns[name] = pa.array(np.fromiter(own, np.int64, count), mask=mask)
    return columns, style, inexact


def field_values(kind: EntryKind, name: str, columns: Mapping[str, Sequence[Any]]) -> list[Any]:
    """The values of a field as they were written, given the columns of a table; UNSET where an entry lacks it."""
    style = columns["style"]
    if name == "bbox" and name in kind.types:
        sides = [_as_written(columns[side], style, WHOLE_BIT[side]) for side in BOX]
        return [UNSET if box[0] is UNSET else box for box in zip(*sides, strict=True)]
    own = columns[name]
    if name == "keypoints" and name in kind.types:
        return [UNSET if each is None else restore_list(each, bits) for each, bits in zip(own, style, strict=True)]
    if name not in kind.types:
        return [UNSET if text is None else Raw(text.encode()) for text in own]
    if name == "iscrowd":
        flags = [
            value if value is None or not bits & BOOL_BIT else bool(value)
            for value, bits in zip(own, style, strict=True)
        ]
        return [UNSET if value is None else value for value in flags]
    if kind.types[name] == Number:
        return _as_written(own, style, WHOLE_BIT[name])
    return [UNSET if value is None else value for value in own]


def read_numbers(values: Sequence[float]) -> tuple[Float64[ndarray, " n"], Bool[ndarray, " n"], Bool[ndarray, " n"]]:
    """Numbers as floats, whether each is written as a whole number, and whether the float and this give it again.

    >>> read_numbers([10, 10.5, 2**53 + 1])[1:]
    (array([ True, False,  True]), array([ True,  True, False]))
    """
    numbers = np.fromiter(values, float, len(values))
    is_whole = numbers == np.rint(numbers)
    rows = np.flatnonzero(is_whole)  # of coordinates with decimals, few
    is_whole[rows] = [type(values[row]) is int for row in rows.tolist()]
    return numbers, is_whole, ~is_whole | (np.abs(numbers) < LARGEST_WHOLE)


def list_styles(lists: Sequence[Sequence[float]]) -> tuple[UInt16[ndarray, " n"], Bool[ndarray, " n"]]:
    """The first of ``LIST_STYLES`` by which each list is written, as bits, and whether there is one.

    >>> bits, found = list_styles([[1, 2, 2], [1.5, 2.0, 2], [1.5, 2, 2], [1, 2.0, 0]])
    >>> (bits >> LIST_SHIFT).tolist(), found.tolist()
    ([0, 2, 3, 0], [True, True, True, False])
    """
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    numbers, is_whole, exact = read_numbers(list(chain.from_iterable(lists)))
    rows, place = _rows_and_places(lengths)
    bits, found = np.zeros(len(lists), np.uint16), np.zeros(len(lists), bool)
    for style in reversed(range(len(LIST_STYLES))):
        fails = (_whole_in(style, numbers, place) != is_whole) | ~exact
        fits = np.bincount(rows, fails, len(lists)) == 0
        bits[fits], found = style << LIST_SHIFT, found | fits
    return bits, found


def restore_list(numbers: Sequence[float], bits: int) -> list[float]:
    """The numbers of a list as they were written.

    >>> restore_list([1.5, 2.0, 2.0], 2 << LIST_SHIFT)
    [1.5, 2.0, 2]
    """
    array = np.array(numbers, float)
    is_whole = _whole_in(bits >> LIST_SHIFT, array, np.arange(len(array)))
    return [int(number) if whole else number for number, whole in zip(numbers, is_whole.tolist(), strict=True)]


def _as_written(numbers: Sequence[float | None], style: Sequence[int], bit: int) -> list[Any]:
    pairs = zip(numbers, style, strict=True)
    return [UNSET if number is None else int(number) if bits & bit else number for number, bits in pairs]


def _missing(values: Sequence[Any]) -> Bool[ndarray, " n"]:
    if UNSET not in values:
        return np.zeros(len(values), bool)
    return np.fromiter((value is UNSET for value in values), bool, len(values))


def _rows_and_places(lengths: Int64[ndarray, " n"]) -> tuple[Int64[ndarray, " m"], Int64[ndarray, " m"]]:
    """The list that each number lies in, and its place there."""
    starts = np.cumsum(lengths) - lengths
    return np.repeat(np.arange(len(lengths)), lengths), np.arange(lengths.sum()) - np.repeat(starts, lengths)


def _whole_in(style: int, numbers: Float64[ndarray, " n"], place: Int64[ndarray, " n"]) -> Bool[ndarray, " n"]:
    """Whether each number of a list is a whole number in a style."""
    name = LIST_STYLES[style]
    if name == "whole visibility":
        return place % 3 == 2
    if name == "whole where possible":
        return numbers == np.rint(numbers)
    return np.full(len(numbers), name == "whole")
