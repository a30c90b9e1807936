"""The format of label files, told from their content; and the label files of a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from detect.data.coco_entries import Finding
from detect.data.formats.point_tables import table_columns
from detect.data.formats.yolo_files import is_label_text, label_files
from detect.data.image_names import SUFFIXES, files_below
from detect.errors import CocoError
from detect.files import open_regular
from detect.wording import listed

HEAD_BYTES = 2**16
MAX_TOLD = 20  # files of one suffix whose content is looked at in a folder; of JSON all
UNDERSTOOD = (
    "COCO JSON, YOLO text and data.yaml, VOC XML, LabelMe JSON, CVAT XML, Label Studio JSON, Darknet lists, "
    "metadata.jsonl with objects, points as CSV (columns x, y), QuPath GeoJSON, folders that `detect convert --to parquet` "
    "wrote"
)
NAMES = {
    "coco": "COCO JSON",
    "yolo": "YOLO text",
    "yolo-yaml": "a YOLO data file",
    "darknet": "a Darknet list",
    "voc": "VOC XML",
    "labelme": "LabelMe JSON",
    "cvat": "CVAT XML",
    "label-studio": "Label Studio JSON",
    "image-folder": "metadata.jsonl",
    "points": "points as CSV",
    "geojson": "GeoJSON",
}
LABEL_SUFFIXES = frozenset((".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".geojson", ".yaml", ".yml", ".data"))
JSON_SUFFIXES = (".json", ".geojson")
_KEYS = re.compile(r'"(\w+)"\s*:')


def format_of(file: str) -> str:
    """The format of a file, a key of ``NAMES``, from its first bytes.

    Raises:
        CocoError: the file cannot be read, or its content is of no format that is understood.
    """
    head = _head(file)
    if head.startswith(b"\x1f\x8b"):
        return "coco"
    if head.startswith(b"PAR1"):
        raise CocoError(f"{file}: a Parquet file that is no part of a dataset that `detect convert --to parquet` wrote")
    text = _text(head)
    if not text and file.lower().endswith(".txt"):
        return "yolo"  # of an image without objects
    tell = {"<": _of_xml, "{": _of_object, "[": _of_list}.get(text[:1], _of_text)
    found = tell(text)
    if found is None and file.endswith((".yaml", ".yml")):
        raise CocoError(f"{file}: a YAML file without names and folders of images, as YOLO's data files have")
    if found is None:
        raise CocoError(f"{file}: {_seen(text)}, which is none of {UNDERSTOOD}")
    return found


def _head(file: str) -> bytes:
    try:
        with open_regular(file) as stream:
            return stream.read(HEAD_BYTES)
    except OSError as error:
        raise CocoError(f"{file}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL, or half of a pair
        raise CocoError(f"{file}: not the name of a file ({error})") from None


def _text(head: bytes) -> str:
    utf16 = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    return head.decode("utf-16" if utf16 else "utf-8-sig", errors="replace").lstrip()


def _seen(text: str) -> str:
    start = " ".join(text.split())[:60]
    return f"starts with {start!r}" if start else "is empty"


def _of_xml(text: str) -> str | None:
    root = re.search(r"<([A-Za-z_][\w.-]*)", text)
    return {"annotation": "voc", "annotations": "cvat"}.get(root.group(1)) if root else None


def _of_object(text: str) -> str | None:
    keys = set(_KEYS.findall(text))
    first_line = text.partition("\n")[0].rstrip()
    if first_line.endswith("}") and "file_name" in keys and not {"images", "annotations", "shapes"} & keys:
        return "image-folder"
    if "shapes" in keys and ({"imagePath", "imageData", "version", "flags"} & keys):
        return "labelme"
    if {"geometry", "type"} <= keys or ("features" in keys and "FeatureCollection" in text):
        return "geojson"
    known = keys & {"images", "annotations", "categories"} or not _is_json(text)
    return "coco" if known else None  # COCO's reader says what is missing or broken


def _is_json(text: str) -> bool:
    """Whether a text is JSON: not if it is broken, or the beginning of a longer file."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _of_list(text: str) -> str | None:
    keys = set(_KEYS.findall(text))
    if {"geometry", "type"} <= keys:
        return "geojson"
    return "label-studio" if "data" in keys and {"annotations", "predictions", "result"} & keys else "coco"


def _of_text(text: str) -> str | None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    if table_columns(lines[0]):
        return "points"
    fields = lines[0].replace(",", ".").split()
    if len(fields) >= 5 and all(re.fullmatch(r"[-+.\deE]+|[-+]?nan|[-+]?inf", field) for field in fields):
        return "yolo"
    if _suffix(lines[0]) in SUFFIXES:
        return "darknet"
    if re.search(r"^(train|valid|names)\s*=", text, flags=re.MULTILINE):
        return "darknet"
    return "yolo-yaml" if re.search(r"^(train|val|names)\s*:", text, flags=re.MULTILINE) else None


@dataclass(frozen=True)
class FolderLabels:
    """The format of a folder's labels and their files; and what was left out.

    Left out are folders that cannot be listed, and JSON files of no format in a folder whose labels are JSON.
    """

    format: str
    files: list[str]
    left_out: list[Finding]


def labels_in(root: str) -> FolderLabels:
    """The labels of a folder, from the most telling file on: ``data.yaml``, ``metadata.jsonl``.

    Raises:
        CocoError: the folder has no labels, or labels of several formats.
    """
    for pattern, wanted in (("*.y*ml", "yolo-yaml"), ("*.data", "darknet"), ("metadata.jsonl", "image-folder")):
        found = [file for file in sorted(map(str, Path(root).glob(pattern))) if _told(file) == wanted]
        if found:
            return FolderLabels(wanted, found[:1], [])
    formats: dict[str, list[str]] = {}
    below = files_below(root, _may_be_label)
    left_out, other = below.left_out, list[str]()
    for suffix, files in _by_suffix(below.files).items():
        if suffix in JSON_SUFFIXES:
            for file in files:
                kind = _told(file)
                (formats.setdefault(kind, []) if kind else other).append(file)
        else:
            told = set(map(_told, files[:MAX_TOLD])) - {""}
            kind = "yolo" if "yolo" in told else min(told, default="")
            formats |= {kind: files} if kind else {}
    if "yolo" in formats or not formats:
        texts = label_files(root)  # beside a folder of images
        formats |= {"yolo": texts.files} if texts.files else {}
        left_out = [*dict.fromkeys([*left_out, *texts.left_out])]
    if len(formats) == 1:
        kind, files = next(iter(formats.items()))
        is_json = files[0].lower().endswith(JSON_SUFFIXES)
        return FolderLabels(kind, files, [*left_out, *(map(_why_other, other) if is_json else ())])
    if not formats:
        unread = f" ({left_out[0]})" if left_out else ""
        raise CocoError(f"{root}: no labels in this folder{unread}: understood are {UNDERSTOOD}")
    kinds = ", ".join(
        f"{NAMES[kind]} ({listed([os.path.relpath(file, root) for file in files], most=1)})"
        for kind, files in sorted(formats.items())
    )
    raise CocoError(f"{root}: several formats: {kinds}: give the files of one, by a folder or a pattern")


def _told(file: str) -> str:
    """The format of a file; nothing for other files, which folders have too."""
    try:
        return format_of(file)
    except CocoError:
        return ""


def _why_other(file: str) -> Finding:
    """Why a file among the labels of a folder is left out."""
    try:
        return Finding(file, None, None, f"{_seen(_text(_head(file)))}: no label file")
    except CocoError as error:
        return Finding("", None, None, str(error))


def _may_be_label(where: str, name: str) -> bool:
    suffix = _suffix(name)
    return suffix in LABEL_SUFFIXES and (suffix != ".txt" or is_label_text(where, name))


def _by_suffix(files: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in files:
        found.setdefault(_suffix(file), []).append(file)
    return found


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - many names
