"""COCO to columns: against pycocotools, in any form and order of files, and the faults of real data by id."""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pycocotools.coco import COCO

from detect.data import Annotations, CocoDataset, Finding, coco_reader, read_coco
from detect.samples import sample_annotations

DATA = Path(__file__).parents[1] / "data"
TACO, BCCD = DATA / "taco" / "faults.json", DATA / "bccd" / "faults.json"
NUM_SHARDS = 7


def coco_of(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it loads
        return COCO(str(path))


def content_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def write(folder: Path, name: str, content: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def boxes_on_one_image(*boxes: dict[str, Any]) -> dict[str, Any]:
    """A 100 x 80 image with these annotations, numbered from 1."""
    return {
        "images": [{"id": 4, "width": 100, "height": 80, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "dust"}],
        "annotations": [{"id": number, "image_id": 4, "category_id": 1, **box} for number, box in enumerate(boxes, 1)],
    }


def columns(annotations: Annotations) -> Iterator[Any]:
    for name in ("ids", "image_rows", "category_ids", "boxes_xywh", "iscrowd", "area"):
        yield getattr(annotations, name)
    yield from annotations.keypoints or ()


def words(findings: Iterable[Finding]) -> list[tuple[int | None, int | None, str]]:
    return [(finding.annotation_id, finding.image_id, finding.reason) for finding in findings]


def assert_same(dataset: CocoDataset, other: CocoDataset) -> None:
    """Equal in all but the names of files."""
    assert_array_equal(dataset.images.ids, other.images.ids)
    assert_array_equal(dataset.images.wh, other.images.wh)
    assert dataset.images.file_names == other.images.file_names
    for mine, theirs in zip(columns(dataset.annotations), columns(other.annotations), strict=True):
        assert_array_equal(mine, theirs)
    assert list(dataset.categories.items()) == list(other.categories.items())
    assert words(dataset.invalid) == words(other.invalid)
    assert words(dataset.suspicious) == words(other.suspicious)


@pytest.mark.parametrize("name", ["bccd", "nuclei"])
def test_pycocotools_loads_the_same_columns(name):
    path = sample_annotations(name)
    coco, dataset = coco_of(path), read_coco(path, keypoints=True)
    invalid = {finding.annotation_id for finding in dataset.invalid}
    rows = sorted(
        (row for row in coco.anns.values() if row["id"] not in invalid), key=lambda r: (r["image_id"], r["id"])
    )

    assert_array_equal(dataset.images.ids, sorted(coco.getImgIds()))
    images = coco.loadImgs(dataset.images.ids.tolist())
    assert_array_equal(dataset.images.wh, [(image["width"], image["height"]) for image in images])
    assert dataset.images.file_names == tuple(image["file_name"] for image in images)
    assert dataset.categories == {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}

    annotations = dataset.annotations
    assert_array_equal(annotations.ids, [row["id"] for row in rows])
    assert_array_equal(dataset.images.ids[annotations.image_rows], [row["image_id"] for row in rows])
    assert_array_equal(annotations.category_ids, [row["category_id"] for row in rows])
    assert_array_equal(annotations.iscrowd, [bool(row["iscrowd"]) for row in rows])
    assert_allclose(annotations.area, [row["area"] for row in rows])
    assert_allclose(annotations.boxes_xywh, [row["bbox"] for row in rows], atol=1e-9)
    for points, row in zip(annotations.keypoints, rows, strict=True):
        assert_array_equal(np.reshape(points, -1), row.get("keypoints", []))


def test_every_form_of_source_gives_the_same_dataset(tmp_path):
    content = content_of(BCCD)
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(BCCD.read_bytes()))
    expected = read_coco(BCCD)
    sources = [str(BCCD), content, packed, str(tmp_path / "pack*.gz"), [BCCD], (path for path in [BCCD]), coco_of(BCCD)]
    for source in sources:
        assert_same(read_coco(source), expected)


def test_the_files_read_are_named_in_order(tmp_path):
    paths = [write(tmp_path, f"{name}.json", {"images": [], "annotations": []}) for name in "ba"]
    assert read_coco(paths).files == tuple(map(str, paths))
    assert read_coco(str(tmp_path / "*.json")).files == tuple(map(str, sorted(paths)))
    assert read_coco({"images": [], "annotations": []}).files == ("(in memory)",)


def shards_by_image(content: dict[str, Any]) -> list[dict[str, Any]]:
    shards = []
    for number in range(NUM_SHARDS):
        images = [image for image in content["images"] if image["id"] % NUM_SHARDS == number]
        ids = {image["id"] for image in images}
        annotations = [row for row in content["annotations"] if row["image_id"] in ids]
        shards.append({**content, "images": images, "annotations": annotations})
    return shards


def shards_by_annotation(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Every shard repeats all images."""
    return [{**content, "annotations": content["annotations"][number::NUM_SHARDS]} for number in range(NUM_SHARDS)]


@pytest.mark.parametrize("cut", [shards_by_image, shards_by_annotation])
@pytest.mark.parametrize(
    "path", [sample_annotations("bccd"), sample_annotations("nuclei"), TACO], ids=["bccd", "nuclei", "taco"]
)
def test_order_of_shards_does_not_matter(tmp_path, path, cut):
    whole = read_coco(path, keypoints=True)
    shards = [write(tmp_path, f"{number}.json", shard) for number, shard in enumerate(cut(content_of(path)))]
    rng = np.random.default_rng(0)
    orders = [np.arange(NUM_SHARDS), np.arange(NUM_SHARDS)[::-1], rng.permutation(NUM_SHARDS)]
    for order in orders:
        assert_same(read_coco([shards[number] for number in order], keypoints=True), whole)


# few values, so that ids, images and boxes meet often
crowded_entries = st.fixed_dictionaries(
    {
        "image_id": st.integers(1, 3),
        "category_id": st.integers(1, 3),
        "bbox": st.lists(st.sampled_from([0, 1, -1, 9.5]), min_size=4, max_size=4),
    },
    optional={"id": st.integers(1, 3), "iscrowd": st.integers(0, 1), "area": st.sampled_from([None, 2, 5.5])},
)


twin = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}


@example(entries=[({**twin, "area": 2}, 0), (twin, 1)], order=[1, 0, 2], reverse=False)
@example(entries=[({**twin, "iscrowd": 1}, 0), (twin, 1)], order=[1, 0, 2], reverse=False)
@given(
    entries=st.lists(st.tuples(crowded_entries, st.integers(0, 2)), max_size=12),
    order=st.permutations(range(3)),
    reverse=st.booleans(),
)
def test_order_of_entries_and_shards_does_not_matter_however_alike_they_are(tmp_path_factory, entries, order, reverse):
    images = [{"id": number, "width": 10, "height": 10, "file_name": f"{number}.jpg"} for number in (1, 2)]
    head = {"images": images, "categories": [{"id": 2, "name": "b"}, {"id": 1, "name": "a"}]}
    whole = read_coco({**head, "annotations": [entry for entry, _ in entries]})
    folder = Path(tmp_path_factory.getbasetemp())
    shards = []
    for number in order:
        mine = [entry for entry, shard in entries if shard == number]
        shards.append(write(folder, f"{number}.json", {**head, "annotations": mine[::-1] if reverse else mine}))
    assert_same(read_coco(shards), whole)


def test_rows_are_in_order_of_images_then_ids():
    content = {
        "images": [{"id": number, "width": 10, "height": 10} for number in (9, -3, 5)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": 1, "bbox": [1, 1, 2, 2 + number]}
            for number, image in ((4, 9), (2, 9), (8, -3), (1, 5))
        ],
    }
    dataset = read_coco(content)
    assert_array_equal(dataset.images.ids, [-3, 5, 9])
    assert_array_equal(dataset.annotations.ids, [8, 1, 2, 4])
    assert_array_equal(dataset.annotations.image_rows, [0, 1, 2, 2])


def test_categories_of_all_shards_are_in_order_of_ids(tmp_path):
    names = {5: "e", 1: "a", 3: "c"}
    empty = {"images": [], "annotations": []}
    shards = [
        write(
            tmp_path, f"{number}.json", {**empty, "categories": [{"id": number, "name": name}, {"id": 3, "name": "c"}]}
        )
        for number, name in names.items()
    ]
    assert list(read_coco(shards).categories.items()) == [(1, "a"), (3, "c"), (5, "e")]


def test_crowds_are_kept_apart():
    box = {"bbox": [1, 2, 3, 4]}
    dataset = read_coco(boxes_on_one_image({**box, "iscrowd": 1}, {"bbox": [5, 6, 7, 8]}, {"bbox": [2, 2, 2, 2]}))
    assert_array_equal(dataset.crowd.ids, [1])
    assert_array_equal(dataset.instances.ids, [2, 3])
    assert_array_equal(dataset.annotations.ids, [1, 2, 3])
    assert_array_equal(dataset.instances.boxes_xywh, [[5, 6, 7, 8], [2, 2, 2, 2]])


def test_boxes_are_clipped_to_their_image_and_named():
    dataset = read_coco(
        boxes_on_one_image({"bbox": [-2, 70, 10, 15]}, {"bbox": [99, 79, 5, 5]}, {"bbox": [0, 0, 100, 80]})
    )
    # x from -2 to 8, y from 70 to 85, in 100 x 80
    assert_array_equal(dataset.annotations.boxes_xywh, [[0, 70, 8, 10], [99, 79, 1, 1], [0, 0, 100, 80]])
    assert_array_equal(dataset.annotations.area, [80, 1, 8000])
    assert words(dataset.suspicious) == [
        (1, 4, "bbox [-2, 70, 10, 15] reaches outside its 100x80 image: clipped"),
        (2, 4, "bbox [99, 79, 5, 5] reaches outside its 100x80 image: clipped"),
    ]


def test_a_rounding_error_past_the_edge_is_nothing_odd():
    x = 100 / 3
    assert x + (100 - x) + 2e-14 > 100
    dataset = read_coco(boxes_on_one_image({"bbox": [x, 0, 100 - x + 2e-14, 80]}, {"bbox": [-1e-9, 1, 2, 3]}))
    assert dataset.suspicious == ()


@given(st.lists(st.floats(-300, 300), min_size=4, max_size=4))
def test_what_is_left_of_a_box_is_its_part_inside_the_image(box):
    x0, x1 = max(box[0], 0.0), min(box[0] + box[2], 100.0)
    y0, y1 = max(box[1], 0.0), min(box[1] + box[3], 80.0)
    annotations = read_coco(boxes_on_one_image({"bbox": box})).annotations
    if len(annotations):
        assert_allclose(annotations.boxes_xywh, [[x0, y0, x1 - x0, y1 - y0]], atol=2e-6)
    else:
        assert min(box[2], box[3], x1 - x0, y1 - y0) <= 1e-12


def test_the_file_s_area_is_taken_before_width_times_height():
    dataset = read_coco(boxes_on_one_image({"bbox": [1, 2, 3, 4], "area": 7.5}, {"bbox": [5, 6, 7, 8]}))
    assert_array_equal(dataset.annotations.area, [7.5, 56.0])


def test_repeated_ids_are_kept_and_named():
    content = boxes_on_one_image({"bbox": [1, 2, 3, 4]}, {"bbox": [5, 6, 7, 8]}, {"bbox": [9, 9, 9, 9]})
    content["annotations"][2]["id"] = 1
    dataset = read_coco(content)
    assert_array_equal(dataset.annotations.ids, [1, 1, 2])
    assert_array_equal(dataset.annotations.boxes_xywh, [[1, 2, 3, 4], [9, 9, 9, 9], [5, 6, 7, 8]])
    assert words(dataset.suspicious) == [(1, 4, "its id stands 2 times: kept")] * 2


def test_the_same_box_twice_is_kept_and_named():
    box = {"bbox": [1.1, 2.2, 3.3, 4.4]}
    dataset = read_coco(boxes_on_one_image(box, {"bbox": [1.1, 2.2, 3.3, 4.5]}, {**box, "category_id": 2}, box))
    assert len(dataset.annotations) == 4
    assert words(dataset.suspicious) == [
        (3, 4, "the same box as annotation 1, of another category: kept"),
        (4, 4, "the same box as annotation 1: kept"),
    ]


def test_the_same_box_in_two_images_is_ordinary():
    content = boxes_on_one_image({"bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 3, 4], "image_id": 5})
    content["images"].append({"id": 5, "width": 100, "height": 80})
    assert read_coco(content).suspicious == ()


@pytest.mark.parametrize("num_boxes", [2, 3, 5, 8, 17, 1000])
def test_the_same_box_is_found_wherever_it_stands(num_boxes):
    rng = np.random.default_rng(num_boxes)
    boxes = rng.uniform(0.1, 40, (num_boxes, 4)).tolist()
    boxes[-1] = boxes[0]
    dataset = read_coco(boxes_on_one_image(*({"bbox": box} for box in boxes)))
    assert words(dataset.suspicious) == [(num_boxes, 4, "the same box as annotation 1: kept")]


def test_keypoints_are_read_where_they_are_asked_for():
    points = [1, 2, 2, 3.5, 4, 1]
    content = boxes_on_one_image({"bbox": [5, 5, 5, 5], "keypoints": points, "iscrowd": 1}, {"bbox": [1, 1, 2, 2]})
    assert read_coco(content).annotations.keypoints is None
    dataset = read_coco(content, keypoints=True)
    first, second = dataset.annotations.keypoints
    assert_array_equal(first, [[1, 2, 2], [3.5, 4, 1]])
    assert second.shape == (0, 3)
    assert [len(points) for points in dataset.crowd.keypoints] == [2]
    assert [len(points) for points in dataset.instances.keypoints] == [0]


@pytest.mark.parametrize("box", [{}, {"bbox": [9, 9, 0, 0]}, {"bbox": [3, 4, 0, 5]}])
def test_points_alone_give_the_box_that_is_missing(box):
    content = boxes_on_one_image(
        {"bbox": [1, 1, 2, 2]}, {"keypoints": [3, 4, 2, 90, 90, 0, 7, 5, 1]}, {"keypoints": [9, 9, 0]}
    )
    for entry in content["annotations"][1:]:
        entry.pop("bbox", None)
        entry.update(box)
    dataset = read_coco(content, keypoints=True)
    # from x 3 to 7 and y 4 to 5, half a pixel more on each side; the point that is not labelled counts nowhere
    assert_array_equal(dataset.instances.boxes_xywh, [[1, 1, 2, 2], [2.5, 3.5, 5, 2]])
    assert_array_equal(dataset.instances.area, [4, 10])
    assert [finding.annotation_id for finding in dataset.invalid] == [3]
    assert dataset.suspicious == ()
    assert len(read_coco(content).instances) == 1


def test_the_box_of_points_stays_within_the_image():
    content = boxes_on_one_image({"keypoints": [0, 0, 2]}, {"keypoints": [-9, 0, 2]})
    for entry in content["annotations"]:
        entry.pop("bbox", None)
    dataset = read_coco(content, keypoints=True)
    assert_array_equal(dataset.instances.boxes_xywh, [[0, 0, 0.5, 0.5]])
    assert [finding.annotation_id for finding in dataset.invalid] == [2]


def test_take_gives_these_rows_in_this_order():
    annotations = read_coco(sample_annotations("nuclei"), keypoints=True).annotations
    rows = np.array([5, 0, 5])
    for taken, row in ((annotations.take(rows), row) for row in range(3)):
        assert taken.ids[row] == annotations.ids[rows[row]]
        assert_array_equal(taken.boxes_xywh[row], annotations.boxes_xywh[rows[row]])
        assert_array_equal(taken.keypoints[row], annotations.keypoints[rows[row]])


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_progress_rises_to_all_bytes_of_all_files(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(coco_reader, "BLOCK_BYTES", 256)
    paths = [tmp_path / f"{name}.json" for name in "ab"]
    for path in paths:
        path.write_bytes(pack(BCCD.read_bytes()))
    calls: list[tuple[str, int, int]] = []
    read_coco(paths, on_progress=lambda *call: calls.append(call))
    size = paths[0].stat().st_size
    done = [call[1] for call in calls]
    assert done == sorted(done)
    assert {call[2] for call in calls} == {2 * size}
    assert list(dict.fromkeys(call[0] for call in calls)) == ["reading a.json", "reading b.json"]
    assert max(done for what, done, _ in calls if what == "reading a.json") == size
    assert done[-1] == 2 * size
    assert len(calls) >= 6


def test_the_input_is_not_changed():
    content = content_of(TACO)
    content["annotations"].append({"id": None, "bbox": [np.float32(1), 2]})
    before = copy.deepcopy(content)
    read_coco(content, keypoints=True)
    assert content == before


def test_a_category_without_a_name_is_called_by_its_id():
    dataset = read_coco({"images": [], "annotations": [], "categories": [{"id": 3}, {"id": 2, "name": "cell"}]})
    assert (dataset.category_name(2), dataset.category_name(3)) == ("cell", "category 3")


def test_ids_that_taco_uses_twice_are_kept_and_named():
    dataset = read_coco(TACO)
    assert dataset.invalid == ()
    assert len(dataset.annotations) == 11
    assert_array_equal(np.sort(dataset.annotations.ids)[[0, 1, -2, -1]], [309, 309, 4040, 4040])
    twice = [(finding.annotation_id, finding.image_id) for finding in dataset.suspicious if "2 times" in finding.reason]
    assert twice == [(309, 93), (309, 101), (4040, 1281), (4040, 1300)]


def test_boxes_of_taco_that_start_outside_their_image_are_clipped_and_named():
    dataset = read_coco(TACO)
    clipped = [finding for finding in dataset.suspicious if finding.reason.endswith(": clipped")]
    assert [finding.annotation_id for finding in clipped] == [371, 387, 707, 859, 1621, 1777, 2186]
    assert str(clipped[0]) == (
        f"{TACO}: annotation 371, image 109: bbox [1003, -1, 787, 411] reaches outside its 1824x4000 image: clipped"
    )
    boxes = {
        int(number): box for number, box in zip(dataset.annotations.ids, dataset.annotations.boxes_xywh, strict=True)
    }
    assert_array_equal(boxes[371], [1003, 0, 787, 410])  # y from -1 to 410
    assert_array_equal(boxes[859], [0, 366, 197, 307])  # x from -1 to 197
    assert_array_equal(boxes[2186], [1311, 0, 286, 588.5])  # y from -.5 to 588.5
    assert_allclose(boxes[1777], [171.03125, 0, 518.35625, 412.11667], rtol=1e-9)  # y from -1.3166667 to 412.11667


def test_boxes_of_bccd_without_size_are_refused_and_named():
    dataset = read_coco(BCCD)
    assert [str(finding) for finding in dataset.invalid] == [
        f"{BCCD}: annotation 3951, image 300: width 0 and height 0 are not positive",
        f"{BCCD}: annotation 4005, image 305: width 0 and height 0 are not positive",
    ]
    assert len(dataset.annotations) == 24  # 14 and 12 in the file
    assert dataset.suspicious == ()
