"""Differences between two parts: none is found between halves of one dataset, and a planted one is found with its value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import coco_content, instances_of
from numpy.testing import assert_allclose
from scipy.stats import t as student

from detect.advice.drift import Difference, Drift, DriftSums
from detect.advice.drift import drift as drift_of
from detect.anchors.instances import ResizedInstances
from detect.data import Annotations, CocoDataset, Images, read_coco
from detect.data.resize import parse_resize
from detect.ops.exact_sums import add_up

NAMES = {1: "car", 2: "bus", 3: "tram"}


def drift(train: ResizedInstances, val: ResizedInstances) -> Drift:
    return drift_of(*(DriftSums.of(each, each.dataset.categories) for each in (train, val)))


def generated(
    seed: int,
    num_images: int,
    *,
    scale: float = 1.0,
    taller: float = 1.0,
    extra: int = 0,
    shares: Any = (0.6, 0.3, 0.1),
) -> ResizedInstances:
    """Images of 0 to 12 objects, whose sizes, shapes and categories are alike within an image."""
    draws = np.random.default_rng(seed)
    counts = draws.integers(0, 13, num_images) + extra
    image_rows = np.repeat(np.arange(num_images), counts)
    size = np.exp(draws.normal(3, 0.5, num_images)[image_rows] + draws.normal(0, 0.2, len(image_rows))) * scale
    ratio = np.exp(draws.normal(0, 0.3, num_images)[image_rows] + draws.normal(0, 0.1, len(image_rows))) * taller
    main = draws.choice(3, num_images, p=shares)[image_rows]
    own = draws.choice(3, len(image_rows), p=shares)
    categories = 1 + np.where(draws.random(len(image_rows)) < 0.7, main, own)
    boxes = np.column_stack([np.zeros((len(size), 2)), size / np.sqrt(ratio), size * np.sqrt(ratio)])
    ids, crowd = np.arange(len(size)), np.zeros(len(size), bool)
    annotations = Annotations(ids, image_rows, categories, boxes, crowd, size**2)
    images = Images(
        np.arange(num_images), np.full((num_images, 2), 1000), tuple(f"{seed} {n}" for n in range(num_images))
    )
    return ResizedInstances.of(CocoDataset(images, annotations, NAMES, (), (), ("a.json",)), parse_resize("none"))


def test_values_by_hand():
    train = instances_of([[0, 0, 8, 8], [0, 0, 16, 16]], image_ids=[1, 2], category_ids=[1, 2])
    val = instances_of([[0, 0, 16, 32], [0, 0, 8, 8], [9, 9, 8, 8]], image_ids=[3, 3, 4], category_ids=[1, 1, 1])
    found = drift(train, val)
    assert (found.size.train, found.size.val) == (3.5, 3.5)  # (3 + 4) / 2, and (4.5 + 3 + 3) / 3
    assert_allclose([found.ratio.train, found.ratio.val], [0, 1 / 3])
    assert (found.objects.train, found.objects.val, found.objects.value) == (1.0, 1.5, 0.5)
    each = found.categories
    assert (each.distance, each.category, each.train, each.val) == (0.5, "type 1", 0.5, 1.0)
    assert found.in_words() == ()  # from two images nothing is known about others
    assert found.summary()[0].startswith("fewer than 10 images with objects")
    assert (found.objects.low, found.objects.high, each.by_chance) == (-np.inf, np.inf, np.inf)


def test_halves_of_one_dataset_rarely_differ():
    found = dict.fromkeys(("size", "ratio", "objects", "categories"), 0)
    for seed in range(100):
        result = drift(generated(2 * seed, 60), generated(2 * seed + 1, 40))
        for name in found:
            found[name] += getattr(result, name).is_found
    assert max(found.values()) <= 11, found  # of 100 at 5 %: 12 or more have a probability of 0.4 %
    assert sum(found.values()) >= 5, found  # and all four together are not silent: 20 are expected


def test_planted_differences_are_found_with_their_values():
    train = generated(0, 300)
    val = generated(1, 300, scale=1.5, taller=1.25, extra=3, shares=(0.2, 0.3, 0.5))
    found = drift(train, val)
    for each, value in ((found.size, np.log2(1.5)), (found.ratio, np.log2(1.25)), (found.objects, 3)):
        assert each.is_found
        assert each.low < value < each.high
    assert found.categories.is_found
    assert found.categories.distance > 0.3
    size, ratio, objects, categories = found.in_words()
    assert size.startswith("validation objects are larger than training objects: sqrt(area) is ")
    assert ratio.startswith("validation objects are taller than training objects: height / width is ")
    assert objects.startswith("validation images have 9.")
    assert categories.startswith("categories have other shares in validation: tram, which differs most, has ")


def test_the_same_images_enlarged_differ_by_exactly_the_factor():
    found = drift(generated(0, 200), generated(0, 200, scale=1.5))
    assert_allclose(found.size.value, np.log2(1.5))
    assert found.size.is_found
    words = found.in_words()[0]
    assert "+0.58 octaves (95% interval +0.4" in words
    back = drift(generated(0, 200, scale=1.5), generated(0, 200))
    assert "smaller" in back.in_words()[0]
    assert_allclose([back.size.low, back.size.high], [-found.size.high, -found.size.low], atol=1e-9)
    assert not any(each.is_found for each in (found.ratio, found.objects, found.categories))


@pytest.mark.parametrize("name", ["size", "ratio", "objects"])
def test_intervals_are_those_of_ratios(name):
    parts = generated(4, 150), generated(5, 80)
    variance = 0.0
    for part in parts:
        rows, width, height = part.dataset.instances.image_rows, *np.log2(part.shapes).T
        values = {"size": (width + height) / 2, "ratio": height - width, "objects": np.ones(len(width))}[name]
        sums, counts = (
            np.bincount(rows, values, len(part.dataset.images)),
            np.bincount(rows, minlength=len(part.dataset.images)),
        )
        if name == "objects":
            counts = np.ones_like(counts)
        residuals = sums - counts * sums.sum() / counts.sum()  # of a ratio of means, over images
        variance += residuals.var(ddof=1) / counts.mean() ** 2 / len(counts)
    each: Difference = getattr(drift(*parts), name)
    fewest = min(len(np.unique(part.dataset.instances.image_rows)) for part in parts)
    deviations = student.ppf(0.975, fewest - 1)
    assert_allclose(each.high - each.low, 2 * deviations * np.sqrt(variance), rtol=1e-5)
    assert_allclose((each.high + each.low) / 2, each.value)


def test_the_limit_for_categories_is_that_of_random_splits():
    whole, draws, distances = generated(3, 300), np.random.default_rng(0), []
    for _ in range(200):
        drawn = draws.permutation(300)
        parts = [
            ResizedInstances.of(whole.dataset.take_images(np.sort(rows)), "none") for rows in (drawn[:200], drawn[200:])
        ]
        found = drift(*parts).categories
        distances.append(found.distance / found.by_chance)
    # by Bonferroni at least 95 % stay below the limit; three shares that add up to 1 are hardly two independent ones
    assert 0.94 < np.mean(np.array(distances) < 1) < 0.995


def test_a_category_that_is_rare_by_chance_is_not_found():
    # 30 of 3,000 images have it; with 50 validation images half a box is expected
    boxes, categories = [[0, 0, 9, 9]] * 3000, [2 if number % 100 == 0 else 1 for number in range(3000)]
    train = instances_of(boxes, image_ids=range(1, 3001), category_ids=categories)
    val = instances_of(boxes[:50], image_ids=range(1, 51))
    found = drift(train, val).categories
    assert (found.category, found.train, found.val) == ("type 1", 0.99, 1.0)
    assert not found.is_found


def test_categories_are_compared_by_name():
    content = coco_content([[0, 0, 9, 9], [0, 0, 8, 8]], category_ids=[1, 2])
    other = coco_content([[0, 0, 9, 9], [0, 0, 8, 8]], category_ids=[5, 4])
    other["categories"] = [{"id": 5, "name": "type 1"}, {"id": 4, "name": "type 2"}]
    train, val = (ResizedInstances.of(read_coco(each), "none") for each in (content, other))
    assert drift(train, val).categories.distance == 0


def test_shared_images_have_the_same_file_name_and_size():
    train, val = (coco_content([[1, 1, 9, 9]] * 4, image_ids=ids) for ids in ([1, 2, 3, 4], [11, 2, 13, 14]))
    for content, names in ((train, "abcd"), (val, "xadc")):
        for image, name in zip(sorted(content["images"], key=lambda each: each["id"]), names, strict=True):
            image["file_name"] = f"{name}.jpg"
    val["images"][-1]["width"] = 65
    name_of = {image["id"]: image["file_name"] for image in val["images"]}
    found = drift(*(ResizedInstances.of(read_coco(each), "none") for each in (train, val)))
    expected = [
        number for number, name in sorted(name_of.items()) if name in {"a.jpg", "c.jpg", "d.jpg"} and number != 14
    ]
    assert list(found.shared_ids) == expected
    assert found.in_words()[0].startswith("2 validation images have the name and size of a training image (ids ")


def test_shared_images_without_names_have_the_same_id_and_boxes():
    train = instances_of([[1, 1, 9, 9], [1, 1, 8, 8]], image_ids=[1, 2])
    val = instances_of([[1, 1, 9, 9], [1, 1, 7, 8]], image_ids=[1, 2])
    found = drift(train, val)
    assert found.shared_ids == (1,)
    assert found.in_words()[0].startswith("1 validation image has the name and size of a training image (ids 1)")


def test_where_nothing_differs_it_says_so():
    boxes = [[number, 0, 8 + number % 3, 9] for number in range(40)]
    parts = [instances_of(boxes, image_ids=[first + number for number in range(40)]) for first in (0, 100)]
    (line,) = drift(*parts).summary()
    assert line.startswith("validation shares no image with training")
    assert drift(parts[0], parts[0]).summary() == drift(parts[0], parts[0]).in_words()  # the same images


def test_sums_of_shards_are_those_of_the_whole():
    train, val = generated(0, 80), generated(1, 50)
    shards = [train.dataset.take_images(np.arange(first, 80, 3)) for first in (2, 0, 1)]
    sums = add_up(DriftSums.of(ResizedInstances.of(each, "none"), NAMES) for each in shards)
    assert drift_of(sums, DriftSums.of(val, NAMES)) == drift(train, val)
    known = DriftSums.of(train, NAMES, known=DriftSums.of(val, NAMES).images)
    assert len(known.images.ids) == 0


def test_a_part_without_objects_differs_in_nothing():
    empty = instances_of([])
    for parts in ((generated(0, 20), empty), (empty, generated(0, 20)), (empty, empty)):
        found = drift(*parts)
        assert found.in_words() == ()
        assert np.isnan([found.size.value, found.ratio.value]).all()
