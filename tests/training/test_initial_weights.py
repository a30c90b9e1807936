"""Runs that start from another run, of other classes or anchors."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch.testing import assert_close

from detect.anchors.anchor_set import AnchorSet
from detect.errors import ConfigError
from detect.loading.labels import LabelMap
from detect.training.builder import build_detector
from detect.training.checkpoints import Checkpoint, read_checkpoint, save_checkpoint
from detect.training.config import TrainConfig
from detect.training.initial_weights import initial_checkpoint, take_weights
from detect.training.loop import train
from detect.training.overfitting import overfit

SHAPES = LabelMap((3, 90), ("round", "square"))
MORE = LabelMap((1, 2, 3), ("square", "star", "round"))
TWO = AnchorSet.of([[(8, 8), (12, 12)]], strides=(4,))
THREE = AnchorSet.of([[(8, 8), (12, 12), (16, 16)]], strides=(4,))


def overfit_four(config: TrainConfig) -> None:
    overfit(config, 4)


@pytest.fixture
def anchors(squares) -> AnchorSet:
    return AnchorSet.load(squares / "anchors.yaml")


@pytest.fixture
def before(tiny, anchors) -> Checkpoint:
    weights = build_detector(tiny("seed=4"), SHAPES, anchors=anchors, mean=(0.25,), std=(0.125,)).state_dict()
    return Checkpoint(tiny("seed=4"), SHAPES, anchors, weights, 12, {})


def test_classes_are_taken_by_name(tiny, before):
    old = build_detector(tiny("seed=4"), SHAPES, anchors=TWO, mean=(0.25,), std=(0.125,)).state_dict()
    before = replace(before, anchors=TWO, weights=old)
    detector = build_detector(tiny(), MORE, anchors=TWO)
    fresh = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    line = take_weights(detector, MORE, before, source="runs/shapes")
    own = detector.state_dict()
    name = "head.class_outputs.0.weight"  # two anchors of two classes, of three now
    rows = own[name].unflatten(0, (2, 3))
    assert_close(rows[:, [2, 0]], old[name].unflatten(0, (2, 2)), rtol=0, atol=0)
    assert_close(rows[:, 1], fresh[name].unflatten(0, (2, 3))[:, 1], rtol=0, atol=0)
    assert line == (
        f"started from runs/shapes: took {len(own) - 2} of {len(own) - 2} weights and buffers; new outputs for star"
    )
    others = [each for each in own if not each.startswith(("head.class_outputs", "normalise."))]
    assert_close([own[each] for each in others], [before.weights[each] for each in others], rtol=0, atol=0)


def test_other_anchors_leave_only_the_outputs(tiny, before):
    detector = build_detector(tiny(), SHAPES, anchors=THREE)
    line = take_weights(detector, SHAPES, before, source="runs/shapes")
    assert line.endswith("; layers not taken: head.class_outputs.0, head.box_outputs.0")
    assert_close(
        detector.head.box_tower.state_dict()["convs.0.weight"], before.weights["head.box_tower.convs.0.weight"]
    )


def test_keypoint_types_are_taken_by_name(tiny, before):
    one, two = (LabelMap((7,), ("square",), types, {7: tuple(range(len(types)))}) for types in (("a", "b"), ("b",)))
    config = tiny(task="landmarks")
    old = Checkpoint(config, one, None, build_detector(config, one).state_dict(), 1, {})
    detector = build_detector(tiny("seed=9", task="landmarks"), two)
    take_weights(detector, two, old, source="runs/points")
    assert_close(detector.head.heatmap_output.weight, old.weights["head.heatmap_output.weight"][1:], rtol=0, atol=0)


def test_another_backbone_is_refused(tiny, anchors, before):
    detector = build_detector(tiny("model.backbone=lite0"), SHAPES, anchors=anchors)
    with pytest.raises(ConfigError, match=r"^model.init: runs/a: none .* model\.backbone=tiny and data\.channels=1$"):
        take_weights(detector, SHAPES, before, source="runs/a")


def test_a_run_starts_from_another_one_and_says_so(tiny, tmp_path):
    train(tiny(f"output.folder={tmp_path / 'first'}", "optimisation.epochs=4"))
    lines: list[str] = []
    again = tiny(f"model.init={tmp_path / 'first'}", "optimisation.epochs=1")
    train(again, log=lines.append)
    assert lines[0].startswith(f"started from {tmp_path / 'first'}: took ")
    first, second = (read_checkpoint(tmp_path / name / "last.pt") for name in ("first", "run"))
    assert first.normalization(1) == second.normalization(1)
    (tmp_path / "first").rename(tmp_path / "elsewhere")  # a run that goes on does not need it
    (tmp_path / "run" / "best.pt").unlink()
    assert train(again, resume=True, log=lines.append).epochs == 1


@pytest.mark.parametrize("kind", ["missing", "landmarks"])
def test_what_cannot_be_started_from_is_named(kind, tiny, before, tmp_path):
    path = tmp_path / "other.pt"
    if kind == "landmarks":
        save_checkpoint(path, replace(before, config=tiny(task="landmarks"), anchors=None))
    with pytest.raises(ConfigError, match=r"^model\.init: .*other\.pt"):
        initial_checkpoint(tiny(f"model.init={path}"))


@pytest.mark.parametrize("start", [overfit_four, train])
def test_weights_that_are_missing_are_named_before_images_are_looked_for(tiny, tmp_path, start):
    config = tiny("data.images=nowhere", f"model.weights={tmp_path / 'lost.pt'}", "model.backbone=torchvision:resnet18")
    with pytest.raises(ConfigError, match=r"model\.weights: .*lost\.pt: No such file"):
        start(config)
