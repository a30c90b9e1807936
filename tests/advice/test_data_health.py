"""Signs in labels: each is planted, and a dataset without it has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import coco_content, instances_of
from numpy.testing import assert_array_equal
from scipy.stats import median_abs_deviation

from detect.advice import data_health
from detect.advice.advice_sums import FirstLook
from detect.advice.data_health import DataSign, SignSums, usual_labels
from detect.advice.overlaps import overlapping_pairs
from detect.anchors.instances import ResizedInstances
from detect.data import read_coco

IMAGE_WH = (1000, 800)


def healthy(seed: int, count: int = 300, *, step_px: float = 1.0) -> tuple[list[list[float]], list[int]]:
    """Boxes (x, y, width, height) at multiples of a step, 20 px or more from borders, and their images, 10 boxes each."""
    draws = np.random.default_rng(seed)
    sizes = np.exp(draws.uniform(2.5, 4.5, (count, 2)))
    corners = draws.random((count, 2)) * np.subtract(IMAGE_WH, 640) + 20
    boxes = np.maximum(np.round(np.concatenate([corners, sizes], axis=1) / step_px), 1) * step_px
    return boxes.tolist(), (np.arange(count) // 10 + 1).tolist()


def data_signs(instances: ResizedInstances, *, rare: int = 50) -> tuple[DataSign, ...]:
    """The signs in a dataset, as advice finds them."""
    look = FirstLook.of(instances.dataset, resize=str(instances.rule))
    usual = usual_labels(ResizedInstances.of(look.sample.dataset, instances.rule), look.files)
    pairs = overlapping_pairs(instances.boxes, instances.dataset.instances.image_rows)
    return data_health.data_signs(SignSums.of(instances, pairs, usual), look.counts, usual, rare=rare)


def signs_of(boxes: Any, *, resize: str = "none", rare: int = 0, **fields: Any) -> dict[str, DataSign]:
    """The signs by name, for images of ``IMAGE_WH``."""
    instances = instances_of(boxes, resize, image_wh=IMAGE_WH, **fields)
    return {sign.name: sign for sign in data_signs(instances, rare=rare)}


def signs_in(content: dict[str, Any], resize: str = "none") -> dict[str, DataSign]:
    return {sign.name: sign for sign in data_signs(ResizedInstances.of(read_coco(content), resize), rare=0)}


@pytest.mark.parametrize("step_px", [0.001, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(10))
def test_a_healthy_dataset_has_no_sign(seed, step_px):
    boxes, image_ids = healthy(seed, step_px=step_px)
    assert signs_of(boxes, image_ids=image_ids) == {}


def test_without_instances_only_images_and_categories_have_signs():
    content = coco_content([])
    assert set(signs_in(content)) == {"categories without objects", "images without objects"}
    assert signs_in(content | {"images": [], "categories": []}) == {}


def test_near_duplicates_are_pairs_above_an_iou_of_0_9_that_are_not_identical():
    pairs = [[10, 10, 20, 20], [10, 10, 20, 22]], [[50, 50, 20, 20], [50, 50, 20, 23]], [[90, 90, 20, 20]] * 2
    boxes = [box for pair in pairs for box in pair]  # 400 / 440 = 0.909, 400 / 460 = 0.870, and 1
    found = signs_of(boxes, category_ids=[1, 1, 1, 1, 1, 1])
    assert_array_equal(found["near-duplicates of the same category"].ids.items, [1, 2])
    assert "near-duplicates of different categories" not in found
    found = signs_of(boxes, category_ids=[2, 1, 2, 1, 2, 1])
    assert_array_equal(found["near-duplicates of different categories"].ids.items, [1, 2])
    assert "in 1 pair: where they are one object" in found["near-duplicates of different categories"].words
    assert "near-duplicates of the same category" not in found
    assert not any("near" in name for name in signs_of(boxes, image_ids=[1, 2, 1, 2, 1, 2]))


def test_categories_are_rare_below_a_number_and_unequal_from_a_ratio():
    boxes, image_ids = healthy(0, 103)
    categories = [1] * 100 + [2] * 2 + [3]
    content = coco_content(boxes, image_wh=IMAGE_WH, image_ids=image_ids, category_ids=categories)
    content["categories"].append({"id": 4, "name": "unicorn"})
    instances = ResizedInstances.of(read_coco(content), "none")
    found = {sign.name: sign for sign in data_signs(instances, rare=2)}
    assert found["rare categories"].categories == ("type 3",)
    assert found["rare categories"].words.startswith("1 of 4 categories (25.0%) has fewer than 2 objects (type 3 1): ")
    assert found["categories without objects"].categories == ("unicorn",)
    assert found["unequal categories"].categories == ("type 1", "type 3")
    assert "100 times as many objects as type 3 (100 and 1)" in found["unequal categories"].words
    few = {sign.name: sign for sign in data_signs(instances, rare=3)}["rare categories"]
    assert few.categories == ("type 3", "type 2")
    assert "unequal categories" in signs_of(boxes[:51], category_ids=[1] * 50 + [2], image_ids=image_ids[:51])
    assert "unequal categories" not in signs_of(boxes[:50], category_ids=[1] * 49 + [2], image_ids=image_ids[:50])


def test_categories_are_alike_but_for_case_spaces_and_hyphens():
    content = coco_content([[1, 1, 9, 9]])
    content["categories"] = [
        {"id": n, "name": name} for n, name in enumerate(["Traffic-light", "car", "traffic light"])
    ]
    found = signs_in(content)["categories of nearly the same name"]
    assert found.categories == ("Traffic-light", "traffic light")
    assert "'Traffic-light' and 'traffic light'" in found.words
    content["categories"].pop()
    assert "categories of nearly the same name" not in signs_in(content)


def test_boxes_cut_by_the_border_end_within_1_px_of_it():
    boxes, image_ids = healthy(0)
    near = [
        [1, 300, 20, 30],
        [300, 0.5, 30, 20],
        [949, 300, 50, 40],
        [400, 759, 30, 40],
        [0, 100, 30, 44],
        [5, 0, 21, 20],
    ]
    away = [[1.1, 300, 20, 30], [300, 760, 30, 38]]
    found = signs_of([*boxes, *near, *away], image_ids=[*image_ids, *range(1, 9)])["objects cut by the border"]
    assert_array_equal(found.ids.items, np.arange(301, 307))
    assert found.words.startswith(
        "6 of 308 boxes (1.9%) end within 1 px of the image's border, 6 times as many as by chance"
    )


@pytest.mark.parametrize("step_px", [0.001, 1.0])
def test_boxes_that_only_happen_to_be_near_the_border_are_no_sign(step_px):
    draws = np.random.default_rng(0)
    corners = np.floor(draws.random((2000, 2)) * 60 / step_px) * step_px  # many per pixel, on the border too
    boxes = np.concatenate([corners, draws.uniform(8, 30, (2000, 2))], axis=1)
    found = signs_of(boxes, image_ids=np.arange(2000) % 200 + 1)
    assert (corners <= 1).sum() > 50
    assert "objects cut by the border" not in found


def test_borders_of_images_of_unknown_size_are_not_known():
    boxes, image_ids = healthy(0)
    content = coco_content(boxes, image_ids=image_ids)
    for image in content["images"]:
        del image["width"], image["height"]
    assert signs_in(content) == {}
    lone = coco_content([[0, 0, 30, 40]])
    assert list(signs_in(lone | {"images": [{"id": 1}]})) == []


@pytest.mark.parametrize("step_px", [0.001, 1.0])
def test_fixed_sizes_are_found_among_sizes_that_vary_and_do_not_hide_each_other(step_px):
    boxes, image_ids = healthy(1, step_px=step_px)
    for row, side in enumerate([32, 33] * 15):
        boxes[row * 10][2:] = [side, side]
    found = signs_of(boxes, image_ids=image_ids)["boxes of the same size"]
    assert set(range(1, 301, 10)) <= set(found.ids)
    sizes = np.array(boxes)[np.array(found.ids.items) - 1, 2:]
    assert_array_equal(np.unique(sizes, axis=0), [[32, 32], [33, 33]])
    assert "2 sizes that repeat beyond chance, most often" in found.words


@pytest.mark.parametrize(("seed", "median_px"), [(0, 5), (1, 8), (2, 20), (3, 60)])
def test_whole_pixel_labels_of_small_objects_repeat_by_chance(seed, median_px):
    draws = np.random.default_rng(seed)
    sizes = np.maximum(np.round(median_px * np.exp(draws.normal(0, 0.4, (20_000, 2)))), 1)
    boxes = np.concatenate([draws.integers(20, 400, (20_000, 2)), sizes], axis=1)
    assert np.unique(sizes, axis=0, return_counts=True)[1].max() >= 12
    assert "boxes of the same size" not in signs_of(boxes, image_ids=np.arange(20_000) + 1)


def test_labels_made_from_points_have_one_size():
    boxes = [[x, 100 + x, 24, 24] for x in range(100, 500, 30)]
    found = signs_of(boxes)["boxes of the same size"]
    assert_array_equal(found.ids.items, np.arange(1, 15))
    assert found.words.startswith("14 of 14 boxes (100.0%) are exactly 24 x 24 px: ")
    assert "boxes of the same size" not in signs_of(boxes[:4])
    rounded = [
        [x, y, width + 1e-4 * np.sin(x), height] for x, y, width, height in boxes
    ]  # shares of images as decimals
    assert signs_of(rounded)["boxes of the same size"].words == found.words


def test_boxes_of_the_whole_image_cover_99_percent_of_it():
    found = signs_of([[0, 0, 1000, 792], [0, 0, 1000, 791], [0, 0, 1000, 800]])  # 792 / 800 = 0.99
    assert_array_equal(found["boxes of the whole image"].ids.items, [1, 3])
    many = signs_of([[0, 0, 1000, 800]] * 30, image_ids=range(1, 31))
    assert len(many["boxes of the whole image"].ids) == 30
    assert "boxes of the same size" not in many  # they are of the images' size


def test_aspect_ratios_are_extreme_above_10_after_the_resize():
    boxes = [[10, 10, 200, 20], [10, 50, 202, 20], [300, 300, 20, 300]]
    assert_array_equal(signs_of(boxes)["extreme aspect ratios"].ids.items, [2, 3])
    assert "up to 15:" in signs_of(boxes)["extreme aspect ratios"].words
    halved = signs_of(boxes, resize="stretch:500x800")["extreme aspect ratios"]  # all widths are halved
    assert_array_equal(halved.ids.items, [3])
    assert halved.words.startswith("1 of 3 boxes (33.3%) has sides of a ratio above 10 after the resize, up to 30:")


def test_unusual_sizes_are_4_robust_deviations_from_the_median_of_the_category():
    boxes, image_ids = healthy(2)
    boxes[7][2:], boxes[60][2:], boxes[90] = [400, 400], [2, 2], [0, 300, 2, 2]  # the last is cut by the border
    categories = [1 + row % 2 for row in range(300)]
    found = signs_of(boxes, image_ids=image_ids, category_ids=categories)["unusual sizes"]
    size = np.log(np.array(boxes)[:, 2:].prod(axis=1)) / 2
    score = np.empty(300)
    for part in (slice(0, None, 2), slice(1, None, 2)):
        score[part] = (size[part] - np.median(size[part])) / median_abs_deviation(size[part], scale="normal")
    assert_array_equal(found.ids.items, 1 + np.setdiff1d(np.flatnonzero(np.abs(score) > 4), [90]))
    assert_array_equal(found.ids.items, [8, 61])
    assert "type 1 of 2.0 px (median" in found.words


def test_a_category_needs_50_boxes_to_have_a_usual_size():
    boxes, image_ids = healthy(2, 50)
    boxes[7][2:] = [600, 600]
    assert_array_equal(signs_of(boxes, image_ids=image_ids)["unusual sizes"].ids.items, [8])
    assert "unusual sizes" not in signs_of(boxes[:49], image_ids=image_ids[:49])


def test_labels_of_one_size_do_not_make_every_other_size_unusual():
    boxes = [[10 * n, 10 * n, 20, 20] for n in range(1, 60)]
    boxes[5][2:], boxes[6][2:] = [26, 26], [32, 32]  # log(1.3) < 4 log(1.1) = log(1.46) < log(1.6)
    assert_array_equal(signs_of(boxes)["unusual sizes"].ids.items, [7])


def test_images_without_objects_have_no_crowd_region_either():
    content = coco_content([[1, 1, 9, 9], [2, 2, 9, 9]], image_ids=[1, 2])
    content["annotations"][1]["iscrowd"] = 1
    content["images"] += [{"id": number, "width": 64, "height": 64} for number in (3, 4)]
    found = signs_in(content)["images without objects"]
    assert found.image_ids.items == (3, 4)
    assert found.words.startswith("2 of 4 images (50.0%) have no objects")


def test_files_of_several_images_are_found_but_not_those_of_tiles():
    content = coco_content([[1, 1, 9, 9]] * 4, image_ids=[1, 2, 3, 4])
    for image, name in zip(content["images"], ["a.jpg", "b.jpg", "a.jpg", None], strict=True):
        image["file_name"] = name
    found = signs_in(content)["files named by several images"]
    assert found.image_ids.items == (1, 3)
    assert found.words.startswith("2 images share 1 file, a.jpg: ")
    assert "files named by several images" not in signs_in(content, "tiles:32:0")


def test_the_order_of_entries_does_not_matter():
    boxes, image_ids = healthy(3)
    boxes[7][2:], boxes[20] = [400, 400], [1, 1, 10, 200]
    content = coco_content(boxes, image_wh=IMAGE_WH, image_ids=image_ids)
    found = signs_in(content)
    for entries in content.values():
        entries.reverse()
    again = signs_in(content)
    assert again == found
    assert len(found) == 2
