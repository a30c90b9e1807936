"""Change a file a little and keep its structure: values of JSON and YAML, tokens of text, parts of archives, bytes."""

from __future__ import annotations

import copy
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any
from xml.etree import ElementTree as ET

from detect.text_formats import parse_yaml

PNG, ZIP, GZIP = b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"\x1f\x8b"
MAX_BYTES, MAX_UNPACKED = 2**16, 2**18  # of a file, and of a part of an archive
TOKEN = re.compile(rb'"(?:[^"\\\n]|\\.)*"|[\w.+-]+|\s+|.', re.DOTALL)
WORDS = r"""
0 -0 -1 1 2 -0.0 0.5 1e-320 1e308 1e400 -1e400 NaN nan Infinity -inf 2147483648 9223372036854775807 9223372036854775808
-9223372036854775809 4294967297 1e19 1_0 0x10 1,5 null ~ true false "" "\u0000" "\ud800" "NaN" "1" "1e400" "a/../../b" "=1+1"
[] {} [[]] [null] {"":0} {"a":null} [0,0,0,0] [1,2,-3,4] [1e308,1e308,1e308,1e308] &a *a !!int !!set << - : , # ' " \
<!DOCTYPE> &amp; <![CDATA[ <a/>
"""
HOSTILE = (
    *WORDS.split(),
    *("9" * 5000, "[" * 200 + "]" * 200, "[" * 3000, '"é\u202e"', '" "', "- ", ": ", "\t", "\n", "\r", "\0", "\ufeff"),
)
JSON_VALUE = r'-?\d[\d.e-]*|NaN|Infinity|null|true|false|"[^"]*"|[\[{].*[\]}]'
VALUES = tuple(word for word in HOSTILE if re.fullmatch(JSON_VALUE, word))
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
MARK = "@ a value to replace @"


def mutate(data: bytes, random: Random, *, most: int = MAX_BYTES) -> bytes:
    """Change one to three places of a file; checksums of archives and PNG files are made right again."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = _change(data, random)[:most]
    return data


def _change(data: bytes, random: Random) -> bytes:
    if random.random() < 0.05:
        return _change_bytes(data, random)
    for start, change in ((ZIP, _change_archive), (GZIP, _change_packed), (PNG, _change_png)):
        if data.startswith(start):
            return change(data, random)
    if b"\0" in data[:4096]:
        return _change_bytes(data, random)
    content = _structure(data) if random.random() < 0.8 else None
    if isinstance(content, ET.Element):
        return _change_xml(content, random)
    return _change_text(data, random) if content is None else _change_structure(content, random)


def _structure(data: bytes) -> Any:
    """The elements of XML, the lists and mappings of JSON or YAML; None if it is none of these."""
    try:
        if data.lstrip().startswith(b"<"):
            return ET.fromstring(data)  # noqa: S314 - made here
        text = data.decode()
        content = json.loads(text) if text.lstrip()[:1] in ("{", "[") else parse_yaml(text, ValueError)
    except (ValueError, RecursionError, LookupError, ET.ParseError):
        return None
    return content if isinstance(content, list | dict) else None


def _change_structure(content: Any, random: Random) -> bytes:
    """Replace, rename, move, repeat or remove one value; the result is JSON, which YAML includes."""
    places = list(_places(content)) or [([content], 0)]
    (inside, at), (other_inside, other) = random.choice(places), random.choice(places)
    edit = random.random()
    if edit < 0.55:
        inside[at] = MARK
    elif edit < 0.65:
        inside[at] = other_inside[other]
    elif edit < 0.75 and isinstance(inside, dict):
        inside[random.choice((other, str(other), ""))] = inside.pop(at)
    elif edit < 0.85 and isinstance(inside, list):
        inside[at:at] = inside[at : at + 1] * random.choice((1, 2, 50))
    elif edit < 0.9:
        inside[at] = random.choice(([inside[at]], {"a": inside[at]}, str(inside[at])))
    else:
        del inside[at]
    try:
        text = json.dumps(content, default=str)
    except (ValueError, RecursionError, TypeError):  # a value inside itself, or keys that JSON lacks
        return b"[]"
    value = random.choice(VALUES if random.random() < 0.8 else HOSTILE)
    return text.replace(f'"{MARK}"', value).encode("utf-8", "surrogatepass")


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every value below the top as a container and an index."""
    for at, value in list(content.items() if isinstance(content, dict) else enumerate(content)):
        yield content, at
        if isinstance(value, list | dict):
            yield from _places(value)


def _change_xml(root: ET.Element, random: Random) -> bytes:
    """Replace a text or attribute, rename, repeat or remove an element."""
    element, other = random.choices(list(root.iter()), k=2)
    edit = random.random()
    if edit < 0.35 and element.attrib:
        element.set(random.choice(sorted(element.attrib)), random.choice(HOSTILE))
    elif edit < 0.6:
        element.text = random.choice(HOSTILE)
    elif edit < 0.75:
        element.tag = other.tag
    elif edit < 0.9 or not len(element):
        element.append(copy.deepcopy(other))
    else:
        element.remove(random.choice(list(element)))
    return ET.tostring(root)


def _change_text(data: bytes, random: Random) -> bytes:
    """Replace, remove, repeat or insert tokens: words, quoted texts and signs; or change a token's bytes."""
    tokens = TOKEN.findall(data)
    if not tokens:
        return random.choice(HOSTILE).encode()
    first, other = _span(tokens, random), _span(tokens, random)
    taken = tokens[other]
    edits: tuple[Callable[[], Sequence[bytes]], ...] = (
        lambda: [random.choice(HOSTILE).encode()],
        lambda: [random.choice(HOSTILE).encode()],
        lambda: taken,
        list,
        lambda: tokens[first] * random.choice((2, 3, 40)),
        lambda: [*tokens[first], *taken],
        lambda: [_change_bytes(b"".join(tokens[first]), random)],
    )
    tokens[first] = random.choice(edits)()
    return b"".join(tokens)


def _span(tokens: Sequence[bytes], random: Random) -> slice:
    """A word or quoted text, most of the time, or some tokens in a row."""
    start = random.randrange(len(tokens))
    if random.random() < 0.3:
        return slice(start, start + random.choice((1, 2, 4, 8, 32)))
    words = (place for place in range(start, min(start + 8, len(tokens))) if re.match(rb'["\w.+-]', tokens[place]))
    start = next(words, start)
    return slice(start, start + 1)


def _change_bytes(data: bytes, random: Random) -> bytes:
    """Flip a bit, write a number of up to eight bytes, remove, repeat or insert some, or cut the rest off."""
    place, length = random.randrange(len(data) + 1), random.choice((1, 1, 2, 4, 8, 16, 64))
    before, there, after = data[:place], data[place : place + length], data[place + length :]
    size = random.choice((1, 2, 4, 8))
    number = (random.choice(NUMBERS) % 256**size).to_bytes(size, random.choice(("little", "big")))
    edits: tuple[Callable[[], bytes], ...] = (
        lambda: before + bytes([there[0] ^ 1 << random.randrange(8)]) + data[place + 1 :] if there else data + b"\0",
        lambda: before + random.randbytes(1) + data[place + 1 :],
        lambda: before + number + data[place + size :],
        lambda: before + after,
        lambda: before + there * random.choice((2, 3, 50)) + after,
        lambda: before + random.randbytes(length) + data[place:],
        lambda: before,
    )
    return random.choice(edits)()


def _change_archive(data: bytes, random: Random) -> bytes:
    """Change one part of a zip archive, as .npz and .pt files are."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {part.filename: archive.read(part) for part in archive.infolist() if part.file_size <= MAX_UNPACKED}
        name = random.choice(sorted(parts))
    except Exception:  # its own bytes were changed before
        return _change_bytes(data, random)
    parts[name] = _change(parts[name], random)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for each, content in parts.items():
            archive.writestr(zipfile.ZipInfo(each), content)
    return packed.getvalue()


def _change_packed(data: bytes, random: Random) -> bytes:
    try:
        text = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MAX_UNPACKED)
    except zlib.error:
        return _change_bytes(data, random)
    return gzip.compress(_change(text, random), mtime=0)


def _change_png(data: bytes, random: Random) -> bytes:
    changed = bytearray(PNG + _change_bytes(data[len(PNG) :], random))
    place = len(PNG)
    while place + 8 <= len(changed):
        end = place + 8 + int.from_bytes(changed[place : place + 4], "big")
        if end + 4 > len(changed):
            break
        changed[end : end + 4] = zlib.crc32(changed[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(changed)
