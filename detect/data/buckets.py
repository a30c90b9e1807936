"""Rows spread over buckets with little memory: what does not fit waits in files of a temporary folder.

Texts, most of the bytes, stay Python's objects until their bucket is written, so that each is copied once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64, Shaped
from msgspec import Raw
from numpy import ndarray

from detect.data.coco_checks import FIBONACCI

FLUSH_BYTES = 96 * 2**20  # rows held before they are written
_GROUP_BITS = 8  # images with the same id above these bits share a bucket, so that neighbours stay together


def buckets_of_images(image_ids: Int64[ndarray, " n"], num_buckets: int) -> Int64[ndarray, " n"]:
    """The bucket of each image, which depends on its id alone.

    >>> buckets_of_images(np.array([1, 255, 256, 512]), 3)
    array([0, 0, 1, 0])
    """
    groups = (image_ids >> _GROUP_BITS).astype(np.uint64)
    return (((groups * FIBONACCI) >> np.uint64(32)) * np.uint64(num_buckets) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True)
class RowBlock:
    """Rows of a table whose texts are UTF-8 as ``bytes`` or ``Raw``; any other object is a missing text."""

    numbers: pa.Table
    texts: Mapping[str, Sequence[Any]]
    num_bytes: int
    """The size of the rows, about."""

    def __len__(self) -> int:
        return len(self.numbers)


def text_column(texts: Sequence[Any]) -> pa.Array:
    """A column of texts.

    >>> text_column([b"[1]", None, Raw(b"{}")]).to_pylist()
    ['[1]', None, '{}']
    """
    try:
        joined = b"".join(texts)
    except TypeError:
        return pa.array([bytes(own) if isinstance(own, bytes | Raw) else None for own in texts], pa.string())
    offsets = np.zeros(len(texts) + 1, np.int32)
    views: Iterator[memoryview] = map(memoryview, texts)
    np.cumsum(np.fromiter(map(len, views), np.int32, len(texts)), out=offsets[1:])
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(joined))


@dataclass(frozen=True)
class BucketFile:
    """A file with a batch of rows for each bucket."""

    path: str
    schema: pa.Schema
    ends: list[int]
    """The bytes at which batches end, from 0."""
    first_position: int = 0
    """What is added to the column ``position``."""

    def table(self, bucket: int) -> pa.Table:
        start, end = self.ends[bucket : bucket + 2]
        with Path(self.path).open("rb") as file:
            file.seek(start)
            batch = pa.ipc.read_record_batch(file.read(end - start), self.schema)
        table = pa.Table.from_batches([batch])
        if not self.first_position:
            return table
        place = table.column_names.index("position")
        return table.set_column(place, "position", pc.add(table["position"], self.first_position))


class Buckets:
    """Blocks of rows, each row with the number of its bucket. Blocks may lack columns that others have."""

    def __init__(self, where: str, num_buckets: int) -> None:
        self._folder, self._num_buckets = Path(where), num_buckets
        self._blocks: list[RowBlock] = []
        self._numbers: list[Int64[ndarray, " n"]] = []
        self._waiting_bytes = 0
        self.files: list[BucketFile] = []

    def add(self, block: RowBlock, buckets: Int64[ndarray, " n"]) -> None:
        if not len(block):
            return
        self._blocks.append(block)
        self._numbers.append(buckets)
        self._waiting_bytes += block.num_bytes
        if self._waiting_bytes > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rows held, with a batch for each bucket, so that a bucket is read back by itself."""
        if not self._blocks:
            return
        blocks, buckets = self._blocks, np.concatenate(self._numbers)
        self._blocks, self._numbers, self._waiting_bytes = [], [], 0
        order = np.argsort(buckets, kind="stable")
        numbers = pa.concat_tables([block.numbers for block in blocks], promote_options="default")
        (sorted_numbers,) = numbers.combine_chunks().take(pa.array(order)).to_batches()
        names = dict.fromkeys(chain.from_iterable(block.texts for block in blocks))
        texts = {name: _objects(blocks, name)[order] for name in names}
        schema = pa.schema([*numbers.schema, *(pa.field(name, pa.string()) for name in texts)])
        path, start, ends = self._folder / f"{len(self.files):06}.arrow", 0, [0]
        with path.open("wb") as file:
            for count in np.bincount(buckets, minlength=self._num_buckets).tolist():
                own = [text_column(values[start : start + count].tolist()) for values in texts.values()]
                columns = [*sorted_numbers.slice(start, count).columns, *own]
                ends.append(ends[-1] + file.write(pa.record_batch(columns, schema=schema).serialize()))
                start += count
        self.files.append(BucketFile(str(path), schema, ends))

    def adopt(self, files: Iterable[BucketFile], first_position: int) -> None:
        """Take files that other buckets wrote, of rows whose column ``position`` starts from here."""
        self.files += [replace(file, first_position=first_position) for file in files]

    def tables(self, bucket: int) -> Iterator[pa.Table]:
        """The rows of a bucket, in the order in which they were added; ``flush`` comes before."""
        return filter(len, (file.table(bucket) for file in self.files))


def _objects(blocks: Sequence[RowBlock], name: str) -> Shaped[ndarray, " n"]:
    """A column of texts of all blocks as objects."""
    own = (block.texts.get(name) or repeat(None, len(block)) for block in blocks)
    return np.fromiter(chain.from_iterable(own), object, sum(map(len, blocks)))
