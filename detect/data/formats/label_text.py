"""Label files as text, JSON or XML, of bounded size; and numbers in them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from xml.etree import ElementTree as ET

import msgspec

from detect.errors import CocoError
from detect.files import open_regular
from detect.text_formats import decode_json

MAX_FILE_BYTES = 2**30  # limit on one label file


def numbers_of(values: Iterable[Any]) -> list[float]:
    """Finite numbers of texts or numbers; raises ValueError that names the first other value."""
    numbers = []
    for value in values:
        try:
            number = float(value)
        except (OverflowError, TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{short_repr(value)} is not a number")
        numbers.append(number)
    return numbers


def short_repr(value: object) -> str:
    """A value as Python writes it, cut after 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def stem_of(file: str) -> str:
    """The name of a file without folder and suffix."""
    return os.path.splitext(os.path.basename(file))[0]  # noqa: PTH119, PTH122 - names of files are text here


def folder_of(files: Sequence[str]) -> str:
    """The folder that holds all files."""
    try:
        return os.path.commonpath({os.path.dirname(file) for file in files}) or "."  # noqa: PTH120
    except ValueError:  # relative and absolute paths
        return "."


def read_bytes(file: str) -> bytes:
    """The content of one label file of bounded size.

    Raises:
        CocoError: the file cannot be read or is too large.
    """
    try:
        with open_regular(file) as stream:
            if os.fstat(stream.fileno()).st_size > MAX_FILE_BYTES:
                raise CocoError(f"{file}: more than {MAX_FILE_BYTES >> 30} GiB: cut it into several files")
            return stream.read()
    except OSError as error:
        raise CocoError(f"{file}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL, or half of a pair, in a name that another file gives
        raise CocoError(f"{file}: not the name of a file ({error})") from None


def read_text(file: str) -> str:
    """The text of one label file, in UTF-8, in UTF-16 with a byte order mark, or else in Windows' Latin alphabet."""
    content = read_bytes(file)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def read_json(file: str) -> Any:
    """The content of a JSON file, without the pictures that LabelMe puts into its files.

    Raises:
        CocoError: the file cannot be read or is not JSON.
    """
    return json_of(read_text(file), file)


def json_of(text: str, place: str) -> Any:
    """What a JSON text says; raises CocoError, whose message begins with the place."""
    with suppress(msgspec.DecodeError, RecursionError):  # NaN, as Python writes it, a number too large, or no JSON
        return msgspec.json.decode(text)
    return decode_json(text, lambda reason: CocoError(f"{place}: {reason}"))


def read_xml(file: str) -> ET.Element:
    """The root of an XML file. Files that declare a document type are refused: entities in it could grow without bound.

    Raises:
        CocoError: the file cannot be read, is not XML or declares a document type.
    """
    content = read_bytes(file)
    try:
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise _DoctypeError
        return ET.fromstring(content, ET.XMLParser(target=_WithoutDoctype()))  # noqa: S314 - no document type: no entities
    except _DoctypeError:
        raise CocoError(
            f"{file}: it declares a document type (<!DOCTYPE>), which label files have no use for"
        ) from None
    except ET.ParseError as error:
        raise CocoError(f"{file}: not XML ({error})") from None
    except (LookupError, ValueError) as error:
        raise CocoError(f"{file}: not XML that can be decoded ({error})") from None


class _DoctypeError(Exception):
    """A document type is declared."""


class _WithoutDoctype(ET.TreeBuilder):
    """A document type in any encoding is an error."""

    def doctype(self, *_: object) -> None:
        raise _DoctypeError
