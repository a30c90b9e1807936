"""Datasets in the format that the user has: told from the content, read, and made one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detect.data.coco_dataset import CocoDataset, coco_shards, dataset_of, paths_of, read_coco
from detect.data.coco_entries import AnnotationEntries, BoxForm, Category, Finding, Rows
from detect.data.coco_forms import check_form
from detect.data.coco_reader import Progress
from detect.data.exif import Exif
from detect.data.formats.cvat import read_cvat
from detect.data.formats.geojson import read_geojson
from detect.data.formats.image_folder import read_image_folder
from detect.data.formats.label_rows import LabelRows
from detect.data.formats.label_studio import read_label_studio
from detect.data.formats.label_text import folder_of
from detect.data.formats.labelme import read_labelme
from detect.data.formats.point_tables import PointTable, read_point_tables, read_points
from detect.data.formats.recognise import NAMES, format_of, labels_in
from detect.data.formats.voc import read_voc
from detect.data.formats.yolo import read_yolo
from detect.data.formats.yolo_files import YoloFiles, files_of_labels, files_of_list, files_of_yaml
from detect.data.image_sizes import FilledSizes, fill_sizes, undecided_warning
from detect.data.parquet_files import is_parquet_dataset, needed, parquet_parts
from detect.errors import CocoError
from detect.files import exists, is_file, is_folder

if TYPE_CHECKING:
    from pycocotools.coco import COCO

READERS: Mapping[str, Callable[..., LabelRows]] = {
    "geojson": read_geojson,
    "image-folder": read_image_folder,
    "label-studio": read_label_studio,
    "labelme": read_labelme,
    "points": read_point_tables,
    "voc": read_voc,
}
MAX_INPUTS = 1000  # files that a dataset names; of more, their folder
_SPLIT = re.compile(r"(.+\.ya?ml):(train|val|valid|test)")


def read_dataset(
    source: str | Path | Mapping[str, Any] | COCO | Iterable[str | Path],
    *,
    images: str | Path | None = None,
    keypoints: bool = False,
    angles: bool = False,
    bbox: BoxForm = "xywh",
    exif: Exif = "auto",
    strict: bool = False,
    categories: Mapping[int, str] | None = None,
    on_progress: Progress | None = None,
) -> CocoDataset:
    """Read labels in any format that is understood, told from their content, into one dataset.

    These are COCO; YOLO (a folder of labels, ``data.yaml``, or ``data.yaml:val`` for one split); Pascal VOC; LabelMe; CVAT
    for images; Label Studio; Darknet's lists; Hugging Face's ``metadata.jsonl``; points as CSV; QuPath's GeoJSON. Formats
    without ids get ids from 1 in the order of files and lines, and share categories by name.

    Args:
        source: a path, a folder, a glob pattern, several of these, or what :func:`read_coco` takes.
        images: the folder of the images, needed if the labels are fractions of images that do not lie in the usual place
            beside them. Names of images start from it.
        keypoints, bbox, strict, on_progress: as in :func:`read_coco`.
        angles: read angles too, of COCO as in :func:`read_coco`, of CVAT's XML the rotation of boxes and ellipses.
        exif: what labels of images with an EXIF orientation refer to: ``"apply"``, the upright image; ``"ignore"``, the
            stored pixels; ``"auto"``, what the size in the labels fits.
        categories: names by id of further categories that annotations may have, as other shards of the dataset list them.

    Raises:
        CocoError: a file is missing, is of no known format or cannot be read, the images of labels in fractions are not
            found, or (strict) an entry is invalid. The message names the file and the reason.

    >>> from detect.samples import sample_annotations
    >>> len(read_dataset(sample_annotations("bccd")).instances)
    4886
    """
    if isinstance(getattr(source, "dataset", source), Mapping):
        options: Any = {"bbox": bbox, "strict": strict, "on_progress": on_progress}
        read = read_coco(source, keypoints=keypoints, angles=angles, **options)
        return replace(read, exif=exif)
    check_form(bbox)
    folder, columns = None if images is None else str(images), {"keypoints": keypoints, "angles": angles}
    paths = paths_of(source)
    shards: list[Rows] = []
    inputs = paths if len(paths) <= MAX_INPUTS else [folder_of(paths)]
    by_format, left_out = files_by_format(paths)
    for kind, files in by_format.items():
        if kind in ("coco", "parquet"):
            shards += [replace(rows, form=bbox) for rows in _with_ids(kind, files, columns, on_progress)]
        elif kind == "cvat":
            shards.append(read_cvat(files, on_progress=on_progress, **columns))
        elif kind in READERS:
            shards.append(READERS[kind](files, keypoints=keypoints, on_progress=on_progress))
        else:
            found = _yolo(kind, files, folder)
            shards += [read_yolo(each, keypoints=keypoints, on_progress=on_progress) for each in found]
            labels = [folder_of(list(filter(None, each.labels))) for each in found if kind != "yolo"]
            inputs += [each for each in labels if not any(Path(each).is_relative_to(given) for given in inputs)]
    _require_form(bbox, by_format)
    shards[0].faults.extend(left_out)
    filled = fill_sizes(shards, folder, exif=exif, on_progress=on_progress)
    _share_ids(shards)
    dataset = _with_places(dataset_of([*shards, *_listing(categories, columns)], keypoints=keypoints), shards)
    dataset = replace(
        dataset,
        files=tuple(map(_without_split, inputs)),
        warnings=(*dataset.warnings, *_undecided(filled, exif)),
        exif=exif,
        turned=tuple(each.id for each in filled.turned),
    )
    if strict and dataset.invalid:
        raise CocoError(str(dataset.invalid[0]))
    return dataset


def read_shard(
    shard: str, categories: Mapping[int, str] | None = None, *, ignore_category: Sequence[str] = (), **options: Any
) -> CocoDataset:
    """Read one of :func:`shards_of`; ``options`` are those of :func:`read_dataset`."""
    dataset = read_dataset([shard], categories=categories, **options)
    return dataset.without_categories(ignore_category, "--ignore-category") if ignore_category else dataset


def shards_of(source: Any) -> list[str]:
    """The COCO files and the parts of Parquet datasets that a source names, each a shard of the dataset.

    Raises:
        CocoError: a file is missing or of another format.
    """
    shards: list[str] = []
    for kind, files in _all_by_format(source).items():
        if kind not in ("coco", "parquet"):
            raise CocoError(f"{files[0]}: shards are COCO JSON files or parts of a Parquet dataset, not {NAMES[kind]}")
        for file in files:
            shards += [part.annotations_file for part in parquet_parts(file)] if kind == "parquet" else [file]
    return shards


def read_point_files(source: Any, *, pixel_origin: str = "center") -> PointTable:
    """Read points in images or volumes from tables alone, by path, folder or pattern, without sizes of the images.

    Raises:
        CocoError: a file is missing, or no table of points, or tables differ in their number of axes.
    """
    found = _all_by_format(source)
    other = [file for kind, files in found.items() if kind != "points" for file in files]
    if other:
        ways = "labels of other formats are compared with COCO results, as --to coco writes them"
        raise CocoError(f"{other[0]}: no table of points (a CSV with columns x, y[, z]); {ways}")
    return read_points(found["points"], pixel_origin=pixel_origin)


def _all_by_format(source: Any) -> dict[str, list[str]]:
    """Files by format; CocoError if something is left out of a folder."""
    found, left_out = files_by_format(paths_of(source))
    if left_out:
        raise CocoError(f"{left_out[0]}: give the files by a pattern")
    return found


def files_by_format(sources: Iterable[str]) -> tuple[dict[str, list[str]], list[Finding]]:
    """Files, and those in folders, by format: ``coco``, ``parquet``, ``yolo`` and others; and what folders leave out.

    Raises:
        CocoError: a file is missing, or of no format that is understood.
    """
    found: dict[str, list[str]] = {}
    left_out: list[Finding] = []
    for file in sources:
        if is_parquet_dataset(file):
            kind, files = "parquet", [file]
        elif is_folder(file):
            labels = labels_in(file)
            kind, files = labels.format, labels.files
            left_out += labels.left_out
        elif _SPLIT.fullmatch(file) and not exists(file):
            kind, files = "yolo-yaml", [file]
        elif exists(file) and not is_file(file):
            kind, files = "coco", [file]  # a pipe, which its reader refuses
        else:
            kind, files = format_of(file), [file]
        found.setdefault(kind, []).extend(files)
    return found, left_out


def _yolo(kind: str, files: Sequence[str], images: str | None) -> list[YoloFiles]:
    if kind == "darknet":
        return [files_of_list(files, images=images)]
    if kind == "yolo":
        return [files_of_labels(files, file=files[0] if len(files) == 1 else folder_of(files), images=images)]
    split = [_SPLIT.fullmatch(file) for file in files]
    parts = [
        (found.group(1), found.group(2)) if found else (file, None) for found, file in zip(split, files, strict=True)
    ]
    return [files_of_yaml(file, name, images=images) for file, name in parts]


def _require_form(bbox: BoxForm, by_format: Mapping[str, Sequence[str]]) -> None:
    """Raise CocoError for another form of boxes if no file is COCO's: all others have one form alone."""
    if bbox != "xywh" and not {"coco", "parquet"} & by_format.keys():
        kind, files = next(iter(by_format.items()))
        raise CocoError(f"{files[0]}: the form of boxes (bbox={bbox}) is for COCO: {NAMES[kind]} has one form")


def _undecided(filled: FilledSizes, exif: Exif) -> Iterable[str]:
    names = [each.file_name or "" for each in filled.turned]
    return (undecided_warning(names, upright=filled.upright),) if names and exif == "auto" else ()


def _with_ids(
    kind: str, files: Sequence[str], columns: Mapping[str, bool], on_progress: Progress | None
) -> Iterable[Rows]:
    """The rows of COCO files or Parquet datasets, which have ids."""
    if kind == "coco":
        return coco_shards(files, columns, on_progress)
    needed("pyarrow", files[0])
    from detect.data.parquet_reader import read_parquet  # noqa: PLC0415 - an extra

    return chain.from_iterable(read_parquet(file, on_progress=on_progress, **columns) for file in files)


def _without_split(file: str) -> str:
    found = _SPLIT.fullmatch(file)
    return found.group(1) if found and not exists(file) else file


def _listing(categories: Mapping[int, str] | None, columns: Mapping[str, bool]) -> list[Rows]:
    """A file that lists categories and has no images; none without categories."""
    listed = [Category(key, name) for key, name in (categories or {}).items()]
    return [Rows("", [], AnnotationEntries.of([], **columns), listed)] if listed else []


def _share_ids(shards: Sequence[Rows]) -> None:
    """Number the entries of formats without ids on from the others, with one category for each name."""
    if len(shards) < 2 or not any(isinstance(rows, LabelRows) for rows in shards):
        return
    with_ids = [rows for rows in shards if not isinstance(rows, LabelRows)]
    ids = {category.name: category.id for rows in with_ids for category in rows.categories or ()}
    last_image = max([0, *(image.id for rows in with_ids for image in rows.images)])
    last_annotation = max([0, *(int(rows.annotations.ids.max(initial=0)) for rows in with_ids)])
    for rows in shards:
        if isinstance(rows, LabelRows):
            names = {category.id: category.name or "" for category in rows.categories or ()}
            for name in names.values():
                ids.setdefault(name, max([0, *ids.values()]) + 1)
            last_row = int(rows.annotations.ids.max(initial=0))
            last_fault = max([0, *(each.annotation_id or 0 for each in rows.faults)])
            rows.renumber(last_image, last_annotation, {number: ids[name] for number, name in names.items()})
            last_image += len(rows.sources)
            last_annotation += max(last_row, last_fault)


def _with_places(dataset: CocoDataset, shards: Sequence[Rows]) -> CocoDataset:
    """The dataset with the file and line of each finding."""
    labels = [rows for rows in shards if isinstance(rows, LabelRows)]

    def located(findings: Sequence[Finding]) -> tuple[Finding, ...]:
        for rows in labels:
            findings = [rows.locate(each) for each in findings]
        return tuple(findings)

    return replace(dataset, invalid=located(dataset.invalid), suspicious=located(dataset.suspicious))
