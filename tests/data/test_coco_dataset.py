"""COCO to columns: against pycocotools, in any form and order of files, and the faults of real data by id."""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import coco_content, written
from coco_files import boxes_on_one_image, findings_in_words
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pycocotools.coco import COCO

from detect.data import Annotations, CocoDataset, coco_blocks, read_coco
from detect.data.coco_dataset import image_sources
from detect.errors import CocoError
from detect.samples import sample_annotations

DATA = Path(__file__).parents[1] / "data"
TACO, BCCD = DATA / "taco" / "faults.json", DATA / "bccd" / "faults.json"
NUM_SHARDS = 7


def coco_of(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it loads
        return COCO(str(path))


def content_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def columns(annotations: Annotations) -> Iterator[Any]:
    for name in ("ids", "image_rows", "category_ids", "boxes_xywh", "iscrowd", "area"):
        yield getattr(annotations, name)
    yield from annotations.keypoints or ()


def assert_same(dataset: CocoDataset, other: CocoDataset) -> None:
    """Equal in all but the names of files."""
    assert_array_equal(dataset.images.ids, other.images.ids)
    assert_array_equal(dataset.images.wh, other.images.wh)
    assert dataset.images.file_names == other.images.file_names
    for mine, theirs in zip(columns(dataset.annotations), columns(other.annotations), strict=True):
        assert_array_equal(mine, theirs)
    assert list(dataset.categories.items()) == list(other.categories.items())
    assert findings_in_words(dataset.invalid) == findings_in_words(other.invalid)
    assert findings_in_words(dataset.suspicious) == findings_in_words(other.suspicious)


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
    paths = [written(tmp_path / f"{name}.json", {"images": [], "annotations": []}) for name in "ba"]
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
    shards = [written(tmp_path / f"{number}.json", shard) for number, shard in enumerate(cut(content_of(path)))]
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
        shards.append(written(folder / f"{number}.json", {**head, "annotations": mine[::-1] if reverse else mine}))
    assert_same(read_coco(shards), whole)


def test_crowds_are_kept_apart():
    box = {"bbox": [1, 2, 3, 4]}
    dataset = read_coco(boxes_on_one_image({**box, "iscrowd": 1}, {"bbox": [5, 6, 7, 8]}, {"bbox": [2, 2, 2, 2]}))
    assert_array_equal(dataset.crowd.ids, [1])
    assert_array_equal(dataset.instances.ids, [2, 3])
    assert_array_equal(dataset.annotations.ids, [1, 2, 3])
    assert_array_equal(dataset.instances.boxes_xywh, [[5, 6, 7, 8], [2, 2, 2, 2]])


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


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_progress_rises_to_all_bytes_of_all_files(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(coco_blocks, "BLOCK_BYTES", 256)
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


def test_sources_are_told_by_the_file_or_are_the_images_themselves(tmp_path):
    content = coco_content([[1, 1, 5, 5]] * 12, image_ids=range(1, 13))
    path = written(tmp_path / "some.json", content)
    assert len(set(image_sources(read_coco(path)).tolist())) == 12
    for number, image in enumerate(content["images"]):
        image["source"] = "abc"[number % 3]
    written(path, content)
    assert image_sources(read_coco(path)).tolist() == [0, 1, 2] * 4
    content["images"][0]["source"] = ["no name"]
    written(path, content)
    assert len(set(image_sources(read_coco(path)).tolist())) == 12
    assert len(image_sources(read_coco(content))) == 12


def with_fields(*fields: dict[str, Any]) -> dict[str, Any]:
    """One image with an annotation for each set of fields."""
    boxes = [(10 * number, 10, 20, 30) for number in range(len(fields))]
    content = coco_content(boxes, image_ids=[1] * len(fields), ids=list(range(1, len(fields) + 1)))
    for entry, own in zip(content["annotations"], fields, strict=True):
        entry.update(own)
    return content


@pytest.mark.parametrize("form", ["in memory", "a file", "a file of one block for each entry"])
@pytest.mark.parametrize(
    ("fields", "angles", "names"),
    [
        # the first field that any annotation has is read, from all annotations
        ([{"angle": 30}, {"rotation": 5}, {"angle": -7.5, "rotation": 8}], [30, np.nan, -7.5], ("angle", "rotation")),
        ([{"rotation": 400}, {}, {"rotation": None}], [400, np.nan, np.nan], ("rotation",)),
        (
            [{"attributes": {"rotation": 12.5, "occluded": False}}, {"attributes": [3]}, {"attributes": {}}],
            [12.5, np.nan, np.nan],
            ("attributes.rotation",),
        ),
        (
            [{"attributes": {"rotation": 0.0}}, {"angle": "45"}, {}],
            [np.nan, 45, np.nan],
            ("angle", "attributes.rotation"),
        ),
    ],
)
def test_angles_are_those_of_the_first_field_that_there_is(tmp_path, monkeypatch, form, fields, angles, names):
    content = with_fields(*fields)
    source = content if form == "in memory" else written(tmp_path / "a.json", content)
    if form.endswith("each entry"):
        monkeypatch.setattr(coco_blocks, "BLOCK_BYTES", 16)
    dataset = read_coco(source, angles=True)
    assert_array_equal(dataset.instances.angles_deg, angles)
    assert dataset.angle_fields == names
    assert not [each for each in dataset.suspicious if "rotated" in each.reason]  # the rotation is read
    assert_array_equal(dataset.take_images(np.array([0])).instances.angles_deg, angles)
    assert_array_equal(dataset.annotations.take(np.array([2, 0])).angles_deg, [angles[2], angles[0]])


def test_without_angles_or_unasked_there_is_no_column_of_them(tmp_path):
    for content, asked in ((with_fields({}, {}), True), (with_fields({"angle": 30, "rotation": "left"}), False)):
        for source in (content, written(tmp_path / "a.json", content)):
            dataset = read_coco(source, angles=asked)
            assert (dataset.annotations.angles_deg, dataset.angle_fields) == (None, ())
            assert not dataset.suspicious


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("left", "the text 'left', not a number"),
        (True, "true, not a number"),
        ([3], "a list, not a number"),
        (float("nan"), "nan, not finite"),
        (float("inf"), "inf, not finite"),
        (10**400, "a number of 1,329 bits, too large"),
    ],
)
@pytest.mark.parametrize("field", ["angle", "rotation", "attributes.rotation"])
def test_an_angle_that_is_no_finite_number_is_an_error_with_file_and_annotation(tmp_path, field, value, words):
    entry = {"attributes": {"rotation": value}} if field.startswith("attributes") else {field: value}
    content = with_fields({"angle": 1.0}, entry)
    path = written(tmp_path / "a.json", content)
    for source, name in ((content, "(in memory)"), (path, str(path))):
        with pytest.raises(CocoError) as error:
            read_coco(source, angles=True)
        assert str(error.value) == f"{name}: annotation 2, image 1: {field} is {words}"
        assert len(read_coco(source).instances) == 2  # unasked it is no error


def test_shards_with_and_without_angles_are_one_dataset(tmp_path):
    first, second = with_fields({"angle": 30}), with_fields({})
    second["images"][0]["id"], second["annotations"][0]["image_id"], second["annotations"][0]["id"] = 2, 2, 9
    files = [written(tmp_path / f"{name}.json", each) for name, each in (("a", first), ("b", second))]
    assert_array_equal(read_coco(files, angles=True).instances.angles_deg, [30, np.nan])
