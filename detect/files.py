"""Reading small files and YAML, and writing files whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import itertools
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml

MAX_FILE_BYTES = 2**20
LONGEST_SHOWN = 40  # characters of a value in a message
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)")  # the group: half of a pair
FORMULA_STARTS, FORMULA_SPACE = ("=", "+", "-", "@"), " \t\r\n"
TEMPORARY = ".detect-"  # start of the names of temporary folders


def open_regular(path: str | Path) -> BufferedReader:
    """Open a file to read its bytes. What is no file is refused: a pipe without a writer would be waited for.

    Raises:
        OSError: it cannot be opened, or is a pipe, a socket or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")  # noqa: PTH123 - no path
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file: write it to disk first", str(path))


def is_folder(path: str | Path) -> bool:
    """Whether a path is a folder; not if it has a name that no file can have, for which ``Path.is_dir`` raises OSError."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: str | Path) -> bool:
    """Whether a path is a file; for any name, as :func:`is_folder`."""
    return os.path.isfile(path)  # noqa: PTH113


def exists(path: str | Path) -> bool:
    """Whether there is a file, a folder or a pipe; for any name, as :func:`is_folder`."""
    return os.path.exists(path)  # noqa: PTH110


def read_small_text(path: str | Path, error: Callable[[str], Exception]) -> str:
    """The text of a file of at most ``MAX_FILE_BYTES``.

    Raises:
        error: the file cannot be read, is larger, or is no UTF-8; the message begins with its path.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise error(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB")
        return path.read_text("utf-8")
    except OSError as refused:
        raise error(f"{path}: {refused.strerror or refused}") from None
    except UnicodeDecodeError as refused:
        raise error(f"{path}: not UTF-8 text ({refused})") from None


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


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write one file as :func:`write_files` does."""
    path = Path(path)
    write_files(path.parent, {path.name: content})


def write_files(folder: str | Path, files: Mapping[str, str | bytes]) -> None:
    """Write all files to a temporary folder inside ``folder``, then rename them: a reader sees no part of one.

    Missing folders are created. If writing fails, all old files stay. Two writers rename one after the other, so that the
    files of one of them are there in the end. A process that is killed between two renames leaves new files beside old ones.
    """
    folder = Path(folder)
    with temporary_folder(folder) as temporary:
        for name, content in files.items():
            written = temporary / name
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        lock = _lock(folder, wait=True) if len(files) > 1 else None
        try:
            for name in files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).replace(folder / name)
        finally:
            if lock is not None:
                os.close(lock)


@contextmanager
def locked(path: str | Path, error: Callable[[str], Exception]) -> Iterator[None]:
    """Keep other processes out of a folder by a file in it, which is made, locked and at the end removed.

    A folder that was made for it and is still empty is removed, too. A process that is killed gives up its lock. Without
    locks, as on Windows, others are let in.

    Raises:
        error: another process has the lock, or the folder cannot be written.
    """
    path = Path(path)
    folder, is_new = path.parent, not path.parent.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock_of_file(path)
    except BlockingIOError:
        raise error(f"{folder}: another process is writing there") from None
    except OSError as refused:
        raise error(f"{folder}: cannot be written: {refused.strerror or refused}") from None
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
            if is_new:
                folder.rmdir()
        if lock is not None:
            os.close(lock)


def _lock_of_file(path: Path) -> int | None:
    while True:
        path.touch()
        with suppress(FileNotFoundError):  # the process that had it has just removed it
            lock = _lock(path, wait=False)
            if lock is None or os.path.samestat(os.fstat(lock), path.stat()):
                return lock
            os.close(lock)


def write_folder(folder: str | Path, files: Iterable[tuple[str, bytes | Path]]) -> None:
    """Write files, given as (name, content), to a new or empty folder, whole or not at all.

    They are written to a temporary folder beside it, which is then renamed. A content that is a path is a file on the same
    disk, which is moved.

    Raises:
        FileExistsError: the folder is not empty.
    """
    folder = Path(folder)
    with temporary_folder(folder.parent) as temporary:  # before the check: it clears up after killed processes
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise FileExistsError(errno.EEXIST, "it exists and is not an empty folder", str(folder))
        made = temporary / "content"
        made.mkdir()
        for name, content in files:
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                content.rename(path)
            else:
                path.write_bytes(content)
        if folder.exists():
            folder.rmdir()
        made.rename(folder)


@contextmanager
def temporary_folder(parent: str | Path) -> Iterator[Path]:
    """A new folder inside ``parent``, which is made if needed; at the end it is removed with all that is in it.

    Its name is its own among threads, processes and hosts. It is locked while it is in use: the first call of a process for
    a parent removes those that killed processes have left there, and no others.
    """
    parent = Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(parent.resolve())
    folder, lock = _locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked_folder(parent: Path) -> tuple[Path, int | None]:
    """A new folder and the descriptor that holds its lock."""
    while True:
        folder = parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            lock = _lock(folder, wait=True)
            if lock is None or os.path.samestat(os.fstat(lock), folder.stat()):
                return folder, lock
            os.close(lock)
        except FileNotFoundError:  # another process took it for abandoned before it was locked
            continue


def _lock(path: Path, *, wait: bool) -> int | None:
    """Lock a file or folder until the descriptor is closed; None where there are no locks.

    Raises:
        BlockingIOError: it is locked, unless ``wait``.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flock(descriptor, LOCK_EX if wait else LOCK_EX | LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@cache
def _clear_abandoned(parent: Path) -> None:
    """Remove the temporary folders of processes that were killed."""
    for folder in parent.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            lock = _lock(folder, wait=False)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
