"""Reading small files and YAML, and writing files whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_FILE_BYTES = 2**20


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
        return yaml.load(text, SAFE_LOADER)  # noqa: TID251, S506 - libyaml's, ten times as fast
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError) as refused:
        # PyYAML lets the errors of its own code through: an empty `!!int`, a `!!timestamp` that is none
        raise error(f"not YAML ({' '.join(str(refused).split())})") from None


def read_yaml(path: str | Path, error: Callable[[str], Exception]) -> Any:
    """What a small YAML file says in plain Python values.

    Raises:
        error: it cannot be read, or is not YAML; the message begins with its path.
    """
    return parse_yaml(read_small_text(path, error), lambda reason: error(f"{path}: {reason}"))


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write to a temporary file beside ``path``, then rename it: a reader sees the old file or the new one, never a part.

    Missing folders are created. If writing fails, the old file stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_folder(folder: str | Path, files: Iterable[tuple[str, bytes | Path]]) -> None:
    """Write files, given as (name, content), to a new or empty folder, whole or not at all.

    They are written to a temporary folder beside it, which is then renamed. A content that is a path is a file on the same
    disk, which is moved.

    Raises:
        FileExistsError: the folder is not empty.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(errno.EEXIST, "it exists and is not an empty folder", str(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        made = Path(temporary) / folder.name
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
