"""Weights of positive anchors: every category has the same share of the loss for each instance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors import positive_weights as module
from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import assign
from detect.anchors.assignment_sums import MAX_WEIGHT, balanced_weights
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances
from detect.anchors.positive_weights import assign_sample, counts_of, positive_weights
from detect.data import read_coco
from detect.ops.matcher import Atss
from detect.samples import sample_annotations

ANCHORS = AnchorSet.of([[(20, 20), (50, 50)], [(70, 70)]], strides=[8, 16])


def test_weights_by_hand():
    # 300 instances of 20 positives and 100 of 4: 16 for each of the 400
    assert balanced_weights({7: 20.0, 3: 4.0}, {7: 300, 3: 100}) == {7: 0.8, 3: 4.0}
    # at most 2: the second has 800 of the 6400 weighted positives, the first the other 5600 of its 6000
    assert_allclose([*balanced_weights({7: 20.0, 3: 4.0}, {7: 300, 3: 100}, limit=2.0).values()], [14 / 15, 2])


@given(st.lists(st.tuples(st.floats(0, 400), st.integers(1, 10**6)), min_size=1, max_size=30), st.floats(1, 50))
def test_weighted_positives_are_as_many_and_no_weight_is_above_the_limit(groups, limit):
    positives, counts = ({row: pair[place] for row, pair in enumerate(groups)} for place in (0, 1))
    weights = balanced_weights(positives, counts, limit=limit)
    total = sum(positives[row] * counts[row] for row in positives)
    assert_allclose(sum(weights[row] * positives[row] * counts[row] for row in positives), total, rtol=1e-9)
    assert 0 <= max(weights.values()) <= limit * (1 + 1e-9)
    shares = [weights[row] * positives[row] for row in positives if weights[row] < limit * (1 - 1e-9)]
    assert_allclose(shares, max(shares, default=0.0), rtol=1e-9)  # below the limit each instance has the same


def test_one_category_and_equal_categories_weigh_1():
    assert balanced_weights({1: 7.5}, {1: 30}) == {1: 1.0}
    assert balanced_weights({1: 7.5, 2: 7.5}, {1: 30, 2: 1}) == {1: 1.0, 2: 1.0}
    assert balanced_weights({}, {}) == {}


def test_a_category_without_positives_has_the_limit():
    assert balanced_weights({1: 4.0, 2: 0.0}, {1: 10, 2: 10}) == {1: 1.0, 2: MAX_WEIGHT}


@pytest.mark.parametrize("matcher", [None, Atss()])
def test_weights_of_a_dataset_are_those_of_its_assignment(matcher):
    dataset = read_coco(sample_annotations("bccd"))
    dataset = dataset.take_images(np.arange(0, len(dataset.images), 12))
    assignment = assign(ResizedInstances.of(dataset, "stretch:320x240"), AnchorGenerator(ANCHORS), matcher)
    mean = {name.name: name.positives for name in assignment.by_category}
    found = positive_weights(dataset, ANCHORS, matcher, resize="stretch:320x240")
    per_box = {name: found[row] * mean[name] for row, name in enumerate(mean, start=1)}
    assert_allclose([*per_box.values()], assignment.overall.positives, rtol=1e-6)  # all images are among the 200
    assert assignment.positive_weights() == balanced_weights(
        dict(enumerate(mean.values(), start=1)), counts_of(dataset)
    )


def test_images_of_rare_categories_are_among_those_looked_at(monkeypatch):
    monkeypatch.setattr(module, "IMAGES_OF_A_CATEGORY", (2, 2))
    dataset = read_coco(
        {
            "images": [{"id": row, "width": 64, "height": 64} for row in range(100)],
            "categories": [{"id": 1, "name": "often"}, {"id": 2, "name": "once"}],
            "annotations": [
                {
                    "id": row,
                    "image_id": row % 100,
                    "category_id": 1 + (row == 137),
                    "bbox": [32 * (row // 100), 8, 20, 20],
                }
                for row in range(200)
            ],
        }
    )
    told = []
    assignment = assign_sample(dataset, ANCHORS, resize="none", on_progress=lambda *what: told.append(what))
    looked = assignment.instances.dataset
    assert looked.images.ids.tolist() == [0, 37, 50]
    assert told == [("matching", 1, 3), ("matching", 2, 3), ("matching", 3, 3)]
    assert counts_of(dataset) == {1: 199, 2: 1}
    assert sorted(assignment.positive_weights(counts_of(dataset))) == [1, 2]
    assert_allclose(np.fromiter(assignment.positive_weights().values(), float), 1.0)  # boxes of one size
