"""The tiles of a slide that are done, kept in a file: a run that was killed goes on where it was.

The file is a database of SQLite, which writes each tile whole or not at all. It belongs to one checkpoint, slide and choice
of settings, whose hash it holds.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy import ndarray

from detect.errors import OutputError
from detect.files import locked

NAME = "unfinished_tiles.sqlite"
EDGE_BYTES = 2**16  # of a slide's file that are hashed, at its start and its end
CREATE = "CREATE TABLE IF NOT EXISTS tiles (number INTEGER PRIMARY KEY, arrays BLOB) STRICT; PRAGMA user_version = 1"


@dataclass(frozen=True, eq=False)
class TileJournal:
    """Arrays by the number of a tile, as a dictionary has them."""

    database: sqlite3.Connection

    def __contains__(self, number: object) -> bool:
        return self._one("SELECT 1 FROM tiles WHERE number = ?", number) is not None

    def __len__(self) -> int:
        return int(self._one("SELECT count(*) FROM tiles")[0])

    def __getitem__(self, number: int) -> dict[str, ndarray]:
        row = self._one("SELECT arrays FROM tiles WHERE number = ?", number)
        if row is None:
            raise KeyError(number)
        try:
            with np.load(io.BytesIO(row[0]), allow_pickle=False) as arrays:
                return dict(arrays)  # the archive has a checksum of each array
        except (BadZipFile, ValueError, EOFError, OSError, TypeError) as error:
            raise OutputError(f"{NAME}: tile {number} is damaged ({error}): remove the file, to start again") from None

    def __setitem__(self, number: int, arrays: Mapping[str, ndarray]) -> None:
        packed = io.BytesIO()
        np.savez(packed, **arrays)  # type: ignore[arg-type]
        with self.database:
            self.database.execute("INSERT OR REPLACE INTO tiles VALUES (?, ?)", (number, packed.getvalue()))

    def _one(self, query: str, *values: Any) -> Any:
        with _known_errors():
            return self.database.execute(query, values).fetchone()


@contextmanager
def _known_errors() -> Iterator[None]:
    """Make what Python raises when SQLite's message quotes damaged bytes an error of SQLite."""
    try:
        yield
    except UnicodeDecodeError:
        raise sqlite3.DatabaseError("it is damaged") from None


@contextmanager
def open_journal(folder: str | Path, identity: str) -> Iterator[TileJournal]:
    """The journal of a folder, new or from a run that was interrupted; it is removed at the end, unless there is an error.

    Raises:
        OutputError: it belongs to something else, another process is at it, or it cannot be written.
    """
    path = Path(folder) / NAME
    with locked(path.with_name(f"{NAME}.lock"), OutputError):
        try:
            with closing(sqlite3.connect(path)) as database:
                _check_owner(database, path, identity)
                yield TileJournal(database)
        except sqlite3.Error as error:
            raise OutputError(f"{path}: cannot be used: {error}") from None
        for ending in ("", "-wal", "-shm"):
            path.with_name(NAME + ending).unlink(missing_ok=True)


def _check_owner(database: sqlite3.Connection, path: Path, identity: str) -> None:
    """Write to a new database whose it is; raise OutputError if it is that of something else."""
    with _known_errors():
        database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {CREATE}")
        database.execute("CREATE TABLE IF NOT EXISTS owner (identity TEXT)")
        owner = database.execute("SELECT identity FROM owner").fetchone()
    if owner is None:
        with database:
            database.execute("INSERT INTO owner VALUES (?)", (identity,))
    elif owner[0] != identity:
        raise OutputError(
            f"{path}: unfinished tiles of another checkpoint, slide or setting: finish with those, remove the file, "
            "or choose another --output"
        )


def identity_of(checkpoint: str | Path, slide: str | Path, settings: Mapping[str, Any]) -> str:
    """A hash of the checkpoint's content, the slide's files and the settings.

    Of the slide, names, sizes and times of all files count, and the content at the start and the end of a single one.
    """
    found = hashlib.sha256(Path(checkpoint).read_bytes())
    found.update(json.dumps([os.path.realpath(slide), settings], sort_keys=True, default=str).encode())
    slide = Path(slide)
    for file in sorted(slide.rglob("*")) if slide.is_dir() else [slide]:
        about = file.stat()
        if not file.is_dir():
            found.update(f"{file.relative_to(slide)} {about.st_size} {about.st_mtime_ns}\n".encode())
    if slide.is_file():
        with slide.open("rb") as stream:
            found.update(stream.read(EDGE_BYTES))
            stream.seek(max(0, slide.stat().st_size - EDGE_BYTES))
            found.update(stream.read(EDGE_BYTES))
    return found.hexdigest()
