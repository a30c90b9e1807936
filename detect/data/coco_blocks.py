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
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, to_builtins
from msgspec.structs import asdict

from detect.data.coco_entries import Annotation, AnnotationEntries, Category, Image, Rows, entry_type
from detect.data.coco_tolerance import TolerantReader
from detect.text_formats import parse_json

BLOCK_BYTES = 2**20  # a few thousand annotations: they stay in the processor's cache
LONGEST_ANNOTATION_BYTES = 2**26  # of a part of a list without a place to cut
MAX_ENDS = 4  # brackets tried as the end of the list, before brackets are counted
_LIST = re.compile(rb'"annotations"\s*:\s*\[')
_LIST_ENDS = re.compile(rb"\}\s*\]")
TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*("?)|[][{},]', re.DOTALL)  # a text, maybe without its end, or a bracket
INVALID_JSON = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
# decoded in place of the annotations, with ids that no file has
_STAND_IN = Annotation(image_id=-(2**61) - 1, category_id=-(2**61) - 3)
_ATTRIBUTES = attrgetter("attributes")
_ONLY_PYTHON = (b"NaN", b"Infinity", rb"\ud", rb"\uD")  # floats as Python writes them, halves of characters
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Part = TypeVar("Part")


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
    blocks = ListBlocks(stream, start, _AnnotationDecoder(tolerant, columns).decode)
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


class ListBlocks(Generic[Part]):
    """A JSON list after its opening bracket: a buffer, filled, cut at an object's end, and decoded.

    ``decode(buffer, end)`` makes a part of the list in the first ``end`` bytes of the buffer; None if they are not a list.
    """

    def __init__(
        self, stream: BufferedIOBase, start: bytes | bytearray, decode: Callable[[bytearray, int], Part | None]
    ) -> None:
        self.ended = False
        self._stream = stream
        self._decode = decode
        self._buffer = bytearray(b"[") + start  # makes a list of what follows
        self._filled = len(self._buffer)

    @property
    def rest(self) -> bytes:
        """The bytes read after the end of the list."""
        return bytes(self._buffer[1 : self._filled])

    def next(self) -> Part | None:
        """The next entries; None if no entry's end is found."""
        while self._filled < LONGEST_ANNOTATION_BYTES:
            at_end = not self._fill()
            for place, is_end in self._places():
                if (part := self._try(place)) is not None:
                    self.ended = is_end
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

    def _places(self) -> Iterator[tuple[int, bool]]:
        """Places to try, the likely ones first, and whether each would be the end of the list."""
        yield from ((cut, False) for cut in self._last_comma())
        ends = islice(_LIST_ENDS.finditer(self._buffer, 1, self._filled), MAX_ENDS)
        yield from [(end.end() - 1, True) for end in ends]
        yield from _exact_place(self._buffer, self._filled)

    def _last_comma(self) -> Iterator[int]:
        """The position of the last comma between objects, which may lie in a list inside of an entry."""
        brace = self._filled
        while (brace := self._buffer.rfind(b"{", 1, brace)) > 0:
            before = self._buffer[max(brace - 64, 1) : brace].rstrip()
            if before.endswith(b",") and before[:-1].rstrip().endswith(b"}"):
                yield self._buffer.rfind(b",", 1, brace)
                return

    def _try(self, cut: int) -> Part | None:
        """Decode the entries before the cut and drop them from the buffer; None if no entry ends there."""
        separator, self._buffer[cut] = self._buffer[cut], ord("]")
        part = self._decode(self._buffer, cut + 1)
        if part is None:
            self._buffer[cut] = separator
            return None
        left = self._filled - cut - 1
        self._buffer[1 : 1 + left] = self._buffer[cut + 1 : self._filled]
        self._filled = 1 + left
        return part


def _exact_place(buffer: bytearray, filled: int) -> list[tuple[int, bool]]:
    """The end of the list, or else the last comma between its entries, found by counting brackets."""
    depth, comma = 0, 0
    for token in TOKEN.finditer(buffer, 1, filled):
        sign = token.group()[:1]
        if sign == b'"' and not token.group(1):
            break  # the text goes on
        if depth == 0 and sign == b"]":
            return [(token.start(), True)]
        if depth == 0 and sign == b",":
            comma = token.start()
        depth += (sign in b"[{") - (sign in b"]}")
    return [(comma, False)] if comma else []


class _AnnotationDecoder:
    """Decodes annotations in a buffer at once, or entry by entry."""

    def __init__(self, tolerant: TolerantReader, columns: Mapping[str, bool]) -> None:
        self._tolerant = tolerant
        self._columns = columns
        of_entry: type[Any] = entry_type(**columns)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[of_entry])  # type: ignore[valid-type]

    def decode(self, buffer: bytearray, end: int) -> AnnotationEntries | None:
        """Decode the bytes before the end."""
        try:
            with memoryview(buffer) as view:
                entries = self._decoder.decode(view[:end])
        except msgspec.ValidationError:
            return self._one_by_one(buffer, end)
        except INVALID_JSON:
            return self._plainly(buffer, end)
        part = AnnotationEntries.of(entries, **self._columns)
        has_outlines = not part.has_box.all() and buffer.find(b'"segmentation"', 1, end) > 0
        if has_outlines or any(entry.is_rotated for entry in filter(_ATTRIBUTES, entries)):
            return self._one_by_one(buffer, end)
        self._tolerant.skip(part)
        return part

    def _one_by_one(self, buffer: bytearray, end: int) -> AnnotationEntries | None:
        """Decode entries whose fields have any types."""
        try:
            entries = msgspec.json.decode(bytes(buffer[:end]), type=list[_AnyAnnotation])
        except INVALID_JSON as error:
            return self._plainly(buffer, end, isinstance(error, msgspec.ValidationError))  # some are no objects
        return self._tolerant.annotations([_fields_of(entry) for entry in entries])

    def _plainly(self, buffer: bytearray, end: int, worthwhile: bool = False) -> AnnotationEntries | None:
        """Decode with Python's reader, if anything that only it reads is in the bytes before the end."""
        if not worthwhile and all(buffer.find(word, 1, end) < 0 for word in _ONLY_PYTHON):
            return None
        entries = _parse_plainly(buffer[:end])
        return None if entries is None else self._tolerant.annotations(entries)


def _fields_of(entry: _AnyAnnotation) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if value is not UNSET}
