"""Pages of the report taken apart, and the boxes that they are made of."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import numpy as np

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.instances import ResizedInstances
from detect.data import Annotations, CocoDataset, Images, read_coco
from detect.data.resize import parse_resize

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
