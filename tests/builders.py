"""Small inputs that several test files build."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from detect.anchors.anchor_readers import parse_anchors
from detect.anchors.generator import GridAnchors
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.instances import ResizedInstances
from detect.data import CocoDataset, Finding, read_coco
from detect.errors import AnchorFileError
from detect.ops.grid_matcher import LevelGrid
from detect.samples import sample_annotations

# ---- heads, losses, ops, detectors


def with_threshold(model: Any, threshold: float) -> Any:
    """A detector of boxes or landmarks, now with this score threshold."""
    if hasattr(model, "post_process"):
        model.post_process = replace(model.post_process, score_threshold=threshold)
    else:
        model.threshold = threshold
    return model


def one_cell(boxes: Tensor) -> LevelGrid:
    """A level whose only cell has these boxes as its anchors, so that anchors may lie anywhere."""
    return LevelGrid(1, 1, (1.0, 1.0), boxes)


def grid_anchors(boxes: Tensor, num_per_level: Sequence[int] | None = None) -> GridAnchors:
    """Anchors that lie anywhere, some on each level."""
    levels = torch.split(boxes, list(num_per_level or [len(boxes)]))
    return GridAnchors(boxes, tuple(one_cell(level) for level in levels))


def random_boxes(count: int, seed: int, *, side: float = 100.0) -> Tensor:
    """Boxes with corners and sizes of whole pixels, so that many overlaps are equal."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * side
    size = torch.rand(count, 2, generator=random) * side / 2 + 1
    return torch.cat([corner, corner + size], dim=1).round()


def random_images(*shape: int) -> Tensor:
    """Images (b, d, h, w) from 0 to 1."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


# ---- data, anchors


def coco_content(
    boxes: Sequence[Sequence[float]],
    *,
    ids: Sequence[int] | None = None,
    image_wh: tuple[int, int] = (64, 64),
    image_ids: Sequence[int] | None = None,
    category_ids: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Boxes (x, y, width, height); by default with ids from 1, in image 1 and of category 1."""
    ids = range(1, len(boxes) + 1) if ids is None else ids
    image_ids = [1] * len(boxes) if image_ids is None else image_ids
    category_ids = [1] * len(boxes) if category_ids is None else category_ids
    rows = zip(ids, image_ids, category_ids, boxes, strict=True)
    return {
        "images": [
            {"id": int(id_), "width": image_wh[0], "height": image_wh[1]} for id_ in sorted(set(image_ids) or {1})
        ],
        "categories": [{"id": int(id_), "name": f"type {id_}"} for id_ in sorted(set(category_ids) or {1})],
        "annotations": [
            {"id": id_, "image_id": int(image), "category_id": int(category), "bbox": list(map(float, box))}
            for id_, image, category, box in rows
        ],
    }


def instances_of(boxes: Sequence[Sequence[float]], resize: str = "none", **fields: Any) -> ResizedInstances:
    """The boxes of :func:`coco_content` after a resize rule."""
    return ResizedInstances.of(read_coco(coco_content(boxes, **fields)), resize)


def part_content(sample: str, step: int) -> dict[str, Any]:
    """Every ``step``-th image of a sample with its annotations."""
    content = json.loads(sample_annotations(sample).read_text())
    content["images"] = content["images"][::step]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
    return content


def part_of(sample: str, resize: str, step: int) -> ResizedInstances:
    """The instances in every ``step``-th image of a sample."""
    return ResizedInstances.of(read_coco(part_content(sample, step)), resize)


def random_shapes(seed: int, count: int, spread: float = 0.7) -> np.ndarray:
    """(width, height) of boxes around 20 px."""
    return np.exp(np.random.default_rng(seed).normal(3, spread, (count, 2)))


def fine_histogram(shapes: np.ndarray) -> ShapeHistogram:
    """A histogram in which each of a few shapes has a cell of its own."""
    return ShapeHistogram.of(shapes, cells_per_octave=1024)


def read_edited_anchors(text: str, edits: Iterable[tuple[int, str]], name: str) -> None:
    """Read anchors from a text with pieces written over it: if they are refused, then by an error that names the file."""
    for position, piece in edits:
        text = text[:position] + piece + text[position + len(piece) :]
    try:
        parse_anchors(text, name=name)
    except AnchorFileError as error:
        assert str(error).startswith(f"{name}: ")  # noqa: PT017 - some edits change nothing


def label_folder(folder: Path, files: Mapping[str, str | bytes | tuple[int, int]]) -> Path:
    """A folder with files by name: texts, bytes, or grey images of a size (width, height)."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, tuple):
            Image.new("L", content).save(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def photo(path: Path, *, orientation: int = 1, wh: tuple[int, int] = (128, 96), **options: Any) -> Path:
    """Save a part of a micrograph of the sample with an EXIF orientation; return the file."""
    file = min((sample_annotations("nuclei").parent / "images").iterdir())
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(file) as image:
        image.convert("L").crop((0, 0, *wh)).save(path, exif=exif, **options)
    return path


def labels_in_words(dataset: CocoDataset) -> list[str]:
    """Each annotation as ``image: category x y w h``; a crowd in brackets, points at the end."""
    rows, words = dataset.annotations, []
    for row, (image, box) in enumerate(zip(rows.image_rows.tolist(), rows.boxes_xywh.tolist(), strict=True)):
        text = f"{dataset.category_name(int(rows.category_ids[row]))} {' '.join(f'{value:g}' for value in box)}"
        text = f"({text})" if rows.iscrowd[row] else text
        points = rows.keypoints[row].ravel().tolist() if rows.keypoints else []
        words.append(" ".join([f"{dataset.images.file_names[image]}: {text}", *(f"{value:g}" for value in points)]))
    return words


def findings_below(folder: Path, findings: Iterable[Finding]) -> list[str]:
    """Findings as they are printed, without the folder."""
    return [str(finding).replace(f"{folder}/", "").replace(str(folder), "") for finding in findings]


# ---- training


def changed(squares: Path, folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> str:
    """A copy of the squares' annotations, ``change`` having been called with their content; as the value of data.train."""
    content = json.loads((squares / "annotations.json").read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    return f"['{folder / name}']"


# ---- cli


def written(path: Path, content: Any) -> Path:
    """A file with a text, or with JSON."""
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def points_dataset(**changes: Any) -> dict[str, Any]:
    """Four images with two points, one, none, and one that lies in a crowd of 40 x 40 pixels."""
    points = {1: [(10, 10), (50, 50)], 2: [(20, 20)], 4: [(30, 30)]}
    rows = [(image, [x, y, 2], [x - 5, y - 4, 10, 8], 0) for image, own in points.items() for x, y in own]
    rows.append((4, [0, 0, 0], [0, 0, 40, 40], 1))
    annotations = [
        {"id": number, "image_id": image, "category_id": 1, "keypoints": keypoints, "bbox": box, "iscrowd": crowd}
        for number, (image, keypoints, box, crowd) in enumerate(rows, 1)
    ]
    return {
        "images": [{"id": number, "width": 100, "height": 100, "file_name": f"{number}.png"} for number in range(1, 5)],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": annotations,
        **changes,
    }


# ---- advice


def dataset_of(*images: list[list[float]], side: int = 640) -> CocoDataset:
    """Square images, each with its boxes (x, y, width, height)."""
    boxes = [(number, box) for number, own in enumerate(images, 1) for box in own]
    return read_coco(
        {
            "images": [{"id": number, "width": side, "height": side} for number in range(1, len(images) + 1)],
            "categories": [{"id": 1, "name": "cell"}],
            "annotations": [
                {"id": row, "image_id": image, "category_id": 1, "bbox": box} for row, (image, box) in enumerate(boxes)
            ],
        }
    )


@st.composite
def crowded(draw: st.DrawFn) -> list[list[int]]:
    """Up to eight small boxes in an image of 64 pixels, of two categories."""
    side = st.integers(1, 12)
    row = st.tuples(st.integers(0, 50), st.integers(0, 50), side, side, st.integers(1, 2))
    return [list(each) for each in draw(st.lists(row, min_size=1, max_size=8))]


def crowd_of(rows: list[list[int]]) -> ResizedInstances:
    return instances_of([row[:4] for row in rows], category_ids=[row[4] for row in rows])


# ---- command line


def commands() -> dict[str, Any]:
    """The commands of the command line and their groups, by what a user types after ``detect``."""
    from typer.main import get_command

    from detect.cli.app import app

    found, names = {"": get_command(app)}, [""]
    for name in names:  # which grows
        for inner, each in getattr(found[name], "commands", {}).items():
            names.append(f"{name} {inner}".strip())
            found[names[-1]] = each
    return found


# ---- shards


def split_by_image(content: Mapping[str, Any], shard_of: Sequence[int]) -> list[dict[str, Any]]:
    """The content of each shard, given the number of the shard of each image; every shard lists all categories."""
    shards = []
    for number in dict.fromkeys(shard_of):
        images = [image for image, own in zip(content["images"], shard_of, strict=True) if own == number]
        ids = {image["id"] for image in images}
        annotations = [each for each in content["annotations"] if each["image_id"] in ids]
        shards.append({**content, "images": images, "annotations": annotations})
    return shards


@st.composite
def sharded(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A dataset of a few images, some of its boxes crowd, invalid or reaching out of the image; and its shards, shuffled."""
    side = st.one_of(st.integers(0, 60), st.floats(0.5, 60))
    row = st.tuples(
        st.integers(1, 6), st.integers(1, 3), st.integers(0, 50), st.integers(0, 50), side, side, st.integers(0, 9)
    )
    content: dict[str, Any] = {
        "images": [{"id": n, "width": 48 + 32 * (n % 2), "height": 64, "file_name": f"{n}.png"} for n in range(1, 7)],
        "categories": [{"id": n, "name": f"kind {n}"} for n in range(1, 4)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": kind, "bbox": box, "iscrowd": int(crowd == 0)}
            for n, (image, kind, *box, crowd) in enumerate(draw(st.lists(row, min_size=1, max_size=25)), 1)
        ],
    }
    shards = split_by_image(content, draw(st.lists(st.integers(0, 3), min_size=6, max_size=6)))
    return [content, *draw(st.permutations(shards))]


def read_shards(contents: list[dict[str, Any]]) -> tuple[CocoDataset, list[CocoDataset]]:
    """The dataset of :func:`sharded`, and those of its shards."""
    whole, *shards = map(read_coco, contents)
    return whole, shards
