"""The top level of a COCO file, one value after the other, with little memory: lists in parts, other values as text."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from gzip import BadGzipFile, GzipFile
from io import BufferedIOBase
from typing import Any

import msgspec

from detect.data import coco_blocks
from detect.data.coco_blocks import INVALID_JSON, TOKEN, ListBlocks
from detect.errors import CocoError
from detect.files import open_regular
from detect.text_formats import parse_json

MAX_VALUE_BYTES = 2**26  # of info, licences and categories, which are kept in memory
_SPACE = re.compile(rb"[ \t\r\n]*")
_KEY = re.compile(rb'[ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*')
_OUTSIDE_TEXTS = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+', re.DOTALL)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Decode = Callable[[bytearray, int], Any]  # as of ListBlocks
Split = Callable[[str, int], tuple[int, bool]]


def compact_json(text: bytes) -> bytes:
    """JSON without spaces between its tokens, and otherwise the same.

    >>> compact_json(b'{"a": [1.50, NaN], "b": "c d"}')
    b'{"a":[1.50,NaN],"b":"c d"}'
    """
    try:
        return msgspec.json.format(text, indent=-1)
    except INVALID_JSON:
        return _OUTSIDE_TEXTS.sub(rb"\1", text)


@contextmanager
def open_json(name: str) -> Iterator[tuple[BufferedIOBase, Callable[[], int]]]:
    """Open a ``.json`` or ``.json.gz`` file: its unpacked bytes, and a function that tells the bytes read of the file.

    Raises:
        CocoError: it cannot be opened or read to its end.
    """
    try:
        opened = open_regular(name)
    except OSError as error:
        raise CocoError(f"{name}: {error.strerror or error}") from None
    try:
        with opened as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: BufferedIOBase = GzipFile(fileobj=file) if packed else file
            yield stream, file.tell
    except (BadGzipFile, EOFError, zlib.error) as error:
        raise CocoError(f"{name}: a damaged or truncated .gz file ({error})") from None


def read_top_level(
    stream: BufferedIOBase,
    file: str,
    lists: Mapping[str, Decode],
    *,
    on_block: Callable[[], None],
    split: Split | None = None,
) -> Iterator[tuple[str, Any]]:
    """Yield the key and value of each field of the object in a file, with a call of ``on_block`` after each block.

    A list that is named in ``lists`` is yielded as ``(key, None)`` and then part by part, as its function decodes them; the
    memory taken does not depend on its length. Another value is yielded as its JSON text, compact. ``split``, given a list's
    key and where it begins in the file, may read some of it itself: it says where the list goes on, and whether it ended.

    Raises:
        CocoError: it is not a JSON object, breaks off, or has a value that is too large for memory.
    """
    return _TopLevel(stream, file, on_block).fields(lists, split)


class _TopLevel:
    """A buffer on a stream, and how many bytes of it were read before the buffer."""

    def __init__(self, stream: BufferedIOBase, file: str, on_block: Callable[[], None]) -> None:
        self._stream, self._file, self._on_block = stream, file, on_block
        self._buffer = bytearray()

    def fields(self, lists: Mapping[str, Decode], split: Split | None) -> Iterator[tuple[str, Any]]:
        self._fill()
        if self._buffer.startswith(_BYTE_ORDER_MARK):
            del self._buffer[: len(_BYTE_ORDER_MARK)]
        if self._next_byte() != b"{":
            found = "the file is empty" if not self._buffer else "no object at the top"
            raise CocoError(f"{self._file}: {found}: expected a COCO file: an object with images and annotations")
        seen: set[str] = set()
        separator = b"{"
        while separator != b"}":
            del self._buffer[:1]
            if separator == b"{" and self._next_byte() == b"}":
                break
            key = self._key()
            if key in seen:
                raise CocoError(f"{self._file}: {key!r} occurs twice at the top")
            seen.add(key)
            if key in lists and self._next_byte() == b"[":
                yield key, None
                yield from self._list(key, lists[key], split)
            else:
                yield key, self._value(key)
            separator = self._next_byte()
            if separator not in (b",", b"}"):
                raise self._broken()
        del self._buffer[:1]
        if self._next_byte():
            raise self._broken()

    def _list(self, key: str, decode: Decode, split: Split | None) -> Iterator[tuple[str, Any]]:
        del self._buffer[:1]
        if self._next_byte() == b"]":
            del self._buffer[:1]
            return
        if split:
            start = self._stream.tell() - len(self._buffer)
            place, ended = split(key, start)
            if place != start:
                self._stream.seek(place)
                self._buffer.clear()
            if ended:
                return
        blocks = ListBlocks(self._stream, self._buffer, decode)
        while not blocks.ended:
            try:
                part = blocks.next()
            except CocoError as error:
                raise CocoError(f"{self._file}: {error}") from None
            if part is None:
                self._buffer = bytearray(blocks.rest)
                raise self._broken()
            yield key, part
            self._on_block()
        self._buffer = bytearray(blocks.rest)

    def _key(self) -> str:
        while (found := _KEY.match(self._buffer)) is None or found.end() == len(self._buffer):
            if len(self._buffer) > MAX_VALUE_BYTES or not self._fill():
                raise self._broken()
        try:
            key = str(msgspec.json.decode(found.group(1)))
        except INVALID_JSON:
            raise self._broken() from None
        del self._buffer[: found.end()]
        return key

    def _value(self, key: str) -> bytes:
        """The text of a value, which ends at a comma or brace outside of it."""
        place, depth, ended = _skip_value(self._buffer, 0, 0)
        while not ended:
            if len(self._buffer) > MAX_VALUE_BYTES:
                raise CocoError(f"{self._file}: {key!r} is larger than {MAX_VALUE_BYTES >> 20} MiB")
            if not self._fill():
                raise self._broken()
            place, depth, ended = _skip_value(self._buffer, place, depth)
        text = compact_json(bytes(self._buffer[:place]).strip())
        try:
            parse_json(text)
        except (ValueError, RecursionError):
            raise self._broken() from None
        del self._buffer[:place]
        return text

    def _next_byte(self) -> bytes:
        """The next byte that is no space, which stays in the buffer; nothing at the end."""
        while True:
            spaces = _SPACE.match(self._buffer)
            del self._buffer[: spaces.end() if spaces else 0]
            if self._buffer or not self._fill():
                return bytes(self._buffer[:1])

    def _fill(self) -> int:
        block = self._stream.read(coco_blocks.BLOCK_BYTES)
        self._buffer += block
        self._on_block()
        return len(block)

    def _broken(self) -> CocoError:
        """The error to raise for the text that follows."""
        before = self._stream.tell() - len(self._buffer)
        if not self._fill() and not self._buffer.rstrip().endswith(b"}"):
            return CocoError(
                f"{self._file}: the JSON breaks off: the file is truncated ({self._stream.tell():,} bytes)"
            )
        return CocoError(f"{self._file}: not JSON, or not laid out as COCO files are, after byte {max(before, 0):,}")


def _skip_value(buffer: bytearray, place: int, depth: int) -> tuple[int, int, bool]:
    """Go on to the end of a value, from a place in it: the place reached, the brackets open there, whether it is the end."""
    for token in TOKEN.finditer(buffer, place):
        sign = token.group()[:1]
        if sign == b'"' and not token.group(1):
            break  # the text goes on
        if depth == 0 and sign in b",}]":
            return token.start(), depth, True
        depth += (sign in b"[{") - (sign in b"]}")
        place = token.end()
    return place, depth, False
