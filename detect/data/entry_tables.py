"""Entries of a COCO file as Arrow tables, and back to the same JSON text, byte for byte but for spaces between tokens.

The fields that commands use are columns of numbers and texts; each other field is a column of its JSON text. A field that an
entry lacks is null. An entry whose text cannot be made from its columns keeps it in the column ``raw``; an entry that needs
reading one by one (:mod:`detect.data.coco_tolerance`) does so too, and is marked in ``odd``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from jaxtyping import Bool
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import astuple
from numpy import ndarray

from detect.data.buckets import RowBlock
from detect.data.coco_blocks import INVALID_JSON
from detect.data.coco_fields import Fields
from detect.data.coco_reader import ONLY_PYTHON
from detect.data.coco_stream import compact_json
from detect.data.entry_columns import EntryKind, field_values, needs_reading, typed_columns
from detect.errors import CocoError
from detect.text_formats import parse_json, whole_number

MAX_FIELDS = 100  # more are kept as the text of the whole entry
_SEPARATOR = re.compile(r"[ \t\r\n]*,?[ \t\r\n]*")


class EntryTables:
    """Makes tables of a list of entries, block by block. ``fields`` are those met so far, in the order of the file."""

    def __init__(self, kind: EntryKind, fields: Sequence[str] = (), position: int = 0) -> None:
        self.kind, self.fields, self.position = kind, list(fields), position
        self._json = EntryJson(kind, self.fields)

    def decode(self, buffer: bytes | bytearray, end: int) -> RowBlock | None:
        """The entries of the list in the first bytes of a buffer; None if those are no JSON list.

        Raises:
            CocoError: the text is not UTF-8, or has a number that is too long. The message does not name the file.
        """
        with memoryview(buffer) as view:
            found = _compact_list(view[:end])
        if found is None:
            return None
        text, texts = found
        entries = None if texts else self._json.decode_all(text)
        if entries is None:
            texts = texts or list(map(bytes, msgspec.json.decode(text, type=list[Raw])))
            if self._learn(texts):
                entries = self._json.decode_all(text)
        raw: dict[int, bytes] = {}
        if entries is None:
            entries = [self._json.decode(own) for own in texts or ()]
            raw = {row: own for row, own in enumerate(texts or ()) if self._json.encode(entries[row]) != own}
        rows = RowBlock(*self._columns(entries, raw), num_bytes=len(text))
        self.position += len(entries)
        return rows

    def adopt(self, fields: Sequence[str], count: int) -> bool:
        """Take entries that other tables were made of, with their fields; whether these go into one order with the own."""
        merged = list(self.fields)
        for place, name in enumerate(fields):
            if name not in merged:
                merged.insert(merged.index(fields[place - 1]) + 1 if place else 0, name)
        if [name for name in merged if name in set(fields)] != list(fields):
            return False
        self.fields[:] = merged
        self._json = EntryJson(self.kind, self.fields)
        self.position += count
        return True

    def _learn(self, texts: Iterable[bytes]) -> bool:
        """Add the fields of entries that were not met before, each behind the field before it; whether there were any."""
        known = set(self.fields)
        for text in texts:
            try:
                own = list(msgspec.json.decode(text, type=dict[str, Raw]))
            except INVALID_JSON:
                continue
            for place, name in enumerate(own):
                if name not in known and self.kind.is_field(name) and len(self.fields) < MAX_FIELDS:
                    before = next((self.fields.index(each) for each in own[:place][::-1] if each in known), -1)
                    self.fields.insert(before + 1, name)
                    known.add(name)
        if len(known) == len(self._json.fields):
            return False
        self._json = EntryJson(self.kind, self.fields)
        return True

    def _columns(self, entries: Sequence[Any], raw: dict[int, bytes]) -> tuple[pa.Table, dict[str, Sequence[Any]]]:
        """The columns of entries, given the texts of those that are not what their columns give; None is no usable entry."""
        lost = [row for row, entry in enumerate(entries) if entry is None]
        usable = [self._json.nothing if entry is None else entry for entry in entries] if lost else entries
        own = zip(*map(astuple, usable), strict=True) if usable else [()] * len(self.fields)
        values = dict(zip(self.fields, own, strict=True))
        odd = np.zeros(len(entries), bool)
        odd[lost] = True
        odd |= needs_reading(self.kind, values, len(entries))
        columns, style, inexact = typed_columns(self.kind, values, len(entries))
        for row in np.flatnonzero(inexact | odd).tolist():
            raw.setdefault(row, self._json.encode(entries[row]))
        self._name_images(columns, raw, odd)
        columns = {"position": pa.array(np.arange(self.position, self.position + len(entries))), **columns}
        columns |= {"style": pa.array(style), "odd": pa.array(odd)}
        texts: dict[str, Sequence[Any]] = {name: values[name] for name in self.fields if name not in self.kind.types}
        if raw:
            texts = {
                name: [None if row in raw else text for row, text in enumerate(own)] for name, own in texts.items()
            }
            texts["raw"] = list(map(raw.get, range(len(entries))))
        return pa.table(columns), texts

    def _name_images(self, columns: dict[str, Any], raw: Mapping[int, bytes], odd: Bool[ndarray, " n"]) -> None:
        """Fill in the image of entries that are read one by one, so that they lie beside it."""
        rows = np.flatnonzero(odd).tolist()
        if rows:
            ids = columns.get(self.kind.image_id, pa.nulls(len(odd), pa.int64())).to_pylist()
            for row in rows:
                entry = parse_json(raw[row])
                ids[row] = Fields(entry).id(self.kind.image_id) if isinstance(entry, dict) else None
            columns[self.kind.image_id] = pa.array(ids, pa.int64())


class EntryJson:
    """The JSON of entries with fields in a known order."""

    def __init__(self, kind: EntryKind, fields: Sequence[str]) -> None:
        self.fields = tuple(fields)
        types = [(f"f{place}", kind.types.get(name, Raw), name) for place, name in enumerate(fields)]
        self._type = msgspec.defstruct(
            kind.name,
            [(attribute, own | UnsetType if own is not Raw else Raw, UNSET) for attribute, own, _ in types],
            rename={attribute: name for attribute, _, name in types},
            omit_defaults=True,
            gc=False,
        )
        self.nothing = self._type()
        self._one = msgspec.json.Decoder(self._type)
        self._all: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[self._type])  # type: ignore[name-defined]
        self._encoder = msgspec.json.Encoder()

    def decode_all(self, text: bytes) -> list[Any] | None:
        """The entries of a list, if their fields give its text again; else None."""
        try:
            entries = self._all.decode(text)
        except INVALID_JSON:
            return None
        return entries if self._encoder.encode(entries) == text else None

    def decode(self, text: bytes) -> Any:
        """An entry; None if a field has another type."""
        try:
            return self._one.decode(text)
        except INVALID_JSON:
            return None

    def encode(self, entry: Any) -> bytes:
        return self._encoder.encode(entry)

    def texts(self, kind: EntryKind, table: pa.RecordBatch) -> Iterator[bytes]:
        """The JSON text of each row of a table."""
        names = {"style", "raw"}.union(*map(kind.columns_of, self.fields))
        columns = {name: table[name].to_pylist() for name in names}
        raw = columns["raw"]
        values = [field_values(kind, name, columns) for name in self.fields]
        rows = zip(*values, strict=True) if values else iter([()] * len(raw))
        for own, row in zip(raw, rows, strict=True):
            yield own.encode() if own is not None else self._encoder.encode(self._type(*row))


def _compact_list(text: memoryview) -> tuple[bytes, list[bytes] | None] | None:
    """A JSON list without spaces, and the texts of its entries if only Python's reader accepts them; None for no list."""
    try:
        compact = msgspec.json.format(text, indent=-1)
    except INVALID_JSON:
        plain = bytes(text)
        if not any(word in plain for word in ONLY_PYTHON):
            return None
        try:
            content = plain.decode()
            parse_json(content)
        except (ValueError, RecursionError):
            return None
        return plain, list(_split(content))
    try:
        compact.isascii() or compact.decode()
    except UnicodeDecodeError as error:
        raise CocoError(f"not text (byte {error.start:,} of a block is not {error.encoding})") from None
    return compact, None


def _split(content: str) -> Iterator[bytes]:
    """The compact texts of the entries of a list, which Python's reader accepts."""
    decoder, place = json.JSONDecoder(parse_int=whole_number), 1
    while True:
        separator = _SEPARATOR.match(content, place)
        place = separator.end() if separator else place
        if content[place] == "]":
            return
        start = place
        _, place = decoder.raw_decode(content, start)
        yield compact_json(content[start:place].encode())
