"""Image files by name: the folder of a dataset's images, in which labels are looked up as tools write their names."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from detect.data.coco_entries import Finding
from detect.errors import CocoError
from detect.files import is_file, is_folder

NAMES_OF_FORMATS = "avif bmp dib gif jfif jp2 jpe jpeg jpg mpo pbm pgm png pnm ppm tga tif tiff webp"
SUFFIXES = frozenset(f".{name}" for name in NAMES_OF_FORMATS.split())


class ImageFolder:
    """The image files below a folder, by name."""

    def __init__(self, root: str) -> None:
        self.root = root
        if not is_folder(root):
            raise CocoError(f"{root}: not a folder of images")
        found = files_below(root, is_image)
        self.left_out = found.left_out
        self._by_stem: dict[str, list[str]] = {}  # by path without suffix, below the folder
        for file in found.files:
            name = in_utf8(file[len(root) :].replace(os.sep, "/").lstrip("/"))
            self._by_stem.setdefault(without_suffix(name), []).append(name)
        self._by_base: dict[str, list[str]] | None = None

    def find(self, name: str) -> str | None:
        """The image of a name with or without suffix; in another folder, if only one image has the name.

        Folders at the front of the name, such as those of another machine, are tried without.
        """
        name = name.replace("\\", "/")
        stem = name if without_suffix(name) not in self._by_stem else without_suffix(name)
        if found := _match(self._by_stem.get(stem, ()), name):
            return found
        if self._by_base is None:
            self._by_base = {}
            for names in self._by_stem.values():
                for each in names:
                    self._by_base.setdefault(without_suffix(each).rpartition("/")[2], []).append(each)
        base = name.rpartition("/")[2]
        same = self._by_base.get(without_suffix(base)) or self._by_base.get(base, [])
        tails = [each for each in same if f"/{name}".endswith(f"/{each}")]  # a/b/c.png for b/c.png
        return _match(tails or same, base)

    def names(self) -> Iterator[str]:
        """The names of all images, sorted within their stems."""
        for names in self._by_stem.values():
            yield from names


def _match(found: Sequence[str], name: str) -> str | None:
    """The only one found; of several, the one with the name's suffix."""
    exact = [each for each in found if each == name or each.endswith(f"/{name}")]
    chosen = exact or found
    return chosen[0] if len(chosen) == 1 else None


def without_suffix(name: str) -> str:
    """A path without the suffix of an image or text file: only that of its last part.

    >>> without_suffix("a.b/c.d.png"), without_suffix("frame.0001")
    ('a.b/c.d', 'frame.0001')
    """
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - many names: a Path for each would take seconds
    return stem if suffix.lower() in SUFFIXES or suffix.lower() == ".txt" else name


def name_hint(folder: str | Path, name: str) -> str:
    """What would make a file name lead to an image, as the end of an error's message; empty if no file is found.

    The name is tried from the folders above ``folder`` and in it; then with slashes for backslashes and without folders at
    its front, which may be the server of a URL.
    """
    folder = Path(folder)
    is_below = bool(name) and not name.startswith("/") and ".." not in name
    for other in (*list(folder.parents)[:3], *_folders_in(folder)) if is_below else ():
        if is_file(other / name):
            return f": the file exists as {other / name}: set data.images={other} (--images {other})"
    parts = (name.partition("://")[2] or name.replace("\\", "/")).rpartition("../")[2].split("/")
    for start in range(len(parts)):
        tail = "/".join(parts[start:]).lstrip("/")
        if tail != name and is_file(folder / tail):
            return f": the file exists as {folder / tail}: write {tail!r} in the annotations"
    return ": file names are paths of files, not URLs: download the images" if "://" in name else ""


@lru_cache(maxsize=8)
def _folders_in(folder: Path) -> tuple[Path, ...]:
    """The folders in a folder, listed once: a dataset of missing images asks for each of them."""
    return tuple(sorted(each for each in folder.glob("*") if each.is_dir()))


def in_utf8(name: str) -> str:
    """The name of a file as a text that can be written; of one that is not UTF-8 the other bytes are escapes.

    An image with such a name is not found by it, and counts as broken.
    """
    return name.encode("utf-8", "backslashreplace").decode()


def walk_links(root: str) -> Iterator[tuple[str, list[str] | None]]:
    """The path of each folder below a folder, and the sorted names of its files; links are followed, hidden names are not.

    A folder that is left out has None in place of names: it cannot be listed, or is a link to one that was walked already
    (:func:`why_left_out`). Hidden are names that begin with a dot, which tools give to their own copies and notes.

    Raises:
        OSError: the first folder cannot be listed.
    """
    seen: set[str] = set()
    folders, links = deque([root]), deque[str]()  # links wait, so that a folder is walked by its own name
    while folders or links:
        where = folders.popleft() if folders else links.popleft()
        real = os.path.realpath(where)
        try:
            entries = None if real in seen else sorted(os.scandir(where), key=lambda entry: entry.name)
        except OSError:
            if where == root:
                raise
            entries = None
        if entries is None:
            yield where, None
            continue
        seen.add(real)
        names = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif entry.is_symlink() and is_folder(entry.path):
                links.append(entry.path)
            else:
                names.append(entry.name)
        yield where, names


def _why_unlisted(folder: str | Path) -> str:
    try:
        os.scandir(folder).close()
    except OSError as error:
        return f"a folder that cannot be read: {error.strerror or error}"
    return ""


def why_left_out(folder: str | Path) -> str:
    """Why :func:`walk_links` leaves a folder out; nothing for a folder that it does not."""
    is_link = os.path.islink(folder)  # noqa: PTH114
    return _why_unlisted(folder) or ("a link to a folder that was read already" if is_link else "")


@dataclass(frozen=True)
class FilesBelow:
    """The paths of files below a folder, sorted, and the folders in it that cannot be listed."""

    files: list[str]
    left_out: list[Finding]


def files_below(root: str, is_wanted: Callable[[str, str], bool]) -> FilesBelow:
    """The files below a folder that are wanted, given a folder's path and a file's name in it, as :func:`walk_links`.

    Raises:
        CocoError: the folder itself cannot be listed.
    """
    files, left_out = [], []
    try:
        for where, names in walk_links(root):
            files += [f"{where}{os.sep}{name}" for name in names or () if is_wanted(where, name)]
            if names is None and (reason := _why_unlisted(where)):
                left_out.append(Finding(where, None, None, reason))
    except OSError as error:
        raise CocoError(f"{root}: {error.strerror or error}") from None
    return FilesBelow(sorted(files), left_out)


def is_image(_: str, name: str) -> bool:
    """Whether a file in a folder is named as an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - many names


def image_names(root: str) -> list[str]:
    """The names of the image files in a folder, sorted; none if it cannot be listed."""
    with suppress(OSError):
        names = (path.name for path in Path(root).iterdir())
        return sorted(in_utf8(name) for name in names if is_image(root, name) and not name.startswith("."))
    return []
