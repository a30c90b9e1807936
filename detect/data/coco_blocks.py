"""A JSON list read in blocks of whole entries, with little memory: a block is cut where an entry ends, and decoded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from itertools import islice
from typing import Generic, TypeVar

import msgspec

BLOCK_BYTES = 2**20  # a few thousand annotations: they stay in the processor's cache
LONGEST_ANNOTATION_BYTES = 2**26  # of a part of a list without a place to cut
MAX_ENDS = 4  # brackets tried as the end of the list, before brackets are counted
_LIST_ENDS = re.compile(rb"\}\s*\]")
TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*("?)|[][{},]', re.DOTALL)  # a text, maybe without its end, or a bracket
INVALID_JSON = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

Part = TypeVar("Part")


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
        is_full = self._filled >= BLOCK_BYTES  # of what was read before the list
        while self._filled < LONGEST_ANNOTATION_BYTES:
            at_end = not (is_full or self._fill())
            is_full = False
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
