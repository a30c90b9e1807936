"""The files of YOLO and Darknet datasets: ``data.yaml``, ``obj.data``, lists of images, folders of labels; and their images.

The label of an image is in the folder that has ``labels`` in place of ``images`` in its path, or beside the image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from detect.data.coco_entries import Finding
from detect.data.formats.label_text import folder_of, read_text
from detect.data.image_names import FilesBelow, ImageFolder, files_below, image_names, without_suffix
from detect.errors import CocoError
from detect.files import exists, is_file, is_folder
from detect.text_formats import parse_yaml

SPLITS = ("train", "val", "valid", "test")
NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "classes.names", "_darknet.labels")
NOT_LABELS = frozenset((*NAME_FILES, "requirements.txt", "readme.txt"))
LISTS = frozenset(f"{name}.txt" for name in SPLITS)  # of images, unless an image is called train
FOLDERS_ABOVE = 3  # in which names are looked for
MAX_CLASSES = 100_000


@dataclass
class YoloFiles:
    """Label files with their images: a label of None is missing, and the image has no objects.

    The names of images start from their ``folders``. ``names`` is None if no file has them.
    """

    file: str
    labels: list[str | None] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    names: Mapping[int, str | None] | None = None
    kpt_shape: tuple[int, int] | None = None
    kpt_names: Mapping[int, list[str]] = field(default_factory=dict)  # of classes
    notes: list[Finding] = field(default_factory=list)
    left_out: list[Finding] = field(default_factory=list)  # folders that cannot be read, and further images of a label


def files_of_labels(labels: Sequence[str], *, file: str, images: str | None = None) -> YoloFiles:
    """Pair label files with their images, found in the folder ``images`` or in the usual places.

    Images in the same folders without a label file have no objects.
    """
    names = sorted(labels)
    found = YoloFiles(file)
    _add_names(found, Path(names[0]).parent)
    _pair(found, names, images)
    return found


def files_of_yaml(file: str, split: str | None = None, *, images: str | None = None) -> YoloFiles:
    """The files that ``data.yaml`` names: those of one split, or of all.

    Raises:
        CocoError: the file is not such a file, or no split has label files.
    """
    found = YoloFiles(f"{file}:{split}" if split else file)
    content = _yaml(file)
    _take_names(found, content)
    above = Path(file).parent
    root = above / str(content.get("path") or ".")
    wanted = [split] if split else [each for each in SPLITS if content.get(each)]
    labels: list[str] = []
    listed: list[str] = []
    missing = []
    for name in wanted:
        entries = content.get(name) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            place = _place(root, str(entry)) or _place(above, str(entry))
            if place is None:
                missing.append(f"{name}: there is no {entry}")
            elif is_file(place):
                listed += _listed_images(place)
            else:
                below = label_files(str(place))
                labels += below.files
                found.left_out += below.left_out
    if not labels and not listed:
        reason = "; ".join(missing) or f"no entry or empty folders for {' or '.join(wanted or SPLITS)}"
        raise CocoError(f"{file}: no label files: {reason}")
    found.notes += [Finding(found.file, None, None, f"{each}: left out") for each in missing]
    _pair(found, sorted(set(labels)), images)
    _add_listed(found, listed, images)
    return found


def files_of_list(files: Sequence[str], *, images: str | None = None) -> YoloFiles:
    """The files of Darknet's lists of images, or of its ``obj.data``, which names the lists and the names of classes."""
    found = YoloFiles(", ".join(files))
    listed: list[str] = []
    for file in files:
        above = Path(file).parent
        entries = dict(re.findall(r"^\s*(\w+)\s*=\s*(.+?)\s*$", read_text(file), flags=re.MULTILINE))
        lists = [entries[name] for name in SPLITS if name in entries]
        for each in lists:
            listed += _listed_images(_existing(each, above) or above / each)
        if lists and (names := _existing(entries.get("names", ""), above)):
            found.names = _lines_of_names(names)
        elif not lists:
            listed += _listed_images(Path(file))
    if found.names is None:
        _add_names(found, Path(files[0]).parent)
    _add_listed(found, listed, images)
    return found


def label_files(root: str) -> FilesBelow:
    """The label files below a folder of labels, or of images whose labels lie in the usual place."""
    beside = _swapped(root, "images", "labels")
    if beside != root and is_folder(beside) and (found := files_below(beside, is_label_text)).files:
        return found
    return files_below(root, is_label_text) if is_folder(root) else FilesBelow([], [])


def is_label_text(where: str, name: str) -> bool:
    """Whether a file may be a label file: a text, but not one of names, and not a list of images."""
    if not name.lower().endswith(".txt") or name.lower() in NOT_LABELS:
        return False
    return name.lower() not in LISTS or read_text(f"{where}/{name}")[:1].isdigit()


def _pair(found: YoloFiles, labels: Sequence[str], images: str | None) -> None:
    """Add label files with their images, and the images beside these without a label."""
    if not labels:
        return
    root, folder = folder_of(labels), ImageFolder(images) if images else None
    pairs: dict[str, tuple[str, str]] = {}
    if folder:
        stems = {label: without_suffix(os.path.relpath(label, root).replace(os.sep, "/")) for label in labels}
        pairs = {label: (folder.root, name) for label, stem in stems.items() if (name := folder.find(stem))}
        found.left_out += folder.left_out
    unlabelled = _others(folder, {name for _, name in pairs.values()}) if folder else []
    by_folder: dict[str, list[str]] = {}
    for label in labels:
        if label not in pairs:
            by_folder.setdefault(os.path.dirname(label), []).append(label)  # noqa: PTH120
    for where, own in by_folder.items():
        place, names = _images_beside(where)
        of_stem = {without_suffix(name): name for name in names}
        same = [name for name in names if of_stem[without_suffix(name)] != name]
        found.left_out += [Finding(f"{place}/{name}", None, None, "another image has its label file") for name in same]
        for label in own:
            stem = without_suffix(os.path.basename(label))  # noqa: PTH119
            pairs[label] = (place, of_stem.pop(stem, f"{stem}.*"))
        unlabelled += [] if folder else [(place, name) for name in of_stem.values()]
    _add(found, [*((label, *pairs[label]) for label in labels), *((None, *each) for each in unlabelled)], bool(folder))


def _others(folder: ImageFolder, used: set[str]) -> list[tuple[str, str]]:
    """The other images of the folders that have a labelled one."""
    inner = {name.rpartition("/")[0] for name in used}
    return [(folder.root, name) for name in folder.names() if name not in used and name.rpartition("/")[0] in inner]


def _add(found: YoloFiles, pairs: Iterable[tuple[str | None, str, str]], rooted: bool) -> None:
    """Add (label, folder, name) sorted by image; without a folder of images, names start where all images lie."""
    rows = sorted(pairs, key=lambda pair: (pair[1], pair[2]))
    if not rows:
        return
    root = "" if rooted else os.path.commonpath({os.path.abspath(folder) for _, folder, _ in rows})  # noqa: PTH100
    inner: dict[str, str] = {}
    for label, folder, name in rows:
        if not rooted and folder not in inner:
            below = os.path.relpath(folder, root).replace(os.sep, "/")
            inner[folder] = "" if below == "." else f"{below}/"
        found.labels.append(label)
        found.images.append(inner.get(folder, "") + name)
        found.folders.append(root or folder)
    missing = sum(label is None for label, _, _ in rows)
    if missing:
        first = next(name for label, _, name in rows if label is None)
        reason = f"images without a label file are read as images without objects: {missing:,}, the first is {first}"
        found.notes.append(Finding(found.file, None, None, reason))


def _images_beside(folder: str) -> tuple[str, list[str]]:
    """The folder of the images of a folder of labels, and their names."""
    above = os.path.dirname(folder) or "."  # noqa: PTH120
    for place in dict.fromkeys((_swapped(folder, "labels", "images"), folder, f"{above}/images")):
        if names := image_names(place):
            return place, names
    return _swapped(folder, "labels", "images"), []


def _swapped(path: str, old: str, new: str) -> str:
    """The path with its last part of one name replaced."""
    parts = list(Path(path).parts)
    if old not in parts:
        return path
    last = len(parts) - 1 - parts[::-1].index(old)
    return str(Path(*parts[:last], new, *parts[last + 1 :]))


def _listed_images(path: Path) -> list[str]:
    """The paths of a list's images, which start from the working folder, or from the list or a folder above it."""
    lines = [line.strip().replace("\\", "/") for line in read_text(str(path)).splitlines() if line.strip()]
    bases = [path.parent, *path.parent.parents][:FOLDERS_ABOVE]
    for base in [*bases, Path()]:
        if lines and any(exists(base / each) for each in (lines[0], _label_of(lines[0]), _beside(lines[0]))):
            return [str(base / line) for line in lines]
    return [str(path.parent / line) for line in lines]


def _label_of(image: str) -> str:
    return f"{without_suffix(_swapped(image, 'images', 'labels'))}.txt"


def _beside(image: str) -> str:
    return f"{without_suffix(image)}.txt"


def _add_listed(found: YoloFiles, listed: Sequence[str], images: str | None) -> None:
    """Add the images of lists with their label files."""
    folder = ImageFolder(images) if images else None
    pairs = []
    for image in dict.fromkeys(listed):
        label = next((each for each in (_label_of(image), _beside(image)) if is_file(each)), None)
        where, name = os.path.split(image)
        if folder:
            where, name = folder.root, folder.find(image) or name
        pairs.append((label, where, name))
    _add(found, pairs, folder is not None)


def _place(root: Path, entry: str) -> Path | None:
    """The folder or list of a split; Roboflow writes ../train/images for train/images."""
    for name in (entry, entry.removeprefix("../")):
        path = root / name
        if exists(path) or exists(Path(_swapped(str(path), "images", "labels"))):
            return path
    return None


def _existing(name: str, folder: Path) -> Path | None:
    """A file that another file names: from the working folder, or from the other file's or one above."""
    places = [folder, *folder.absolute().parents][:FOLDERS_ABOVE]
    return next((each / name for each in (*places, Path()) if name and exists(each / name)), None)


def _yaml(file: str) -> Mapping[str, Any]:
    content = parse_yaml(read_text(file), lambda reason: CocoError(f"{file}: {reason}"))
    if not isinstance(content, Mapping):
        raise CocoError(f"{file}: expected a YOLO data file with train, val and names")
    return content


def _take_names(found: YoloFiles, content: Mapping[str, Any]) -> None:
    names, number, shape = content.get("names"), content.get("nc"), content.get("kpt_shape")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if isinstance(names, Mapping) and all(map(_is_class, names)):
        found.names = {int(index): None if name is None else str(name) for index, name in names.items()}
    elif names:
        raise CocoError(f"{found.file}: names is neither a list nor names by class number")
    elif isinstance(number, int) and 0 < number <= MAX_CLASSES:
        found.names = dict.fromkeys(range(number))
    if shape is not None:
        whole = isinstance(shape, list) and len(shape) == 2 and all(isinstance(each, int) for each in shape)
        if not whole or shape[0] < 1 or shape[1] not in (2, 3):
            raise CocoError(f"{found.file}: kpt_shape is {shape!r}, not [number of keypoints, 2 or 3]")
        found.kpt_shape = (shape[0], shape[1])
    kpt_names = content.get("kpt_names")
    if isinstance(kpt_names, Mapping) and all(map(_is_class, kpt_names)):
        found.kpt_names = {int(index): list(map(str, own)) for index, own in kpt_names.items() if isinstance(own, list)}


def _is_class(index: object) -> bool:
    return re.fullmatch(r"\d{1,9}", str(index)) is not None


def _lines_of_names(path: Path) -> dict[int, str | None]:
    lines = [line.strip() for line in read_text(str(path)).splitlines()]
    return dict(enumerate(line for line in lines if line))


def _add_names(found: YoloFiles, start: Path) -> None:
    """Take names from the first data.yaml or list of names in a folder or above it."""
    for folder in [start, *start.absolute().parents][:FOLDERS_ABOVE]:
        for path in sorted(chain(folder.glob("*.yaml"), folder.glob("*.yml"))):
            if re.search(r"^(names|nc)\s*:", read_text(str(path)), flags=re.MULTILINE):
                _take_names(found, _yaml(str(path)))
                return
        for name in NAME_FILES:
            if (folder / name).is_file():
                found.names = _lines_of_names(folder / name)
                return
