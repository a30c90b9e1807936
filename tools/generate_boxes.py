"""Generate large datasets of boxes, to measure with: python tools/generate_boxes.py --help.

``--boxes N --parts P`` writes a Parquet dataset; ``--gigabytes G`` one COCO file with polygons, of about this size. Boxes
are log-normal, 7 an image, within images of 640 x 480; the same seed gives the same file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, UInt8
from numpy import ndarray

from detect.data.parquet_writer import write_parts

IMAGE_WH = (640, 480)
BOXES_PER_IMAGE = 7
NUM_CATEGORIES = 80
POINTS = (5, 50)  # of a polygon
ENTRY_BYTES = 540  # of an annotation and its share of an image, about
ENTRIES_AT_ONCE = 20_000
CATEGORIES = [{"supercategory": "thing", "id": number, "name": f"c{number}"} for number in range(1, NUM_CATEGORIES + 1)]
Boxes = Float64[ndarray, "n 4"]


def random_boxes(count: int, rng: np.random.Generator) -> Boxes:
    """Boxes (x, y, width, height) with two decimals, inside their images."""
    xy = rng.uniform(0, 0.9, (count, 2)) * IMAGE_WH
    wh = np.minimum(np.exp(rng.normal(4, 0.8, (count, 2))), np.array(IMAGE_WH) - xy)
    return np.concatenate([np.floor(xy * 100), np.floor(wh * 100)], axis=1) / 100


def parts(num_boxes: int, num_parts: int, seed: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The images and annotations of each part."""
    first_box, first_image = 0, 0
    for number in range(num_parts):
        count = num_boxes // num_parts + (number < num_boxes % num_parts)
        images = np.arange(-(-count // BOXES_PER_IMAGE)) + first_image
        rng = np.random.default_rng([seed, number])
        boxes = random_boxes(count, rng)
        ids = np.arange(count) + first_box
        columns = dict(zip(("x", "y", "width", "height"), boxes.T, strict=True))
        annotations = pa.table(
            {
                "position": ids,
                "id": ids + 1,
                "image_id": images[np.arange(count) // BOXES_PER_IMAGE] + 1,
                "category_id": rng.integers(1, NUM_CATEGORIES + 1, count),
                **{name: np.ascontiguousarray(column) for name, column in columns.items()},
                "area": np.round(boxes[:, 2] * boxes[:, 3] * 0.7, 4),
                "iscrowd": np.zeros(count, np.int64),
            }
        )
        sides = {name: np.full(len(images), side) for name, side in zip(("width", "height"), IMAGE_WH, strict=True)}
        names = [f"{image + 1:012}.jpg" for image in images.tolist()]
        yield pa.table({"position": images, "id": images + 1, **sides, "file_name": names}), annotations
        first_box, first_image = first_box + count, first_image + len(images)


def coco_text(num_boxes: int, seed: int) -> Iterator[bytes]:
    """The text of a COCO file, piece by piece; annotations are not in the order of their images."""
    rng = np.random.default_rng(seed)
    num_images = -(-num_boxes // BOXES_PER_IMAGE)
    yield b'{"info": {"year": 2026}, "licenses": [{"id": 1, "name": "none"}], "images": ['
    for start in range(0, num_images, ENTRIES_AT_ONCE):
        numbers = range(start + 1, min(start + ENTRIES_AT_ONCE, num_images) + 1)
        size = f'"height": {IMAGE_WH[1]}, "width": {IMAGE_WH[0]}'
        text = ", ".join(f'{{"file_name": "{number:012}.jpg", {size}, "id": {number}}}' for number in numbers)
        yield (b", " if start else b"") + text.encode()
    yield b'], "annotations": ['
    for start in range(0, num_boxes, ENTRIES_AT_ONCE):
        count = min(ENTRIES_AT_ONCE, num_boxes - start)
        images = rng.integers(1, num_images + 1, count).tolist()
        columns = (polygons(count, rng), images, random_boxes(count, rng).tolist())
        categories = rng.integers(1, NUM_CATEGORIES + 1, count).tolist()
        entries = [
            b'{"segmentation": [[%b]], "area": %a, "iscrowd": 0, "image_id": %d, '
            b'"bbox": [%a, %a, %a, %a], "category_id": %d, "id": %d}'
            % (polygon, round(box[2] * box[3] * 0.7, 4), image, *box, category, number)
            for number, (polygon, image, box, category) in enumerate(zip(*columns, categories, strict=True), start + 1)
        ]
        yield (b", " if start else b"") + b", ".join(entries)
    categories_text = ", ".join(str(category).replace("'", '"') for category in CATEGORIES)
    yield f'], "categories": [{categories_text}]}}'.encode()


def polygons(count: int, rng: np.random.Generator) -> list[bytes]:
    """Polygons as the text of their numbers, 100.00 to 599.99."""
    lengths = 2 * rng.integers(*POINTS, count)
    text = digits(rng.integers(10_000, 60_000, lengths.sum())).tobytes()
    ends = 8 * np.cumsum(lengths)
    starts = ends - 8 * lengths
    return [text[start : end - 2] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def digits(hundredths: ndarray) -> UInt8[ndarray, "n 8"]:
    """Numbers of five digits as text with two decimals and a comma: ``123.45, ``."""
    text = np.empty((len(hundredths), 8), np.uint8)
    for place in (5, 4, 2, 1, 0):
        text[:, place] = ord("0") + hundredths % 10
        hundredths = hundredths // 10
    text[:, 3], text[:, 6], text[:, 7] = ord("."), ord(","), ord(" ")
    return text


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder, or .json file, to write to")
    parser.add_argument("--boxes", type=int, default=1_000_000, help="number of boxes of a Parquet dataset")
    parser.add_argument("--parts", type=int, default=4, help="number of parts of a Parquet dataset")
    parser.add_argument("--gigabytes", type=float, help="write one COCO file of about this size instead")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.gigabytes is None:
        write_parts(given.output, parts(given.boxes, given.parts, given.seed), {"categories": CATEGORIES})
        return
    with given.output.open("wb") as file:
        for text in coco_text(round(given.gigabytes * 1e9 / ENTRY_BYTES), given.seed):
            file.write(text)


if __name__ == "__main__":
    main()
