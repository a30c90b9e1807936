"""Batches in parts, and divided among processes."""

from __future__ import annotations

import pytest

from detect.errors import ConfigError
from detect.training.inputs import read_inputs
from detect.training.loaders import epoch_batches, in_groups, part_loader
from detect.training.step import launch


def test_parts_are_grouped_again():
    assert list(in_groups(iter("abcdef"), 2)) == [["a", "b"], ["c", "d"], ["e", "f"]]


def test_the_parts_of_a_batch_have_its_images(tiny):
    config = tiny("optimisation.batch_size=4", "optimisation.accumulate=2")
    data = read_inputs(config).train
    batches = epoch_batches(config, data, launch(config))
    drawn = [[draw.place for draw in batch] for batch in batches]
    groups = list(in_groups(iter(part_loader(config, data, batches)), 2))
    assert [[len(part) for part in group] for group in groups] == [[2, 2], [2, 2]]
    for places, group in zip(drawn, groups, strict=True):
        assert sorted(places) == sorted(row for part in group for row in part.image_rows.tolist())


def test_a_batch_that_cannot_be_divided(tiny):
    config = tiny("optimisation.accumulate=3")
    with pytest.raises(ConfigError, match="a batch of 2 images cannot be divided among 1 processes with 3 parts"):
        epoch_batches(config, read_inputs(config).train, launch(config))
