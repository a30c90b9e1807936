"""Datasets as label files of other tools: COCO, YOLO and Pascal VOC; with words about what a format cannot hold.

Boxes keep their places to half a pixel; those that VOC's whole pixels move farther are counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from xml.sax.saxutils import escape

import msgspec
import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.data.coco_dataset import CocoDataset
from detect.data.image_names import without_suffix
from detect.errors import ConvertError
from detect.wording import plural

UNREAD = "segmentations, skeletons, supercategories, licences and attributes, which are not read from any format"
HALF_PIXEL = 0.5 + 1e-9
NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@dataclass(frozen=True)
class LabelFiles:
    """Files to write: their number, (name, content) one after the other, and what they do not hold, in words."""

    num_files: int
    files: Iterator[tuple[str, bytes]]
    lost: tuple[str, ...]


def coco_files(dataset: CocoDataset) -> LabelFiles:
    """One COCO file with the ids, boxes, areas, crowd flags and, if they were read, keypoints of a dataset."""

    def files() -> Iterator[tuple[str, bytes]]:
        yield "annotations.json", msgspec.json.encode(_coco_content(dataset))

    return LabelFiles(1, files(), (UNREAD,))


def _coco_content(dataset: CocoDataset) -> Mapping[str, object]:
    images, rows = dataset.images, dataset.annotations
    columns = zip(
        rows.ids.tolist(),
        images.ids[rows.image_rows].tolist(),
        rows.category_ids.tolist(),
        rows.boxes_xywh.tolist(),
        rows.area.tolist(),
        rows.iscrowd.astype(int).tolist(),
        strict=True,
    )
    names = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    annotations: list[dict[str, object]] = [dict(zip(names, values, strict=True)) for values in columns]
    for entry, points in zip(annotations, rows.keypoints or (), strict=False):
        if len(points):
            entry |= {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
    sizes = zip(images.ids.tolist(), images.wh.tolist(), images.file_names, strict=True)
    return {
        "images": [{"id": id_, "width": w, "height": h, "file_name": name} for id_, (w, h), name in sizes],
        "annotations": annotations,
        "categories": [
            {"id": id_, "name": dataset.category_name(id_)}
            | ({"keypoints": list(dataset.keypoint_names[id_])} if id_ in dataset.keypoint_names else {})
            for id_ in dataset.category_ids
        ],
    }


def yolo_files(dataset: CocoDataset) -> LabelFiles:
    """A folder ``labels`` with a file for each image, empty without objects, and ``data.yaml``.

    Classes are numbered in the order of category ids. Lines are poses if all keypoints of the dataset can be one.

    Raises:
        ConvertError: two images would have one label file, or an image's name leads out of the folder.
    """
    import yaml  # noqa: PLC0415 - only YOLO has such files

    kept, crowd = dataset.instances, len(dataset.crowd)
    stems = _stems(dataset)
    poses, counts = _poses(kept.keypoints)
    classes = np.searchsorted(dataset.category_ids, kept.category_ids)
    wh = np.tile(dataset.images.wh[kept.image_rows].astype(float), 2)
    fractions = (kept.boxes_xywh + np.pad(kept.boxes_xywh[:, 2:] / 2, ((0, 0), (0, 2)))) / wh
    names = dict(enumerate(map(dataset.category_name, dataset.category_ids)))
    header: dict[str, object] = {"path": ".", "train": "images", "val": "images", "names": names}
    if poses is not None:
        header["kpt_shape"] = list(poses.shape[1:])
        named = [(place, dataset.keypoint_names.get(id_)) for place, id_ in enumerate(dataset.category_ids)]
        header |= {"kpt_names": own} if (own := {place: list(each) for place, each in named if each}) else {}
        poses[..., :2] /= wh[:, None, :2]

    def files() -> Iterator[tuple[str, bytes]]:
        yield "data.yaml", yaml.safe_dump(header, sort_keys=False, allow_unicode=True).encode()
        for stem, own in zip(stems, _rows_of_images(dataset, kept.image_rows), strict=True):
            lines = []
            for row in range(own.start, own.stop):
                values = [*fractions[row].tolist(), *([] if poses is None else poses[row].ravel().tolist())]
                lines.append(" ".join([str(classes[row]), *(f"{value:.8g}" for value in values)]))
            yield f"labels/{stem}.txt", "".join(f"{line}\n" for line in lines).encode()

    lost = [UNREAD, "splits: train and val in data.yaml are all images, to be parted by you"]
    lost += ["ids of images, annotations and categories", *_unnamed(dataset), *_other_areas(dataset)]
    lost += [f"crowd regions: {crowd:,}"] if crowd else []
    if poses is None and any(counts):
        lost.append(f"keypoints, which differ in number: {plural(sum(map(bool, counts)), 'object')}")
    return LabelFiles(len(stems) + 1, files(), tuple(lost))


def voc_files(dataset: CocoDataset) -> LabelFiles:
    """A folder ``Annotations`` with an XML file for each image; crowd regions are marked difficult.

    Raises:
        ConvertError: two images would have one label file, or a name has characters that XML cannot hold.
    """
    rows = dataset.annotations
    stems = _stems(dataset)
    names = {category: _xml(dataset.category_name(category)) for category in dataset.category_ids}
    corners, moved = _whole_pixels(rows.boxes_xywh, dataset.images.wh[rows.image_rows])

    def files() -> Iterator[tuple[str, bytes]]:
        for image, (stem, own) in enumerate(zip(stems, _rows_of_images(dataset, rows.image_rows), strict=True)):
            name, (width, height) = dataset.images.file_names[image] or f"{stem}.jpg", dataset.images.wh[image].tolist()
            objects = [
                f"<object><name>{names[rows.category_ids[row]]}</name><pose>Unspecified</pose><truncated>0</truncated>"
                f"<difficult>{int(rows.iscrowd[row])}</difficult><bndbox>{_box_xml(corners[row])}</bndbox></object>\n"
                for row in range(own.start, own.stop)
            ]
            size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            head = f"<annotation>\n<filename>{_xml(name)}</filename>\n{size}\n<segmented>0</segmented>\n"
            yield f"Annotations/{stem}.xml", f"{head}{''.join(objects)}</annotation>\n".encode()

    lost = [UNREAD, "ids of images, annotations and categories", *_unnamed(dataset), *_other_areas(dataset)]
    pointed = sum(len(points) > 0 for points in rows.keypoints or ())
    lost += [f"keypoints: {plural(pointed, 'object')}"] if pointed else []
    lost += [f"places to half a pixel: {plural(moved, 'box')} less than a pixel wide or high"] if moved else []
    lost += ["categories without objects"] if len(names) > len(np.unique(rows.category_ids)) else []
    return LabelFiles(len(stems), files(), tuple(lost))


WRITERS: Mapping[str, Callable[[CocoDataset], LabelFiles]] = {"coco": coco_files, "yolo": yolo_files, "voc": voc_files}


def _stems(dataset: CocoDataset) -> list[str]:
    """The name of each image's label file, without a suffix: that of the image, or its id."""
    stems: dict[str, str] = {}
    dataset.require_sizes("--images FOLDER reads them from the image files")
    for id_, name in zip(dataset.images.ids.tolist(), dataset.images.file_names, strict=True):
        stem = without_suffix(name) if name else f"{id_:012}"
        path = PurePosixPath(stem)
        if path.is_absolute() or ".." in path.parts or "\\" in stem or "\0" in stem or ":" in stem or not path.parts:
            raise ConvertError(f"image {id_}: the name {name!r} leads out of the folder of the images")
        if str(path) in stems:
            raise ConvertError(f"images {stems[str(path)]!r} and {name!r} would have one label file: {stem}")
        stems[str(path)] = name
    return list(stems)


def _rows_of_images(dataset: CocoDataset, image_rows: Int64[ndarray, " n"]) -> list[slice]:
    """The rows of each image's annotations, which are sorted by image."""
    ends = np.searchsorted(image_rows, np.arange(len(dataset.images)), side="right")
    return list(map(slice, [0, *ends[:-1].tolist()], ends.tolist()))


def _unnamed(dataset: CocoDataset) -> list[str]:
    count = sum(not name for name in dataset.images.file_names)
    return (
        [f"which file an image is: {plural(count, 'image')} without a file name, whose label file has its id"]
        if count
        else []
    )


def _other_areas(dataset: CocoDataset) -> list[str]:
    boxes_xywh, area = dataset.annotations.boxes_xywh, dataset.annotations.area
    other = int((~np.isclose(area, boxes_xywh[:, 2] * boxes_xywh[:, 3])).sum())
    return [f"areas that are not those of the boxes: {other:,}"] if other else []


def _poses(keypoints: Sequence[Float64[ndarray, "_ 3"]] | None) -> tuple[Float64[ndarray, "n k 3"] | None, list[int]]:
    """The keypoints of all objects in one array, zeros for objects without; None if they differ in number or are none."""
    counts = [len(points) for points in keypoints or ()]
    numbers = set(counts) - {0}
    if len(numbers) != 1:
        return None, counts
    poses = np.zeros((len(counts), numbers.pop(), 3))
    for row, points in enumerate(keypoints or ()):
        poses[row, : len(points)] = points
    return poses, counts


def _whole_pixels(boxes_xywh: Float64[ndarray, "n 4"], wh: Int64[ndarray, "n 2"]) -> tuple[Int64[ndarray, "n 4"], int]:
    """The corners of boxes as VOC writes them, at least one pixel wide and high, and how many moved by over half a pixel."""
    low, high = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    first, end = np.rint(low), np.rint(high)
    thin = first >= end
    first = np.where(thin, np.minimum(np.floor((low + high) / 2), wh - 1), first)
    end = np.where(thin, first + 1, end)
    moved = np.maximum(np.abs(first - low), np.abs(end - high)).max(axis=1, initial=0) > HALF_PIXEL
    return np.concatenate([first + 1, end], axis=1).astype(np.int64), int(moved.sum())


def _box_xml(corners: Int64[ndarray, " 4"]) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    return "".join(f"<{name}>{value}</{name}>" for name, value in zip(names, corners.tolist(), strict=True))


def _xml(name: str) -> str:
    if NOT_IN_XML.search(name):
        raise ConvertError(f"{name!r}: XML cannot hold this name")
    return escape(name)
