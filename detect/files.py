"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory


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


def write_folder(folder: str | Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files, given as (name, content), to a new or empty folder, whole or not at all.

    They are written to a temporary folder beside it, which is then renamed.

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
            path.write_bytes(content)
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
