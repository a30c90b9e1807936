"""Rows spread over buckets with little memory: what does not fit waits in files of a temporary folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64
from numpy import ndarray

FLUSH_BYTES = 96 * 2**20  # rows held before they are written
_GROUP_BITS = 8  # images with the same id above these bits share a bucket, so that neighbours stay together
_MULTIPLIER = np.uint64(
    0x9E3779B97F4A7C15
)  # 2**64 over the golden ratio (Fibonacci hashing): spreads rising numbers evenly


def buckets_of_images(image_ids: Int64[ndarray, " n"], num_buckets: int) -> Int64[ndarray, " n"]:
    """The bucket of each image, which depends on its id alone.

    >>> buckets_of_images(np.array([1, 255, 256, 512]), 3)
    array([0, 0, 1, 0])
    """
    groups = (image_ids >> _GROUP_BITS).astype(np.uint64)
    return (((groups * _MULTIPLIER) >> np.uint64(32)) * np.uint64(num_buckets) >> np.uint64(32)).astype(np.int64)


class Buckets:
    """Tables of rows, each row with the number of its bucket. Tables may lack columns that others have."""

    def __init__(self, where: str, num_buckets: int) -> None:
        self._folder, self._num_buckets = Path(where), num_buckets
        self._tables: list[pa.Table] = []
        self._numbers: list[Int64[ndarray, " n"]] = []
        self._waiting_bytes = 0
        self._files: list[tuple[str, int]] = []  # and what is added to the positions in it

    def add(self, table: pa.Table, buckets: Int64[ndarray, " n"]) -> None:
        self._tables.append(table)
        self._numbers.append(buckets)
        self._waiting_bytes += table.nbytes
        if self._waiting_bytes > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rows held, with a batch for each bucket, so that a bucket is read back by itself."""
        if not self._tables:
            return
        table = pa.concat_tables(self._tables, promote_options="default").combine_chunks()
        numbers = np.concatenate(self._numbers)
        self._tables, self._numbers, self._waiting_bytes = [], [], 0
        table = table.take(pa.array(np.argsort(numbers, kind="stable")))
        ends = np.cumsum(np.bincount(numbers, minlength=self._num_buckets)).tolist()
        path = self._folder / f"{len(self._files):06}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            for start, end in zip([0, *ends[:-1]], ends, strict=True):
                rows = table.slice(start, end - start).to_batches()
                writer.write_batch(rows[0] if rows else pa.RecordBatch.from_pylist([], table.schema))
        self._files.append((str(path), 0))

    @property
    def files(self) -> list[str]:
        return [path for path, _ in self._files]

    def adopt(self, files: Iterable[str], first_position: int) -> None:
        """Take files that other buckets wrote, of rows whose column ``position`` starts from here."""
        self._files += [(path, first_position) for path in files]

    def tables(self, bucket: int) -> Iterator[pa.Table]:
        """The rows of a bucket, in the order in which they were added; ``flush`` comes before."""
        for path, first_position in self._files:
            with pa.memory_map(path) as memory:
                table = pa.Table.from_batches([pa.ipc.open_file(memory).get_batch(bucket)])
            if first_position and len(table):
                positions = pc.add(table["position"], first_position)
                table = table.set_column(table.column_names.index("position"), "position", positions)
            if len(table):
                yield table
