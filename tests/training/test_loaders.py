"""Batches in parts, and divided among processes."""

from __future__ import annotations

import pytest

from detect.errors import ConfigError
from detect.loading.sampling import EpochBatchSampler
from detect.training.inputs import read_inputs
from detect.training.loaders import epoch_batches, image_loader
from detect.training.step import launch


def test_the_parts_of_a_batch_have_its_images(tiny):
    config = tiny("optimisation.batch_size=4", "optimisation.accumulate=2")
    data = read_inputs(config).train
    whole = list(EpochBatchSampler(len(data), batch_size=4))
    loader = image_loader(data, epoch_batches(config, data, launch(config)), num_workers=0)
    parts = [part.image_rows.tolist() for part in loader]
    assert [len(part) for part in parts] == [2, 2, 2, 2]
    for number, batch in enumerate(whole):
        assert sorted(draw.place for draw in batch) == sorted(parts[2 * number] + parts[2 * number + 1])


def test_a_batch_that_cannot_be_divided(tiny):
    config = tiny("optimisation.accumulate=3")
    with pytest.raises(ConfigError, match="a batch of 2 images cannot be divided among 1 processes with 3 parts"):
        epoch_batches(config, read_inputs(config).train, launch(config))
