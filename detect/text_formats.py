"""YAML, JSON and CSV: plain values are read, and cells are written that no spreadsheet runs as formulas."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from detect.files import MAX_FILE_BYTES, read_small_text

LONGEST_SHOWN = 40  # characters of a value in a message
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)")  # the group: half of a pair
FORMULA_STARTS, FORMULA_SPACE = ("=", "+", "-", "@"), " \t\r\n"


def parse_yaml(text: str, error: Callable[[str], Exception]) -> Any:
    """What a YAML text says in plain Python values.

    Raises:
        error: it is not YAML, or YAML that stands for other objects.
    """
    try:
        loader = _PlainLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_keys(node)
            if "*" in text:
                _check_aliases(node, 4 * max(len(text), MAX_FILE_BYTES // 4))
            content = loader.construct_document(node)
            if "\\" in text and _has_nul(content):
                raise ValueError("a NUL in a text, which no name of a file or category can have")
            return content
        finally:
            loader.dispose()
    except (
        yaml.YAMLError,
        RecursionError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        OverflowError,
    ) as refused:
        # PyYAML lets the errors of its own code through: an empty `!!int`, a `!!timestamp` that is none
        raise error(f"not YAML ({' '.join(str(refused).split())[:300]})") from None


class _PlainLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml's: ten times as fast
    """Reads plain values: a date stays a text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in its base class
        start: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """An integer; of more digits than Python writes it is an error with its place."""
        with suppress(ValueError):
            number: int = super().construct_yaml_int(node)
            str(number)
            return number
        what = "an integer of too many digits" if len(node.value) > LONGEST_SHOWN else f"{node.value!r} is no integer"
        raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)


def _has_nul(content: Any) -> bool:
    """Whether a text in plain values has a NUL, which YAML can write as an escape."""
    if isinstance(content, str):
        return "\0" in content
    parts = itertools.chain(*content.items()) if isinstance(content, dict) else content
    return isinstance(content, dict | list | set) and any(map(_has_nul, parts))


def _check_keys(node: yaml.Node) -> None:
    """Raise a YAMLError if a mapping has a key twice: readers would take the last without a word."""
    waiting, seen = [node], set[int]()
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, yaml.ScalarNode) or id(inner) in seen:  # an alias may stand for what it is in
            continue
        seen.add(id(inner))
        if not isinstance(inner, yaml.MappingNode):
            waiting += inner.value
            continue
        names = set[tuple[str, str]]()
        for key, value in inner.value:
            waiting += (key, value)
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if (key.tag, key.value) in names:
                    what = f"{key.value[:LONGEST_SHOWN]!r} is there twice"
                    raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
                names.add((key.tag, key.value))


def _check_aliases(node: yaml.Node, most: int) -> None:
    """Raise ValueError if a document holds itself, or more than ``most`` characters and values once aliases are expanded."""
    sizes: dict[int, int | None] = {}  # None while a node is being measured

    def size_of(inner: yaml.Node) -> int:
        if id(inner) in sizes:
            known = sizes[id(inner)]
            if known is None:
                raise ValueError("an alias stands for what it is in")
            return known
        sizes[id(inner)] = None
        parts = inner.value if not isinstance(inner, yaml.ScalarNode) else ()
        flat = itertools.chain(*parts) if isinstance(inner, yaml.MappingNode) else parts
        size = 1 + sum(map(size_of, flat)) if parts else 1 + len(inner.value)
        if size > most:
            raise ValueError("its aliases expand to more than the file could hold")
        sizes[id(inner)] = size
        return size

    size_of(node)


def read_yaml(path: str | Path, error: Callable[[str], Exception]) -> Any:
    """What a small YAML file says in plain Python values.

    Raises:
        error: it cannot be read, or is not YAML; the message begins with its path.
    """
    return parse_yaml(read_small_text(path, error), lambda reason: error(f"{path}: {reason}"))


def parse_json(content: bytes | bytearray | str, **options: Any) -> Any:
    """What Python's reader makes of JSON: slower than msgspec's, it accepts NaN and a byte order mark, and locates errors.

    Half of a pair of UTF-16, which no text can hold, is read as U+FFFD, and an integer of more digits than Python reads as
    infinite, as any other number too large for it. The options are those of :func:`json.loads`.

    >>> parse_json('["NaN", NaN, "' + chr(92) + 'ud83d", -' + "9" * 5000 + "]")
    ['NaN', nan, '�', -inf]
    """
    if not isinstance(content, str):
        content = content.decode(json.detect_encoding(content))
    if "\\ud" in content or "\\uD" in content:
        content = _ESCAPE.sub(lambda found: r"\ufffd" if found[1] else found[0], content)
    try:
        return json.loads(content, **options)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(content, parse_int=whole_number, **options)


def decode_json(content: bytes | bytearray | str, error: Callable[[str], Exception], **options: Any) -> Any:
    """What :func:`parse_json` makes of JSON.

    Raises:
        error: it is not JSON; the message says where.
    """
    try:
        return parse_json(content, **options)
    except json.JSONDecodeError as refused:
        raise error(f"not JSON (line {refused.lineno}, column {refused.colno}: {refused.msg})") from None
    except UnicodeDecodeError as refused:
        raise error(f"not text (byte {refused.start:,} is not {refused.encoding})") from None
    except RecursionError:
        raise error("nested too deeply") from None


def whole_number(digits: str) -> int | float:
    """The integer of some digits; infinite if they are more than Python reads."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The text of a CSV file. A text that a spreadsheet would run as a formula gets an apostrophe before it.

    >>> print(csv_text(["name", "score"], [["=1+1", -0.5], ["-0.5", "+cell"]]), end="")
    name,score
    '=1+1,-0.5
    -0.5,'+cell
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_guarded(cell) for cell in row] for row in [header, *rows])
    return text.getvalue()


def _guarded(cell: Any) -> Any:
    """A cell of a table: a text that begins as a formula is marked as a text, unless it is a number or a dash."""
    if not isinstance(cell, str) or not cell.lstrip(FORMULA_SPACE).startswith(FORMULA_STARTS) or cell == "-":
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def unguarded(cell: str) -> str:
    """What a cell of :func:`csv_text` was.

    >>> unguarded("'=1+1"), unguarded("'s"), unguarded("-1")
    ('=1+1', "'s", '-1')
    """
    is_marked = cell.startswith("'") and cell[1:].lstrip(FORMULA_SPACE).startswith(FORMULA_STARTS)
    return cell[1:] if is_marked else cell
