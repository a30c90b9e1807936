"""COCO files as Parquet datasets, with little memory: read in blocks, spread over parts by image, each part sorted.

Everything of the files is kept: entries with all their fields, also those that cannot be used, and other top-level values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from gzip import GzipFile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from detect.data.buckets import BucketFile, Buckets, RowBlock, buckets_of_images
from detect.data.coco_columns import rows_of_ids
from detect.data.coco_reader import EXPECTED, Progress
from detect.data.coco_stream import open_json, read_top_level
from detect.data.entry_columns import ANNOTATIONS, IMAGES, EntryKind
from detect.data.entry_tables import EntryTables
from detect.data.parallel_lists import Sink, decode_ranges
from detect.data.parquet_files import DESCRIPTION, Description, described, part_name, size_bytes
from detect.errors import CocoError
from detect.files import temporary_folder, write_folder

PART_BYTES = 48 * 2**20  # JSON text of one part
PACKED = 6  # times that a .gz file grows when unpacked, about
ROWS_PER_GROUP = 250_000
SORTED_BYTES = 512 * 2**20  # a larger part, of one image with millions of objects, keeps the order of the file
NUM_THREADS = min(4, os.cpu_count() or 1)
SPLIT_BYTES = 256 * 2**20  # files from here on are read by several processes, in ranges of
RANGE_BYTES = 96 * 2**20
KINDS = (IMAGES, ANNOTATIONS)

Tables = tuple[pa.Table, pa.Table]  # images and annotations of a part


def write_parquet(files: Sequence[str], output: str | Path, *, on_progress: Progress) -> Description:
    """Convert COCO files, together one dataset, to a new folder, whole or not at all.

    Of several files, equal images and categories are kept once, and other top-level values are those of the first file that
    has them; ``lost`` names the others.

    Raises:
        CocoError: a file cannot be read or is not COCO.
        OSError: the folder cannot be written.
    """
    output, sizes = Path(output), list(map(size_bytes, files))
    unpacked = [size * (PACKED if file.endswith(".gz") else 1) for file, size in zip(files, sizes, strict=True)]
    num_parts = max(1, round(sum(unpacked) / PART_BYTES))
    with temporary_folder(output.parent) as temporary:
        reading = _Reading(temporary, num_parts)
        for number, file in enumerate(files):

            def on_bytes(done: int, before: int = sum(sizes[:number])) -> None:
                on_progress("reading", before + done, sum(sizes))

            reading.read(file, on_bytes)
        made = reading.description()
        threads = ThreadPoolExecutor(NUM_THREADS + 1)  # while some wait for the disk

        def named_parts() -> Iterator[tuple[str, bytes | Path]]:
            for number, (names, counts) in enumerate(threads.map(reading.write, range(num_parts))):
                on_progress("writing parts", number, num_parts)
                made.parts.append(counts)
                yield from names
            yield DESCRIPTION, msgspec.json.encode(made)

        try:
            write_folder(output, named_parts())
        finally:
            threads.shutdown(cancel_futures=True)
    return made


@dataclass
class _Reading:
    """The rows of COCO files, in buckets of a temporary folder, and their other values."""

    folder: Path
    num_parts: int
    others: dict[str, bytes] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    num_files: int = 0

    def __post_init__(self) -> None:
        self.tables = {kind.name: EntryTables(kind) for kind in KINDS}
        self.buckets = {}
        for kind in KINDS:
            (self.folder / kind.name).mkdir()
            self.buckets[kind.name] = Buckets(str(self.folder / kind.name), self.num_parts)

    def read(self, file: str, on_bytes: Callable[[int], None]) -> None:
        decoders = {name: tables.decode for name, tables in self.tables.items()}
        seen = []
        with open_json(file) as (stream, tell):
            is_split = NUM_THREADS > 1 and size_bytes(file) >= SPLIT_BYTES and not isinstance(stream, GzipFile)
            split = partial(self._split, file, on_bytes) if is_split else None
            for key, value in read_top_level(stream, file, decoders, on_block=lambda: on_bytes(tell()), split=split):
                if value is None:
                    seen.append(key)
                    self.keys += [key] if key not in self.keys else []
                elif isinstance(value, bytes):
                    self._keep(key, value, file)
                else:
                    kind = IMAGES if key == IMAGES.name else ANNOTATIONS
                    spread(kind, value, self.buckets[key], self.num_parts)
        for kind in KINDS:
            if kind.name not in seen:
                raise CocoError(f"{file}: no list {kind.name!r} in it: {EXPECTED}")
        self.num_files += 1

    def _split(self, file: str, on_bytes: Callable[[int], None], key: str, start: int) -> tuple[int, bool]:
        """Read as much of the annotations as several processes can; where they go on, and whether that is their end."""
        if key != ANNOTATIONS.name:  # a list of images is short: most ranges would lie behind it
            return start, False
        own, buckets = self.tables[key], self.buckets[key]
        open_sink = OpenRange(self.folder / f"ranges-{self.num_files}", self.num_parts)
        sizes: dict[str, int] = {"range_bytes": RANGE_BYTES, "num_processes": NUM_THREADS}
        buckets.flush()
        for found in decode_ranges(file, start, open_sink, **sizes):
            first_position = own.position
            if not own.adopt(found.result.fields, found.result.count):
                break
            buckets.adopt(found.result.files, first_position)
            start = found.end
            on_bytes(start)
            if found.ended:
                return start, True
        return start, False

    def _keep(self, key: str, text: bytes, file: str) -> None:
        if key in self.tables:
            raise CocoError(f"{file}: {key!r} is not a list: {EXPECTED}")
        if key not in self.others:
            self.keys.append(key)
            self.others[key] = text
        elif text != self.others[key] and key == "categories":
            self.others[key] = _joined(self.others[key], text, file)
        elif text != self.others[key]:
            self.lost.append(f"{key!r} of {file}, which is another than before")

    def description(self) -> Description:
        for buckets in self.buckets.values():
            buckets.flush()
        embedded = {key: raw for key, text in self.others.items() if (raw := described(text)) is not None}
        unparsed = {key: text.decode() for key, text in self.others.items() if key not in embedded}
        fields = {name: tables.fields for name, tables in self.tables.items()}
        return Description(parts=[], fields=fields, keys=self.keys, others=embedded, unparsed=unparsed, lost=self.lost)

    def write(self, number: int) -> tuple[list[tuple[str, Path]], tuple[int, int]]:
        """Write the files of a part; their names and paths, and the counts of images and annotations."""
        images = _sorted(self._table(IMAGES, number), ("id", "position"))
        if self.num_files > 1:
            images = _without_repeats(images)
        annotations = _sorted(self._table(ANNOTATIONS, number), ("image_id", "id", "position"))
        written = []
        for kind, table in zip(KINDS, (images, with_image_rows(annotations, images)), strict=True):
            path = self.folder / kind.name / f"{number}.parquet"
            _write_table(table, path)
            written.append((part_name(kind.name, number), path))
        return written, (len(images), len(annotations))

    def _table(self, kind: EntryKind, number: int) -> pa.Table:
        empty = kind.schema(self.tables[kind.name].fields).empty_table()
        return pa.concat_tables([empty, *self.buckets[kind.name].tables(number)], promote_options="default")


def _joined(categories: bytes, more: bytes, file: str) -> bytes:
    """The categories of several files, equal ones once."""
    try:
        both = [entry for text in (categories, more) for entry in msgspec.json.decode(text, type=list[msgspec.Raw])]
    except msgspec.MsgspecError:
        raise CocoError(f"{file}: its categories, or those of the files before it, are no list") from None
    return b"[" + b",".join(dict.fromkeys(map(bytes, both))) + b"]"


@dataclass(frozen=True)
class ReadRange:
    """The annotations of a range of a file: their fields, their number, and the files of their buckets."""

    fields: list[str]
    count: int
    files: list[BucketFile]


@dataclass(frozen=True)
class OpenRange:
    """Makes the buckets of a range, in the process that reads it."""

    folder: Path
    num_parts: int

    def __call__(self, number: int) -> RangeBuckets:
        folder = self.folder / str(number)
        folder.mkdir(parents=True)
        return RangeBuckets(str(folder), self.num_parts)


class RangeBuckets(Sink[ReadRange]):
    """Spreads the annotations of a range over buckets of its own."""

    def __init__(self, where: str, num_parts: int) -> None:
        self._tables, self._buckets, self._num_parts = EntryTables(ANNOTATIONS), Buckets(where, num_parts), num_parts

    def decode(self, buffer: bytearray, end: int) -> int | None:
        rows = self._tables.decode(buffer, end)
        if rows is None:
            return None
        spread(ANNOTATIONS, rows, self._buckets, self._num_parts)
        return len(rows)

    def finish(self) -> ReadRange:
        self._buckets.flush()
        return ReadRange(self._tables.fields, self._tables.position, self._buckets.files)


def spread(kind: EntryKind, rows: RowBlock, buckets: Buckets, num_parts: int) -> None:
    """Put rows into the buckets of their images."""
    buckets.add(rows, buckets_of_images(rows.numbers[kind.image_id].fill_null(0).to_numpy(), num_parts))


def write_parts(output: str | Path, parts: Iterable[Tables], others: dict[str, Any]) -> None:
    """Write a dataset from the tables of its images and annotations, part by part, to a new folder.

    Tables have the columns that are known; the others become null. ``others`` are the other top-level values.
    """
    made = Description(
        parts=[],
        fields={kind.name: list(kind.core) for kind in KINDS},
        keys=[*others, *(kind.name for kind in KINDS)],
        others={key: msgspec.Raw(msgspec.json.encode(value)) for key, value in others.items()},
    )

    def named_parts(temporary: Path) -> Iterator[tuple[str, bytes | Path]]:
        for number, tables in enumerate(parts):
            images, annotations = (aligned(table, kind.schema(())) for kind, table in zip(KINDS, tables, strict=True))
            for kind, table in zip(KINDS, (images, with_image_rows(annotations, images)), strict=True):
                path = temporary / f"{kind.name}.parquet"
                _write_table(table, path)
                yield part_name(kind.name, number), path
            made.parts.append((len(images), len(annotations)))
        yield DESCRIPTION, msgspec.json.encode(made)

    output = Path(output)
    with temporary_folder(output.parent) as temporary:
        write_folder(output, named_parts(temporary))


def aligned(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of a schema, null where it lacks one."""
    plain = {"style": 0, "odd": False}
    columns = []
    for own in schema:
        if own.name in table.column_names:
            columns.append(table[own.name].cast(own.type))
        else:
            columns.append(pa.repeat(pa.scalar(plain.get(own.name), own.type), len(table)))
    return pa.table(columns, schema=schema)


def with_image_rows(annotations: pa.Table, images: pa.Table) -> pa.Table:
    """Annotations with the row of their image in a table of images sorted by id, -1 if it is not there."""
    ids = images["id"].drop_null().to_numpy()
    rows = rows_of_ids(annotations["image_id"].fill_null(-1).to_numpy(), ids).astype(np.int32)
    rows[annotations["image_id"].is_null().to_numpy(zero_copy_only=False)] = -1
    place = annotations.column_names.index("image_id") + 1
    return annotations.add_column(place, "image_row", pa.array(rows))


def _write_table(table: pa.Table, path: Path) -> None:
    """Write one file of a part: ids as differences, other numbers but areas, of which few repeat, by a dictionary.

    Texts are compressed by zstd; numbers, which every command reads, by LZ4: 7 % larger, a third of the time less to read.
    """
    texts = {each.name for each in table.schema if pa.types.is_string(each.type)}
    ids = {"id", "position", "image_id", "image_row"}
    rising = {each.name for each in table.schema if each.name in ids and pa.types.is_integer(each.type)}
    repeated = [name for name in table.column_names if name not in {*texts, *rising, "area"}]
    pq.write_table(
        table,
        path,
        compression={path: "zstd" if path in texts else "lz4" for path in _leaves(table.schema)},
        compression_level=dict.fromkeys(texts, 1),
        row_group_size=ROWS_PER_GROUP,
        use_dictionary=repeated,
        column_encoding=dict.fromkeys(rising, "DELTA_BINARY_PACKED"),
        write_statistics=[name for name in table.column_names if name not in texts],
    )


def _leaves(schema: pa.Schema) -> list[str]:
    """The paths of columns in a Parquet file."""
    return [f"{each.name}.list.element" if pa.types.is_list(each.type) else each.name for each in schema]


def _sorted(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """A table sorted by columns, nulls last; a very large one as it is."""
    if table.nbytes > SORTED_BYTES:
        return table
    return table.combine_chunks().take(pc.sort_indices(table, [(name, "ascending") for name in columns]))


def _without_repeats(images: pa.Table) -> pa.Table:
    """Images without those that repeat another in all fields."""
    names = [name for name in images.column_names if name not in ("position", "style")]
    seen: dict[tuple[Any, ...], int] = {}
    for row, values in enumerate(zip(*(images[name].to_pylist() for name in names), strict=True)):
        seen.setdefault(values, row)
    return images.take(pa.array(sorted(seen.values()), pa.int64()))
