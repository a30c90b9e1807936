from __future__ import annotations

import pytest
from builders import coco_content, read_shards, sharded
from hypothesis import given

from detect.data import read_coco
from detect.data.dataset_counts import DatasetCounts, Names
from detect.errors import CocoError
from detect.ops.exact_sums import add_up


@given(sharded())
def test_counts_of_shards_add_up_to_those_of_the_whole(data):
    whole, shards = read_shards(data)
    total, counts = add_up(map(DatasetCounts.of, shards)), DatasetCounts.of(whole)
    for name in ("num_images", "num_boxes", "num_crowd", "boxes_of", "categories", "findings"):
        assert getattr(total, name) == getattr(counts, name)


def test_counts_by_hand():
    content = coco_content([(0, 0, 9, 9), (0, 0, 0, 9), (60, 0, 9, 9)], category_ids=[1, 1, 2])
    content["annotations"][0]["iscrowd"] = 1
    counts = DatasetCounts.of(read_coco(content))
    assert (counts.num_images, counts.boxes_of, counts.num_boxes, counts.num_crowd) == (1, {2: 1}, 1, 1)
    assert [(kind, each.annotation_id) for kind, each in counts.findings] == [("invalid", 2), ("suspicious", 3)]
    assert counts.category_name(2) == "type 2"
    assert counts.category_name(7) == "category 7"
    assert counts.with_left_out("no") == (
        "no; 1 entry was invalid and left out, the first: (in memory): annotation 2, image 1: width 0 is not positive"
    )


def test_names_that_contradict_each_other_are_an_error():
    assert (Names({2: "cat"}) + Names({1: "dog", 2: "cat"})).of_id == {1: "dog", 2: "cat"}
    with pytest.raises(CocoError, match="category id 2 is both 'cat' and 'dog'"):
        Names({2: "cat"}) + Names({2: "dog"})
