"""Small inputs that several test files build."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detect.anchors.anchor_readers import parse_anchors
from detect.anchors.anchor_set import AnchorSet
from detect.anchors.generator import GridAnchors
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.instances import ResizedInstances
from detect.data import Annotations, CocoDataset, Finding, Images, read_coco
from detect.data.resize import parse_resize
from detect.errors import AnchorFileError, CocoError
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


class Waits(TorchDispatchMode):
    """Counts the operators for which a CPU would wait for an accelerator: their sizes or values depend on the data."""

    NAMES = ("nonzero", "_local_scalar_dense", "masked_select", "equal", "unique2", "_unique2", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = operator.name().partition("::")[2].partition(".")[0]
        rows = arguments[1] if name in {"index", "index_put_", "index_put"} else ()
        if name in self.NAMES or any(row is not None and row.dtype in (torch.bool, torch.uint8) for row in rows):
            self.names.append(name)
        return operator(*arguments, **(options or {}))


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


MISSING = object()


def coco_with_one_box() -> dict[str, Any]:
    """One image with one box, nothing wrong."""
    return {
        "images": [{"id": 1, "width": 100, "height": 80, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0, "area": 12}],
    }


def coco_with(kind: str, field: str | None, value: Any) -> dict[str, Any]:
    """The same with one field of an entry, one entry, or (``kind`` at the top) one list replaced or left out."""
    broken = coco_with_one_box()
    parent, key = (broken, kind) if field is None else (broken[kind][0], field)
    if field == "*":
        parent, key = broken[kind], 0
    if value is MISSING:
        del parent[key]
    else:
        parent[key] = value
    return broken


def assert_one_box(dataset: CocoDataset) -> None:
    assert (dataset.invalid, dataset.suspicious) == ((), ())
    assert_array_equal(dataset.instances.ids, [7])
    assert_array_equal(dataset.instances.boxes_xywh, [[1.0, 2.0, 3.0, 4.0]])


def coco_error(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(CocoError) as caught:
        read_coco(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def boxes_on_one_image(*boxes: dict[str, Any]) -> dict[str, Any]:
    """A 100 x 80 image with these annotations, numbered from 1."""
    return {
        "images": [{"id": 4, "width": 100, "height": 80, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "dust"}],
        "annotations": [{"id": number, "image_id": 4, "category_id": 1, **box} for number, box in enumerate(boxes, 1)],
    }


def findings_in_words(findings: Iterable[Finding]) -> list[tuple[int | None, int | None, str]]:
    return [(finding.annotation_id, finding.image_id, finding.reason) for finding in findings]


ONE_BOX_TEXT = json.dumps(coco_with_one_box()).encode()


def text_with(old: bytes, new: bytes) -> bytes:
    """``ONE_BOX_TEXT`` with one part replaced."""
    assert ONE_BOX_TEXT.count(old) == 1
    return ONE_BOX_TEXT.replace(old, new)


def name_of(value: Any) -> str | None:
    """The name of a parametrized value in a test's id."""
    return "missing" if value is MISSING else None


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


# ---- report

GROWING_BOXES = [[10.0 + n, 20.0, 8.0 + 3 * n, 5.0 + 2 * n] for n in range(60)]
TWO_LEVELS = AnchorSet.of([[(20, 20), (30, 60)], [(120, 90)]], strides=(8, 16))


@dataclass
class ParsedPage(HTMLParser):
    """Tags, scripts and table cells of a page, by Python's own parser."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    in_cell: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script":
            self.scripts.append(data)
        else:
            self.text.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data.strip()

    @property
    def figures(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])

    def ids(self) -> set[str | None]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}


def parse_page(page: str) -> ParsedPage:
    parsed = ParsedPage()
    parsed.feed(page)
    parsed.scripts = [script for script in parsed.scripts if script.strip()]
    return parsed


def boxes_in_files(
    boxes: list[list[float]], *, names: list[str] | None = None, files: list[str] | None = None
) -> ResizedInstances:
    """Boxes (x, y, width, height) with ids from 100, spread over categories and over images of 640 x 480 pixels."""
    names, files = names or ["cell"], files or ["a.jpg"]
    images = [{"id": n, "width": 640, "height": 480, "file_name": name} for n, name in enumerate(files)]
    annotations = [
        {"id": 100 + n, "image_id": n % len(files), "category_id": n % len(names), "bbox": box}
        for n, box in enumerate(boxes)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    dataset = read_coco({"images": images, "categories": categories, "annotations": annotations})
    return ResizedInstances.of(dataset, parse_resize("none"))


def many_boxes(count: int, num_categories: int = 3, num_images: int = 50) -> ResizedInstances:
    """A large dataset of random boxes, made as columns."""
    rng = np.random.default_rng(0)
    wh = rng.integers(300, 640, (num_images, 2))
    rows = np.sort(rng.integers(0, num_images, count))
    size = np.minimum(np.exp(rng.normal(3.5, 1, (count, 2))), wh[rows])
    boxes = np.concatenate([rng.random((count, 2)) * (wh[rows] - size), size], axis=1)
    ids, crowd = np.arange(count), np.zeros(count, bool)
    annotations = Annotations(ids, rows, rng.integers(0, num_categories, count), boxes, crowd, size.prod(axis=1))
    images = Images(np.arange(num_images), wh, ("",) * num_images)
    names = {n: f"category {n}" for n in range(num_categories)}
    dataset = CocoDataset(images, annotations, names, (), (), ("a.json",))
    return ResizedInstances.of(dataset, parse_resize("letterbox:640"))


def page_figures(page: str) -> dict[str, Any]:
    """The plotly figures of a page by name."""
    (figures,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    return json.loads(figures)


def packed_numbers(values: dict[str, str]) -> np.ndarray:
    """An array as plotly packs it."""
    return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])


def table_rows(markup: str) -> list[list[str]]:
    """Cells of the rows of tables, without markup, those with titles included."""
    markup = re.sub(r'</?(bdi|b)>|<span class="name">|<i style="[^"]*"></i>|</span>', "", markup)
    rows = re.findall(r"<tr>(.*?)</tr>", markup, re.DOTALL)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]


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
