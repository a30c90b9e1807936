"""Files of tensors: read as plain values and tensors alone, and only if every byte is as it was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch

ZIP_START = b"PK\x03\x04"


def read_tensor_file(
    path: str | Path,
    error: Callable[[str], Exception],
    *,
    what: str = "a file of tensors alone",
    allow_unchecked: bool = False,
) -> Any:
    """What ``torch.save`` wrote, with tensors on the CPU; no code in it is run.

    The file is an archive with a checksum of each of its parts. ``torch.load`` ignores them: a flipped bit would give other
    weights. Here they are compared first.

    Args:
        what: the file should be, in the words of the message.
        allow_unchecked: also read the format from before torch 1.6, which has no checksums.

    Raises:
        error: the file cannot be read, is damaged, or holds anything but plain values and tensors; the message begins with
            its path.
    """
    try:
        with Path(path).open("rb") as stream:
            is_archive = stream.read(len(ZIP_START)) == ZIP_START
            stream.seek(0)
            if is_archive or not allow_unchecked:
                _check_archive(stream)
                stream.seek(0)
            return torch.load(stream, map_location="cpu", weights_only=True)
    except OSError as refused:
        raise error(f"{path}: {refused.strerror or refused}") from None
    except Exception as refused:  # torch and zipfile raise many types on damaged bytes
        reason = " ".join((str(refused).strip().splitlines() or [""])[0].split())[:200] or type(refused).__name__
        raise error(f"{path}: not {what}, or damaged ({reason})") from None


def _check_archive(stream: BinaryIO) -> None:
    """Raise BadZipFile unless the bytes of every part have their checksum."""
    with ZipFile(stream) as archive:
        packed = [part.filename for part in archive.infolist() if part.compress_type != ZIP_STORED]
        if packed:
            raise BadZipFile(f"{packed[0]} is compressed, which torch.save never does")
        damaged = archive.testzip()
        if damaged:
            raise BadZipFile(f"{damaged} has another checksum than was written")
