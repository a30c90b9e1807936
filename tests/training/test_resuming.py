"""A run is resumed only as itself."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from detect.errors import TrainingError
from detect.loading.labels import LabelMap
from detect.training.checkpoints import Checkpoint
from detect.training.resuming import RunState, check_same_data, check_same_run

SQUARE = LabelMap((7,), ("square",))


def test_a_run_is_resumed_with_its_own_configuration_alone(tiny, tmp_path):
    path = tmp_path / "last.pt"
    elsewhere = tiny("output.folder=elsewhere", "data.num_workers=2", "optimisation.devices=2")
    check_same_run(path, before=tiny(), now=elsewhere)
    with pytest.raises(TrainingError) as raised:
        check_same_run(path, before=tiny(), now=tiny("optimisation.epochs=9", "seed=1"))
    assert "seed (was 0, is 1); optimisation.epochs (was 2, is 9)" in str(raised.value)


def test_a_run_is_not_resumed_with_other_categories_or_images(tiny):
    before = Checkpoint(tiny(), SQUARE, None, {}, 1, {}, {"images": 8})
    check_same_data("last.pt", before, labels=SQUARE, num_images=8)
    with pytest.raises(TrainingError, match=r"data\.train has 6 images, the run began with 8"):
        check_same_data("last.pt", before, labels=SQUARE, num_images=6)
    changed = r"categories or keypoint types of data\.train have changed, from 7 'square' to 7 'circle'"
    with pytest.raises(TrainingError, match=changed):
        check_same_data("last.pt", before, labels=LabelMap((7,), ("circle",)), num_images=8)
    with pytest.raises(TrainingError, match="to 7 'square' with the keypoint types centre"):
        check_same_data("last.pt", before, labels=LabelMap((7,), ("square",), ("centre",), {7: (0,)}), num_images=8)


def test_whether_a_run_has_stopped_follows_from_the_patience_it_is_resumed_with():
    plain = asdict(RunState(step=8, epoch=4, validations_since_best=2, stopped=True))
    assert RunState.resumed(plain, patience=2).stopped
    assert not RunState.resumed(plain, patience=3).stopped
    assert not RunState.resumed(plain, patience=None).stopped


def test_states_of_earlier_versions_are_read():
    plain = asdict(RunState(step=8))
    plain["told_flat"] = not plain.pop("flat_reported")
    assert RunState.resumed(plain, patience=None) == RunState(step=8, flat_reported=True)
