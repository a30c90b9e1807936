"""Image files by name: the folder of a dataset's images, in which labels are looked up as tools write their names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from detect.errors import CocoError

NAMES_OF_FORMATS = "avif bmp dib gif jfif jp2 jpe jpeg jpg mpo pbm pgm png pnm ppm tga tif tiff webp"
SUFFIXES = frozenset(f".{name}" for name in NAMES_OF_FORMATS.split())


class ImageFolder:
    """The image files below a folder, by name."""

    def __init__(self, root: str) -> None:
        self.root = root
        if not os.path.isdir(root):  # noqa: PTH112
            raise CocoError(f"{root}: not a folder of images")
        self._by_stem: dict[str, list[str]] = {}  # by path without suffix, below the folder
        for name in image_names(root):
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
        if os.path.isfile(other / name):  # noqa: PTH113 - Path.is_file raises for a name that is too long
            return f": the file exists as {other / name}: set data.images={other} (--images {other})"
    parts = (name.partition("://")[2] or name.replace("\\", "/")).rpartition("../")[2].split("/")
    for start in range(len(parts)):
        tail = "/".join(parts[start:]).lstrip("/")
        if tail != name and os.path.isfile(folder / tail):  # noqa: PTH113
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


def walk_links(root: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """The path of each folder below a folder, the names of its files, and those of folders left out; links are followed.

    Left out are folders that cannot be listed, and links to a folder that was walked already: :func:`why_left_out`.

    Raises:
        OSError: the first folder cannot be listed.
    """
    seen = {os.path.realpath(root)}
    waiting = [root]
    while waiting:
        where = waiting.pop()
        files, inner, left_out = [], [], []
        with os.scandir(where) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not entry.is_dir(follow_symlinks=False) and not (entry.is_symlink() and os.path.isdir(entry.path)):  # noqa: PTH112 - a loop of links is no folder
                    files.append(entry.name)
                elif (real := os.path.realpath(entry.path)) in seen or not _can_list(entry.path):
                    left_out.append(entry.name)
                else:
                    seen.add(real)
                    inner.append(entry.path)
        waiting += reversed(inner)
        yield where, files, left_out


def _can_list(folder: str) -> bool:
    try:
        os.scandir(folder).close()
    except OSError:
        return False
    return True


def why_left_out(folder: str | Path) -> str:
    """Why :func:`walk_links` leaves a folder out; nothing for a folder that it does not."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        return f"a folder that cannot be read: {error.strerror or error}"
    return "a link to a folder that was read already" if os.path.islink(folder) else ""  # noqa: PTH114


def image_names(root: str, *, inner: bool = True) -> list[str]:
    """The paths of the image files in a folder, and below it with ``inner``, with slashes, sorted."""
    names = []
    for where, folders, files in os.walk(root):
        if not inner:
            folders.clear()
        below = os.path.relpath(where, root).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        names += [in_utf8(prefix + file) for file in files if os.path.splitext(file)[1].lower() in SUFFIXES]  # noqa: PTH122
    return sorted(names)
