"""Reading COCO files and structures: only the fields in use are decoded, and polygons and licences are skipped.

A file whose every entry has the right types is decoded in blocks (:mod:`detect.data.coco_blocks`). Any other file, also one
with NaN as Python's json module writes it, is read entry by entry, and each unreadable entry becomes a :class:`Finding`.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from gzip import BadGzipFile, GzipFile
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import msgspec

from detect.data.coco_blocks import CocoFile, read_in_blocks, read_to_end
from detect.data.coco_entries import (
    NO_ID,
    Annotation,
    AnnotationEntries,
    Category,
    Finding,
    Image,
    KeypointAnnotation,
    Rows,
)
from detect.errors import CocoError

EXPECTED = "expected a COCO file: an object with images, annotations and categories"
INTEGER_FIELDS = frozenset({"id", "image_id", "category_id", "width", "height", "iscrowd"})
MAX_JSON_BYTES = 16 * 2**30  # limit on the JSON text, also while unpacking .gz

Progress = Callable[[str, int, int], None]  # called with a description of the work, the amount done and the total


def read_rows(path: str | Path, *, keypoints: bool = False, on_progress: Progress | None = None) -> Rows:
    """Read one ``.json`` or ``.json.gz`` file; progress is in bytes of the file.

    Raises:
        CocoError: the file cannot be opened, is not JSON or is not COCO; the message says what it is instead.
    """
    path = Path(path)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # opening a pipe without a writer would block
            raise CocoError(f"{path}: not a regular file: write it to disk first")
        with path.open("rb") as file:
            return _read_open(file, path, keypoints, on_progress)
    except IsADirectoryError:
        raise CocoError(f"{path}: a folder: give the JSON file in it, or a pattern such as {path}/*.json") from None
    except (BadGzipFile, EOFError, zlib.error) as error:
        raise CocoError(f"{path}: a damaged or truncated .gz file ({error})") from None
    except OSError as error:
        raise CocoError(f"{path}: {error.strerror or error}") from None


def _read_open(file: BufferedIOBase, path: Path, keypoints: bool, on_progress: Progress | None) -> Rows:
    size_bytes = path.stat().st_size
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream: BufferedIOBase = GzipFile(fileobj=file) if packed else file

    def on_block() -> None:
        if stream.tell() > MAX_JSON_BYTES:
            unpacks = "unpacks to" if packed else "has"
            raise CocoError(f"{path}: {unpacks} more than {MAX_JSON_BYTES >> 30} GiB: cut it into shards")
        if on_progress:
            on_progress(f"reading {path.name}", min(file.tell(), size_bytes), size_bytes)

    if rows := read_in_blocks(stream, str(path), keypoints=keypoints, on_block=on_block):
        return rows
    stream.seek(0)
    return _decode(read_to_end(stream, on_block), path, keypoints)


def _decode(data: bytearray, path: Path, keypoints: bool) -> Rows:
    """Decode a whole file, entry by entry if some entry has a wrong type."""
    if not data:
        raise CocoError(f"{path}: the file is empty: {EXPECTED}")
    try:
        file: Any = msgspec.json.decode(data, type=CocoFile[KeypointAnnotation] if keypoints else CocoFile[Annotation])
        entries = AnnotationEntries.of(file.annotations, keypoints=keypoints)
        return Rows(str(path), file.images, entries, file.categories)
    except msgspec.ValidationError:
        pass  # some entry has a wrong type: find which
    except msgspec.DecodeError as error:
        if "truncated" in str(error):
            raise CocoError(f"{path}: the JSON breaks off: the file is truncated ({len(data):,} bytes)") from None
    except (RecursionError, UnicodeDecodeError):
        pass
    return rows_from_object(parse_plainly(data, path), file=str(path), keypoints=keypoints)


def rows_from_object(content: Any, *, file: str, keypoints: bool = False) -> Rows:
    """Convert a COCO structure in memory, entry by entry."""
    _require_coco(content, file)
    faults: list[Finding] = []
    types = {"images": Image, "annotations": KeypointAnnotation if keypoints else Annotation, "categories": Category}
    lists = {
        name: convert_entries(content[name], entry_type, file, faults)
        for name, entry_type in types.items()
        if content.get(name) is not None
    }
    entries = AnnotationEntries.of(lists["annotations"], keypoints=keypoints)
    return Rows(file, lists["images"], entries, lists.get("categories"), faults)


def parse_plainly(data: bytearray, path: str | Path, expected: str = EXPECTED) -> Any:
    """Decode JSON with Python's reader: slower, but it accepts NaN and a byte order mark, and locates errors."""
    try:
        return json.loads(data, object_hook=_without_polygons)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise CocoError(f"{path}: not JSON ({where}): {expected}") from None
    except UnicodeDecodeError as error:
        raise CocoError(f"{path}: not text (byte {error.start:,} is not {error.encoding}): {expected}") from None
    except RecursionError:
        raise CocoError(f"{path}: nested too deeply: {expected}") from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise CocoError(f"{path}: a number is too long ({str(error).split(';')[0]})") from None


def _without_polygons(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)  # most of a file's size: drop it while reading
    return entry


def _require_coco(content: Any, file: str) -> None:
    if isinstance(content, list):
        first = content[0] if content else None
        scored = isinstance(first, Mapping) and "score" in first
        what = "a results file (a list of detections with scores)" if scored else "a list at the top"
        raise CocoError(f"{file}: {what}: {EXPECTED}")
    if not isinstance(content, Mapping):
        raise CocoError(f"{file}: {_kind(content)} at the top: {EXPECTED}")
    for name in ("images", "annotations"):
        if name not in content:
            has = ", ".join(repr(key[:40]) for key in sorted(map(str, content))[:8]) or "nothing"
            raise CocoError(f"{file}: no {name!r} in it (it has {has}): {EXPECTED}")
    for name in ("images", "annotations", "categories"):
        absent = name == "categories" and content.get(name) is None
        if not (absent or isinstance(content[name], list | tuple)):
            raise CocoError(f"{file}: {name!r} is {_kind(content[name])}, not a list: {EXPECTED}")


def convert_entries(entries: Iterable[Any], entry_type: type[Any], file: str, faults: list[Finding]) -> list[Any]:
    """Convert entries one by one; each entry with a wrong type adds a finding to ``faults`` instead."""
    rows = []
    for number, entry in enumerate(entries):
        wanted = entry
        try:
            if isinstance(entry, Mapping):
                wanted = {name: _plain(entry[name]) for name in entry_type.__struct_fields__ if name in entry}
                for name in INTEGER_FIELDS & wanted.keys():
                    if isinstance(wanted[name], float) and wanted[name].is_integer():
                        wanted[name] = int(wanted[name])  # 640.0, as tables write integers
            rows.append(msgspec.convert(wanted, entry_type))
        except msgspec.ValidationError as error:
            faults.append(_fault(wanted, number, entry_type, str(error), file))
        except RecursionError:
            faults.append(_fault(wanted, number, entry_type, "nested too deeply", file))
    return rows


def _plain(value: Any) -> Any:
    """Python's values for NumPy's numbers and arrays, which a structure in memory may contain."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _fault(entry: Any, number: int, entry_type: type[Any], error: str, file: str) -> Finding:
    kind = "annotation" if issubclass(entry_type, Annotation) else entry_type.__name__.strip("_").lower()
    if not isinstance(entry, Mapping):
        return Finding(file, None, None, f"entry {number} of the {kind} list is {_kind(entry)}, not an object")
    message, _, where = error.partition(" - at ")
    reason = f"{where.strip('`').removeprefix('$.')}: {message}".removeprefix(": ").replace("`", "")
    own_id, box = _id(entry.get("id")), entry.get("bbox")
    if kind == "annotation" and isinstance(box, list | tuple) and len(box) != 4:
        reason = f"bbox has {len(box)} numbers, not 4 (x, y, width, height)"
    place = f"entry {number} of the {kind} list: {reason}"
    if kind == "annotation":
        own = (NO_ID, place) if own_id is None else (own_id, reason)
        return Finding(file, own[0], _id(entry.get("image_id")), own[1])
    return Finding(file, None, own_id if kind == "image" else None, place)


def _id(value: Any) -> int | None:
    """The value if it is an integer short enough for a message, otherwise None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 128 else None


def _kind(value: Any) -> str:
    names = {str: "a text", bool: "true or false", type(None): "null", dict: "an object", list: "a list"}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a number" if math.isfinite(value) else str(value)
    return names.get(type(value), type(value).__name__)
