"""Reading small files, and writing files and folders whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader
from pathlib import Path

MAX_FILE_BYTES = 2**20
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
