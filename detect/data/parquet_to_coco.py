"""Parquet datasets as the COCO file they were made of, with little memory: every entry and value, in the file's order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from detect.data.buckets import Buckets, RowBlock
from detect.data.coco_reader import Progress
from detect.data.entry_columns import ANNOTATIONS, IMAGES, EntryKind
from detect.data.entry_tables import EntryJson
from detect.data.parquet_files import Description, Part, parquet_parts, read_description
from detect.data.parquet_reader import check_columns, open_parquet
from detect.files import temporary_folder, write_folder

ROWS_AT_ONCE = 50_000
COCO_FILE = "annotations.json"


def write_coco(source: str, output: str | Path, *, on_progress: Progress) -> list[Part]:
    """Write ``annotations.json`` to a new folder, whole or not at all; the parts that it was made of.

    Its text is that of the file that was converted, but for spaces between tokens. Parts of several files are one file.

    Raises:
        CocoError: a part is missing or cannot be read.
        OSError: the folder cannot be written.
    """
    output, parts = Path(output), parquet_parts(source)
    described = read_description(source if not parts else parts[0].folder)
    with temporary_folder(output.parent) as temporary:

        def files() -> Iterator[tuple[str, bytes | Path]]:
            path = temporary / COCO_FILE
            with path.open("wb") as file:
                for text in _texts(parts, described, temporary, on_progress):
                    file.write(text)
            yield COCO_FILE, path

        write_folder(output, files())
    return parts


def _texts(parts: list[Part], described: Description, temporary: Path, on_progress: Progress) -> Iterator[bytes]:
    """The text of the file, piece by piece."""
    kinds = {kind.name: kind for kind in (IMAGES, ANNOTATIONS)}
    others = described.texts()
    yield b"{"
    for number, key in enumerate(described.keys):
        yield (b"," if number else b"") + msgspec.json.encode(key) + b":"
        if key in kinds:
            yield from _list(parts, kinds[key], described.fields[key], temporary, on_progress)
        else:
            yield others[key]
    yield b"}"


def _list(
    parts: list[Part], kind: EntryKind, fields: list[str], temporary: Path, on_progress: Progress
) -> Iterator[bytes]:
    """The text of a list: the entries of all parts, spread by their place in the file, and sorted a stretch at a time."""
    (temporary / kind.name).mkdir()
    buckets, json = Buckets(str(temporary / kind.name), max(len(parts), 1)), EntryJson(kind, fields)
    total = sum(part.num_images if kind is IMAGES else part.num_annotations for part in parts)
    per_bucket = -(-total // max(len(parts), 1)) or 1
    for number, part in enumerate(parts):
        on_progress(f"reading {kind.name}", number, len(parts))
        name = part.images_file if kind is IMAGES else part.annotations_file
        with open_parquet(name) as file:
            check_columns(name, file.schema_arrow, kind.schema(fields))
            for batch in file.iter_batches(ROWS_AT_ONCE):
                texts = list(json.texts(kind, batch))
                rows = RowBlock(pa.table({"position": batch["position"]}), {"text": texts}, sum(map(len, texts)))
                buckets.add(rows, np.minimum(batch["position"].to_numpy() // per_bucket, len(parts) - 1))
    buckets.flush()
    separator = b"["
    for number in range(len(parts)):
        tables = list(buckets.tables(number))
        if tables:
            table = pa.concat_tables(tables).combine_chunks().sort_by("position")
            yield separator + b",".join(table["text"].cast(pa.binary()).to_pylist())
            separator = b","
    yield b"]" if separator == b"," else b"[]"
