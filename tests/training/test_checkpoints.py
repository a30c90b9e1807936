"""Checkpoints: what goes in comes out, whole or not at all, and nothing that runs."""

from __future__ import annotations

import os
from dataclasses import asdict, replace

import pytest
import torch
from torch.testing import assert_close

from detect.anchors.anchor_set import AnchorSet
from detect.errors import OutputError, TrainingError
from detect.loading.labels import LabelMap
from detect.training.builder import build_detector
from detect.training.checkpoints import (
    Checkpoint,
    RunState,
    check_same_data,
    check_same_run,
    fitting_parts,
    load_detector,
    read_checkpoint,
    save_checkpoint,
)

LABELS = LabelMap((3, 90), ("round", "square"))
SQUARE = LabelMap((7,), ("square",))


@pytest.fixture
def checkpoint(tiny, squares) -> Checkpoint:
    config, anchors = tiny("seed=4"), AnchorSet.load(squares / "anchors.yaml")
    weights = build_detector(config, LABELS, anchors=anchors, mean=(0.25,), std=(0.125,)).state_dict()
    return Checkpoint(config, LABELS, anchors, weights, 12, {"ap": 0.5}, {"state": {"step": 12}, "rates": [0.1, None]})


def test_what_is_saved_is_read(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    read = read_checkpoint(tmp_path / "last.pt")
    assert (read.config, read.labels, read.step, read.metrics) == (checkpoint.config, LABELS, 12, {"ap": 0.5})
    assert read.training == checkpoint.training
    assert read.anchors.levels == checkpoint.anchors.levels
    assert_close(dict(read.weights), dict(checkpoint.weights), rtol=0, atol=0)


def test_keypoint_types_are_kept(checkpoint, tiny, tmp_path):
    labels = LabelMap((7,), ("square",), ("a", "b"), {7: (0, 1)})
    config = tiny(task="landmarks")
    weights = build_detector(config, labels).state_dict()
    save_checkpoint(tmp_path / "last.pt", Checkpoint(config, labels, None, weights, 1, {}))
    loaded = load_detector(tmp_path / "last.pt")
    assert loaded.labels == labels
    assert (loaded.task, loaded.anchors) == ("landmarks", None)


def test_a_loaded_detector_is_the_saved_one_and_ready(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    loaded = load_detector(tmp_path)
    assert not loaded.model.training
    assert (loaded.category_ids, loaded.category_names, str(loaded.resize)) == ((3, 90), ("round", "square"), "none")
    assert_close(loaded.model.state_dict(), dict(checkpoint.weights), rtol=0, atol=0)
    images = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    again = build_detector(checkpoint.config, LABELS, anchors=checkpoint.anchors, mean=(0.25,), std=(0.125,)).eval()
    assert_close(loaded.model(images), again(images), rtol=0, atol=0)


def test_the_best_threshold_is_that_of_the_last_validation(checkpoint, tmp_path):
    for metrics, best in (({"best_threshold": 0.4}, 0.4), ({"best_threshold": float("nan")}, None), ({}, None)):
        save_checkpoint(tmp_path / "last.pt", replace(checkpoint, metrics=metrics))
        assert load_detector(tmp_path).best_threshold == best


def test_a_folder_stands_for_its_best_checkpoint_or_its_last(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    assert load_detector(tmp_path).name == str(tmp_path / "last.pt")
    save_checkpoint(tmp_path / "best.pt", checkpoint)
    assert load_detector(tmp_path).name == str(tmp_path / "best.pt")


def test_a_failed_save_leaves_the_old_file(checkpoint, tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    before = (tmp_path / "last.pt").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(tmp_path / "last.pt", checkpoint)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert os.listdir(tmp_path) == ["last.pt"]  # noqa: PTH208


def test_files_that_are_no_checkpoints(checkpoint, tmp_path):
    """What else can be wrong with a file is in tests/ops/test_tensor_files.py."""
    path = tmp_path / "last.pt"
    with pytest.raises(TrainingError, match="No such file"):
        read_checkpoint(path)
    save_checkpoint(path, checkpoint)
    whole, tensor = path.read_bytes(), next(iter(checkpoint.weights.values())).numpy().tobytes()
    for damaged in (whole[:-1000], whole.replace(tensor, tensor[::-1])):
        path.write_bytes(damaged)
        for read in (load_detector, read_checkpoint):
            with pytest.raises(TrainingError, match=f"{path}: not a checkpoint, or damaged"):
                read(path)


def test_parts_that_do_not_fit_each_other_are_one_line(checkpoint, tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, replace(checkpoint, anchors=None))
    with pytest.raises(TrainingError, match=f"{path}: weights do not fit the configuration: "):
        load_detector(path)
    with (
        pytest.raises(TrainingError, match=f"{path}: its state of training does not fit: Expected `int`, got `str`"),
        fitting_parts(path, "its state of training does not fit"),
    ):
        RunState.resumed({"step": "8"}, patience=None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "not a checkpoint of detect train"),
        ({"weights": {}}, "not a checkpoint of detect train"),
        ({"format": 2}, "format 2, this version reads format 1"),
        ({"format": 1}, "incomplete or damaged checkpoint"),
        ({"format": 1, "config": "a: [", "labels": {}, "anchors": None}, "incomplete or damaged checkpoint"),
    ],
)
def test_other_files_of_torch(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(TrainingError, match=message):
        read_checkpoint(tmp_path / "a.pt")


def test_weights_of_another_detector(checkpoint, tmp_path):
    other = {name: value for name, value in checkpoint.weights.items() if "head" not in name}
    save_checkpoint(tmp_path / "a.pt", Checkpoint(checkpoint.config, LABELS, checkpoint.anchors, other, 1, {}))
    with pytest.raises(TrainingError, match=r"weights do not fit the configuration: .*Missing key"):
        load_detector(tmp_path / "a.pt")


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
