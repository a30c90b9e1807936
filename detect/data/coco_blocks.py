"""Decoding a COCO file in blocks, with little memory.

A block whose every entry has the right types is decoded at once. Any other block, and one with a box to take from an outline
or a rotation to tell of, is read entry by entry (:mod:`detect.data.coco_tolerance`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from io import BufferedIOBase
from itertools import islice
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, to_builtins
from msgspec.structs import asdict

from detect.data.coco_entries import Annotation, AnnotationEntries, Category, Image, Rows, entry_type
from detect.data.coco_tolerance import TolerantReader
from detect.files import parse_json

BLOCK_BYTES = 2**20  # a few thousand annotations: they stay in the processor's cache
LONGEST_ANNOTATION_BYTES = 2**26
MAX_CUTS = 16  # places tried as the end of a block
_LIST = re.compile(rb'"annotations"\s*:\s*\[')
_LIST_ENDS = re.compile(rb"\}\s*\]")
INVALID_JSON = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
# decoded in place of the annotations, with ids that no file has
_STAND_IN = Annotation(image_id=-(2**61) - 1, category_id=-(2**61) - 3)
_ATTRIBUTES = attrgetter("attributes")
_ONLY_PYTHON = (b"NaN", b"Infinity", rb"\ud", rb"\uD")  # floats as Python writes them, halves of characters
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class CocoFile(Struct):
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category] | None = None


class _AnyAnnotation(Struct, gc=False):
    """The fields of an annotation, whatever their types."""

    image_id: Any = UNSET
    category_id: Any = UNSET
    bbox: Any = UNSET
    id: Any = UNSET
    iscrowd: Any = UNSET
    area: Any = UNSET
    keypoints: Any = UNSET
    attributes: Any = UNSET
    angle: Any = UNSET
    rotation: Any = UNSET
    segmentation: Raw = UNSET  # type: ignore[assignment]  # decoded only where the box is missing


def read_in_blocks(
    stream: BufferedIOBase, file: str, *, keypoints: bool, angles: bool = False, on_block: Callable[[], None]
) -> Rows | None:
    """Decode a file block by block from its unpacked bytes, with a call of ``on_block`` after each.

    None if the file is not COCO, or not laid out as most are.
    """
    head, start = _up_to_annotations(stream, on_block)
    columns = {"keypoints": keypoints, "angles": angles}
    tolerant = TolerantReader(file, **columns)
    blocks = _Blocks(stream, start, tolerant, columns)
    parts = []
    while not blocks.ended:
        if (part := blocks.next()) is None:
            return None
        parts.append(part)
        on_block()
    around = b"".join([head, msgspec.json.encode(_STAND_IN), b"]", blocks.rest, read_to_end(stream, on_block)])
    return _with_the_rest(around.removeprefix(_BYTE_ORDER_MARK), AnnotationEntries.join(parts), tolerant)


def _with_the_rest(around: bytes, annotations: AnnotationEntries, tolerant: TolerantReader) -> Rows | None:
    """The rows of a file, given its text with a stand-in for the annotations."""
    try:
        content = msgspec.json.decode(around, type=CocoFile)
        if content.annotations == [_STAND_IN]:
            return tolerant.rows(content.images, annotations, content.categories or None)
    except INVALID_JSON:
        plain = _parse_plainly(around)
        if isinstance(plain, dict) and plain.get("annotations") == [to_builtins(_STAND_IN)]:
            images, categories = plain.get("images"), plain.get("categories")
            if isinstance(images, list) and isinstance(categories, list | None):
                return tolerant.rows(tolerant.images(images), annotations, tolerant.categories(categories))
    return None


def _parse_plainly(text: bytes | bytearray) -> Any:
    """Decode JSON with Python's reader, which accepts NaN; None if it cannot."""
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return None


def read_to_end(stream: BufferedIOBase, on_block: Callable[[], None]) -> bytearray:
    """The remaining bytes of a stream."""
    content = bytearray()
    while block := stream.read(BLOCK_BYTES):
        content += block
        on_block()
    return content


def _up_to_annotations(stream: BufferedIOBase, on_block: Callable[[], None]) -> tuple[bytearray, bytearray]:
    """The bytes up to and including the opening bracket of the annotations, and the bytes read after it."""
    head = bytearray()
    while block := stream.read(BLOCK_BYTES):
        searched = max(len(head) - 64, 0)  # the key may span two blocks
        head += block
        if found := _LIST.search(head, searched):
            return head[: found.end()], head[found.end() :]
        on_block()
    return head, bytearray()


class _Blocks:
    """The list of annotations after its opening bracket: a buffer, filled, cut at an annotation's end, and decoded."""

    def __init__(
        self, stream: BufferedIOBase, start: bytearray, tolerant: TolerantReader, columns: Mapping[str, bool]
    ) -> None:
        self.ended = False
        self._stream = stream
        self._tolerant = tolerant
        self._columns = columns
        of_entry: type[Any] = entry_type(**columns)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[of_entry])  # type: ignore[valid-type]
        self._buffer = bytearray(b"[") + start  # makes a list of what follows
        self._filled = len(self._buffer)

    @property
    def rest(self) -> bytes:
        """The bytes read after the end of the list."""
        return bytes(self._buffer[1 : self._filled])

    def next(self) -> AnnotationEntries | None:
        """The next annotations; None if no annotation's end is found."""
        while self._filled < LONGEST_ANNOTATION_BYTES:
            at_end = not self._fill()
            for cut in islice(self._cuts(), MAX_CUTS):
                if (part := self._try(cut)) is not None:
                    return part
            for end in islice(_LIST_ENDS.finditer(self._buffer, 1, self._filled), MAX_CUTS):
                if (part := self._try(end.end() - 1)) is not None:
                    self.ended = True
                    return part
            if at_end:
                break
        return None

    def _fill(self) -> int:
        if self._filled > len(self._buffer) // 2:  # few bytes were decoded: a longer block may contain an end
            self._buffer += bytes(max(len(self._buffer), BLOCK_BYTES))
        with memoryview(self._buffer) as view:
            got = self._stream.readinto(view[self._filled :])
        self._filled += got
        return int(got)

    def _cuts(self) -> Iterator[int]:
        """Positions of commas between objects, from the last backwards."""
        brace = self._filled
        while (brace := self._buffer.rfind(b"{", 1, brace)) > 0:
            before = self._buffer[max(brace - 64, 1) : brace].rstrip()
            if before.endswith(b",") and before[:-1].rstrip().endswith(b"}"):
                yield self._buffer.rfind(b",", 1, brace)

    def _try(self, cut: int) -> AnnotationEntries | None:
        """Decode the annotations before the cut and drop them from the buffer; None if no annotation ends there."""
        separator, self._buffer[cut] = self._buffer[cut], ord("]")
        part = self._decode(cut + 1)
        if part is None:
            self._buffer[cut] = separator
            return None
        left = self._filled - cut - 1
        self._buffer[1 : 1 + left] = self._buffer[cut + 1 : self._filled]
        self._filled = 1 + left
        return part

    def _decode(self, end: int) -> AnnotationEntries | None:
        """Decode the bytes before the end."""
        try:
            with memoryview(self._buffer) as view:
                entries = self._decoder.decode(view[:end])
        except msgspec.ValidationError:
            return self._decode_one_by_one(end)
        except INVALID_JSON:
            return self._decode_plainly(end)
        part = AnnotationEntries.of(entries, **self._columns)
        has_outlines = not part.has_box.all() and self._buffer.find(b'"segmentation"', 1, end) > 0
        if has_outlines or any(entry.is_rotated for entry in filter(_ATTRIBUTES, entries)):
            return self._decode_one_by_one(end)
        self._tolerant.skip(part)
        return part

    def _decode_one_by_one(self, end: int) -> AnnotationEntries | None:
        """Decode entries whose fields have any types."""
        try:
            entries = msgspec.json.decode(bytes(self._buffer[:end]), type=list[_AnyAnnotation])
        except INVALID_JSON as error:
            return self._decode_plainly(end, isinstance(error, msgspec.ValidationError))  # some are no objects
        return self._tolerant.annotations([_fields_of(entry) for entry in entries])

    def _decode_plainly(self, end: int, worthwhile: bool = False) -> AnnotationEntries | None:
        """Decode with Python's reader, if anything that only it reads is in the bytes before the end."""
        if not worthwhile and all(self._buffer.find(word, 1, end) < 0 for word in _ONLY_PYTHON):
            return None
        entries = _parse_plainly(self._buffer[:end])
        return None if entries is None else self._tolerant.annotations(entries)


def _fields_of(entry: _AnyAnnotation) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if value is not UNSET}
