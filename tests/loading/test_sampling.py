"""The order of epochs: one for all processes, the same when resumed, with rare categories more often."""

from __future__ import annotations

from collections import Counter
from math import sqrt
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from detect.data import CocoDataset, read_coco
from detect.loading.dataset import Draw
from detect.loading.sampling import EpochBatchSampler, epoch_order, repeat_factors


def batches_of(num_images: int, epoch: int = 0, first: int = 0, **options: Any) -> list[list[Draw]]:
    batches = EpochBatchSampler(num_images, **options)
    batches.start_at(epoch, first)
    return list(batches)


def test_order_is_a_function_of_seed_and_epoch():
    order = epoch_order(50, seed=1, epoch=2)
    assert_array_equal(epoch_order(50, seed=1, epoch=2), order)
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert (epoch_order(50, seed=seed, epoch=epoch) != order).any()


def test_the_last_batch_is_filled_from_the_beginning_of_the_order():
    draws = [draw for batch in batches_of(5, batch_size=3) for draw in batch]
    order = epoch_order(5, seed=0, epoch=0).tolist()
    assert [draw.place for draw in draws] == [*order, order[0]]
    assert [draw.copy for draw in draws] == [0, 0, 0, 0, 0, 1]  # the one that comes again is drawn anew


def test_fewer_images_than_a_batch_come_again_until_it_is_full():
    (batch,) = batches_of(2, batch_size=5)
    assert Counter(draw.copy for draw in batch) == {0: 2, 1: 2, 2: 1}


@given(st.integers(1, 40), st.sampled_from([12, 24]), st.integers(0, 5), st.booleans())
def test_the_batches_of_all_processes_together_are_those_of_one(num_images, batch_size, epoch, repeated):
    repeats = np.linspace(1, 3, num_images) if repeated else None
    options: dict[str, Any] = {"batch_size": batch_size, "seed": 7, "repeats": repeats}
    alone = batches_of(num_images, epoch, **options)
    for num_processes in (2, 3, 4):
        shares = [
            batches_of(num_images, epoch, rank=rank, num_processes=num_processes, **options)
            for rank in range(num_processes)
        ]
        for batch, *parts in zip(alone, *shares, strict=True):
            assert sorted(batch) == sorted(draw for part in parts for draw in part)
            assert {len(part) for part in parts} == {batch_size // num_processes}


def test_a_resumed_epoch_goes_on_where_it_stopped():
    options: dict[str, Any] = {"batch_size": 4, "repeats": np.linspace(1, 2, 30)}
    whole = batches_of(30, 3, **options)
    assert batches_of(30, 3, 5, **options) == whole[5:]
    assert batches_of(30, 3, len(whole), **options) == []
    batches = EpochBatchSampler(30, **options)
    batches.start_at(3, 5)
    assert len(batches) == len(whole) - 5


@given(st.integers(0, 1000), st.lists(st.floats(1, 5), min_size=1, max_size=30))
def test_repeated_images_come_as_often_as_asked_rounded_up_or_down(epoch, factors):
    repeats = np.array(factors)
    counts = np.bincount(epoch_order(len(factors), seed=0, epoch=epoch, repeats=repeats), minlength=len(factors))
    assert (counts >= np.floor(repeats)).all()
    assert (counts <= np.floor(repeats) + 1).all()
    assert np.floor(repeats.sum() - 1e-9) <= counts.sum() <= np.ceil(repeats.sum() + 1e-9)


def test_repeated_images_come_on_average_as_often_as_asked():
    repeats = np.array([1.0, 1.25, 2.5, 1.9])
    epochs = [np.bincount(epoch_order(4, seed=0, epoch=epoch, repeats=repeats)) for epoch in range(1000)]
    # the standard deviation of such a mean is at most .5 / sqrt(1000) = .016
    assert_allclose(np.mean(epochs, axis=0), repeats, atol=0.06)


def test_every_epoch_has_the_same_number_of_batches():
    repeats = np.array([1.3, 1.1, 1.2])  # 3.6: three or four draws, in two batches of two
    batches = EpochBatchSampler(3, batch_size=2, repeats=repeats)
    assert batches.num_batches == 2
    for epoch in range(20):
        batches.start_at(epoch)
        drawn = list(batches)
        assert [len(batch) for batch in drawn] == [2, 2]
        assert {draw.place for batch in drawn for draw in batch} == {0, 1, 2}


def dataset_of(categories_of_images: list[list[int]], **fields: Any) -> CocoDataset:
    images = [{"id": row, "width": 9, "height": 9} for row in range(len(categories_of_images))]
    annotations = [
        {"id": 100 * row + number, "image_id": row, "category_id": category, "bbox": [1, 1, 5, 5], **fields}
        for row, categories in enumerate(categories_of_images)
        for number, category in enumerate(categories)
    ]
    return read_coco({"images": images, "annotations": annotations})


def factors_of(dataset: CocoDataset, threshold: float = 0.4) -> np.ndarray:
    return repeat_factors(dataset, np.arange(len(dataset.images)), threshold=threshold)


def test_an_image_comes_as_often_as_the_rarest_of_its_categories():
    # category 5 is in all of 10 images, 7 in one: sqrt(.4 / .1) = 2; an image counts once, however many objects it has
    dataset = dataset_of([[5, 7, 7, 7], *[[5, 5]] * 9])
    assert_allclose(factors_of(dataset), [2] + [1] * 9, rtol=1e-12)


def test_factors_are_those_of_a_plain_loop():
    random = np.random.default_rng(0)
    lists = [random.choice(6, random.integers(0, 4), p=[0.5, 0.25, 0.15, 0.05, 0.03, 0.02]).tolist() for _ in range(60)]
    frequency = {each: sum(each in categories for categories in lists) / 60 for each in range(6)}
    expected = [max([1.0, *(sqrt(0.3 / frequency[each]) for each in categories)]) for categories in lists]
    assert_allclose(factors_of(dataset_of(lists), 0.3), expected, rtol=1e-12)


def test_images_without_boxes_and_crowds_come_once():
    assert_array_equal(factors_of(dataset_of([[], [], [], []])), [1, 1, 1, 1])
    assert_array_equal(factors_of(dataset_of([[5], *[[]] * 9], iscrowd=1)), [1] * 10)


def test_shares_are_of_the_images_that_can_be_drawn():
    # of rows 0 and 1 alone, category 7 is in half: sqrt(.8 / .5)
    dataset = dataset_of([[7], [5], [5], [5]])
    assert_allclose(repeat_factors(dataset, np.array([0, 1]), threshold=0.8), [sqrt(1.6)] * 2, rtol=1e-12)
