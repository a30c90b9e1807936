"""The files that a command may change in ``tools/chaos.py``, and the disks that they are on."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from detect.errors import TrainingError
from detect.training.checkpoints import read_checkpoint

TEMPORARY = (".detect-", "unfinished_tiles.sqlite", "training.lock")  # of a run that was killed, for the next one
PAGE = 4096  # bytes: what a file takes of a tmpfs is a multiple of this

Files = Mapping[str, bytes]  # the content of each file of a folder


def files_of(folder: Path, times: bytes = b"") -> dict[str, bytes]:
    """The content of all files but temporary ones, without times; the last column of ``epochs.csv`` is one."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(TEMPORARY) for part in name.split("/")):
            content = plain_checkpoint(path) if path.suffix == ".pt" else path.read_bytes()
            content = re.sub(times, b"", content) if times else content
            if path.name == "epochs.csv":
                content = b"\n".join(line.rpartition(b",")[0] for line in content.split(b"\n"))
            found[name] = content
    return found


def plain_checkpoint(path: Path) -> bytes:
    """The values of a checkpoint, whatever the order of its bytes; its bytes if it cannot be read."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return [(name, plain(each)) for name, each in value.items()]
        if isinstance(value, list | tuple):
            return list(map(plain, value))
        return (value.dtype, value.shape, value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value

    try:
        return repr(plain(torch.load(path, weights_only=True))).encode()
    except Exception:
        return path.read_bytes()


def pages_of(folder: Path) -> dict[str, int]:
    """The pages that each file takes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): -(-path.stat().st_size // PAGE) for path in files}


def temporary_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith(TEMPORARY)]


def is_whole(path: Path, content: bytes, known: list[bytes]) -> bool:
    """Whether a file of a training that is not at its end is whole: the start of a table, or a checkpoint."""
    if path.suffix == ".csv":
        return any(each.startswith(content) for each in known)
    try:
        return read_checkpoint(path).step > 0
    except TrainingError:
        return False


def can_mount(folder: Path) -> bool:
    try:
        with disk(folder):
            return True
    except subprocess.CalledProcessError:
        return False


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """Lay an empty disk of memory over a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "chaos", folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True, capture_output=True)
