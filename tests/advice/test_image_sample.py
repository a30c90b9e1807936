"""A sample of images: the same for any split, of bounded size, and whole where the dataset is small."""

from __future__ import annotations

import numpy as np
import pytest
from builders import coco_content, dataset_of, read_shards, sharded
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from detect.advice import image_sample
from detect.advice.image_sample import ImageSample, part_of
from detect.data import read_coco
from detect.data.shard_ids import hashed
from detect.ops.exact_sums import add_up
from detect.samples import sample_annotations


@given(sharded(), st.integers(1, 12))
def test_samples_of_shards_add_up_to_that_of_the_whole(data, most):
    whole, shards = read_shards(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_sample, "MAX_BOXES", most)
        found, wanted = add_up(map(ImageSample.of, shards)), ImageSample.of(whole)
        for name in ("images", "keys", "boxes_xywh"):
            assert_array_equal(getattr(found, name), getattr(wanted, name))
        own = part_of(whole, wanted.limit).instances
        assert_array_equal(own.boxes_xywh, wanted.boxes_xywh)
        parts = sum(len(part_of(each, wanted.limit).instances) for each in shards)
        assert parts == len(own) >= min(most, len(whole.instances))


def test_images_are_those_of_the_lowest_hashes_up_to_the_one_that_reaches_the_number():
    dataset = read_coco(sample_annotations("bccd"))
    sample = ImageSample.of(dataset).first(1000)
    counts = dict(zip(*np.unique(sample.keys[:, 0], return_counts=True), strict=True))
    ids = sorted(dataset.images.ids.tolist(), key=lambda number: int(hashed(np.array([number]))[0]))
    assert set(sample.images[:, 0].tolist()) == set(ids[: len(counts)])
    assert sum(counts.values()) >= 1000 > sum(counts.values()) - counts[ids[len(counts) - 1]]


def test_a_small_dataset_is_its_own_sample():
    content = coco_content([[1, 2, 3, 4], [5, 6, 7, 8]], image_ids=[9, 4], category_ids=[2, 1])
    content["images"].append({"id": 1, "width": 50, "height": 60})
    del content["images"][0]["width"]
    dataset = read_coco(content)
    sample = ImageSample.of(dataset).dataset
    assert sample.images.ids.tolist() == [4, 9]
    assert sample.unsized == (4,)
    for name in ("boxes_xywh", "category_ids"):
        assert_array_equal(getattr(sample.instances, name), getattr(dataset.instances, name))


def test_one_image_of_many_objects_is_a_sample():
    dataset = dataset_of([[float(number), 0, 9, 9] for number in range(100)], [[0, 0, 5, 5]])
    assert len(ImageSample.of(dataset).first(3).keys) in (1, 100, 101)


def test_without_objects_there_are_no_images():
    sample = ImageSample.of(dataset_of([]))
    assert (len(sample.images), sample.limit, len((sample + sample).dataset.images)) == (0, 0, 0)
