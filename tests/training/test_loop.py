"""Whole runs: learned, saved, resumed, stopped, divided among processes."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from numpy.testing import assert_allclose
from runs import ON_ONE_HOST, TOOL, assert_alike, assert_same_run, run_python, tables
from torch.testing import assert_close

from detect.errors import OutputError, TrainingError
from detect.heads.criterion import RetinaNetCriterion
from detect.loading.dataset import DetectionData
from detect.ops.boxes import DistanceCoder
from detect.training import loop
from detect.training.builder import build_detector
from detect.training.checkpoints import load_detector, read_checkpoint
from detect.training.logs import read_log
from detect.training.loop import train
from detect.training.step import rate_factor

KILLED = """
import os, signal, sys
from pathlib import Path
from detect.training.config import read_train_config
from detect.training.loop import train
step = int(sys.argv[2])
kill = lambda what, done, total: what.startswith("epoch") and done == step and os.kill(os.getpid(), signal.SIGKILL)
train(read_train_config(Path(sys.argv[1])), on_progress=kill)
"""


def stop_at(step: int):
    """A progress callback that ends the run in the middle, as a fault would."""

    def on_progress(what: str, done: int, total: int) -> None:
        if done == step and what.startswith("epoch"):
            raise KeyboardInterrupt

    return on_progress


def test_an_experiment_puts_in_its_own_detector(tiny, tmp_path):
    built = []

    def build(*arguments, **options):
        built.append(build_detector(*arguments, **options))
        built[0].criterion = RetinaNetCriterion(box_weight=0.0)
        return built[0]

    train(tiny("optimisation.epochs=1", "data.val=[]"), build=build)
    assert [row["box"] for row in tables(tmp_path / "run")["steps"]] == [0.0] * 4
    built[0].load_state_dict(dict(read_checkpoint(tmp_path / "run" / "last.pt").weights))  # it is what was saved


def test_a_run_is_logged_saved_and_loaded(tiny, tmp_path):
    config = tiny("output.tensorboard=true")
    result = train(config)
    assert (result.epochs, result.steps, result.stopped_early) == (2, 8, False)
    found = tables(tmp_path / "run")
    assert [row["step"] for row in found["steps"]] == list(range(1, 9))
    rates = [2e-3 * rate_factor(step, 8, warmup_steps=2) for step in range(8)]
    assert_allclose([row["learning_rate"] for row in found["steps"]], rates)
    for row in found["steps"]:
        assert_allclose(row["loss"], row["classification"] + row["box"], rtol=1e-6)
    first = [row["loss"] for row in found["steps"][:4]]
    assert_allclose(found["epochs"][0]["loss"], sum(first) / 4)
    assert found["validation"][1]["ap"] == result.metrics["ap"]
    detector = load_detector(tmp_path / "run" / "last.pt")
    assert detector.config == config
    assert detector.anchors.shapes.tolist() == [[8, 8], [12, 12]]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"last.pt", "best.pt", "config.yaml", "anchors.yaml", "tensorboard"}


@pytest.mark.parametrize("task", ["boxes", "landmarks"])
def test_a_run_cut_short_in_mid_epoch_goes_on_as_if_it_had_not_been(tiny, tmp_path, task):
    whole, cut = (
        tiny("output.save_steps=3", f"output.folder={tmp_path / name}", task=task) for name in ("whole", "cut")
    )
    train(whole)
    for step in (1, 7):  # before anything was saved; a step after a checkpoint in mid-epoch
        with pytest.raises(KeyboardInterrupt):
            train(cut, resume=True, on_progress=stop_at(step))
    lines: list[str] = []
    train(cut, resume=True, log=lines.append)
    assert lines[0] == "resumed after step 6"  # of 3, 4, the end of the epoch, and 6
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_weights_of_positives_are_told_and_stay_those_the_run_began_with(tiny, squares, tmp_path):
    content = json.loads((squares / "annotations.json").read_text())
    content["categories"].append({"id": 9, "name": "dot"})
    dots = [{"id": 100 + each["id"], "image_id": each["id"], "bbox": [8, 8, 3, 3]} for each in content["images"]]
    content["annotations"] += [{"category_id": 9, "area": 9, "iscrowd": 0, **each} for each in dots]
    file = tmp_path / "two.json"
    file.write_text(json.dumps(content))
    whole, cut = (
        tiny(f"data.train=['{file}']", "data.val=[]", f"output.folder={tmp_path / name}") for name in ("a", "b")
    )
    lines: list[str] = []
    train(whole, log=lines.append)
    (told,) = [line for line in lines if line.startswith("weights of positive anchors: ")]
    weights = read_checkpoint(tmp_path / "a" / "last.pt").positive_weights
    assert told == f"weights of positive anchors: square {weights[0]:.2f}, dot {weights[1]:.2f}"
    assert weights[0] < 1 < weights[1]
    with pytest.raises(KeyboardInterrupt):
        train(cut, on_progress=stop_at(5))
    file.write_text(json.dumps(content | {"annotations": content["annotations"][::-1][1:]}))  # one dot less
    lines.clear()
    train(cut, resume=True, log=lines.append)
    assert not [line for line in lines if "weights" in line]
    assert read_checkpoint(tmp_path / "b" / "last.pt").positive_weights == weights
    plain = tiny(
        f"data.train=['{file}']", "data.val=[]", "model.positive_weights=none", f"output.folder={tmp_path / 'c'}"
    )
    train(plain)
    assert read_checkpoint(tmp_path / "c" / "last.pt").positive_weights is None


@pytest.mark.parametrize("assigner", ["task_aligned", "simota"])
def test_points_learn_and_are_loaded(tiny, tmp_path, assigner):
    fields = (
        "model.anchors=points",
        "model.levels=p2-p3",
        f"model.assigner={assigner}",
        "model.class_loss=quality_focal",
    )
    config = tiny(*fields, "optimisation.epochs=12", "optimisation.accumulate=2", "output.validate_epochs=12")
    result = train(config)
    rows = read_log(tmp_path / "run" / "epochs.csv")
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    trained = load_detector(tmp_path / "run")
    assert trained.anchors.name == "points"
    assert [level.shapes for level in trained.anchors.levels] == [[(4, 4)], [(8, 8)]]
    assert isinstance(trained.model.post_process.coder, DistanceCoder)
    assert result.metrics["ap50"] > 0.2


def test_a_run_at_a_constant_rate_is_resumed_for_more_epochs(tiny, tmp_path):
    short, long = (
        tiny("optimisation.schedule=constant", f"optimisation.epochs={epochs}", f"output.folder={tmp_path / name}")
        for epochs, name in ((1, "more"), (3, "whole"))
    )
    train(long)
    train(short)
    train(
        tiny("optimisation.schedule=constant", "optimisation.epochs=3", f"output.folder={tmp_path / 'more'}"),
        resume=True,
    )
    assert_same_run(tmp_path / "whole", tmp_path / "more")


def test_a_run_whose_rate_has_fallen_says_how_to_train_further(tiny):
    train(tiny())
    with pytest.raises(TrainingError, match=r"epochs \(was 2, is 3\).* start a run with model\.init=RUN"):
        train(tiny("optimisation.epochs=3"), resume=True)


def test_layers_that_draw_at_random_draw_the_same_when_resumed(tiny, tmp_path):
    def build(*arguments, **options):
        detector = build_detector(*arguments, **options)
        detector.normalise = torch.nn.Sequential(detector.normalise, torch.nn.Dropout(0.5))
        detector.normalise.mean, detector.normalise.std = detector.normalise[0].mean, detector.normalise[0].std
        return detector

    fields = ("optimisation.epochs=1", "output.save_steps=2", "data.val=[]")
    whole, cut, plain = (tiny(*fields, f"output.folder={tmp_path / name}") for name in ("whole", "cut", "plain"))
    train(whole, build=build)
    torch.rand(5)  # moves the global generator
    with pytest.raises(KeyboardInterrupt):
        train(cut, build=build, on_progress=stop_at(3))
    train(cut, build=build, resume=True)
    assert tables(tmp_path / "whole") == tables(tmp_path / "cut")
    losses = [row["loss"] for row in tables(tmp_path / "cut")["steps"]]
    with pytest.raises(KeyboardInterrupt):
        train(plain, on_progress=stop_at(1))
    assert losses[0] != read_log(tmp_path / "plain" / "steps.csv")[0]["loss"]  # something was dropped


def test_an_epoch_that_ended_without_its_checkpoint_has_one_row(tiny, tmp_path, monkeypatch):
    fields = ("optimisation.batch_size=8", "output.save_steps=1")  # one step an epoch
    whole, cut = (tiny(*fields, f"output.folder={tmp_path / name}") for name in ("whole", "cut"))
    train(whole)
    validate = loop.validate
    monkeypatch.setattr(loop, "validate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # after the epoch's row was written
        train(cut)
    monkeypatch.setattr(loop, "validate", validate)
    train(cut, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_killed_process_is_resumed_exactly(tiny, tmp_path):
    fields = ("optimisation.epochs=1", "output.save_steps=1", "data.val=[]")
    whole, killed = (tiny(*fields, f"output.folder={tmp_path / name}") for name in ("whole", "killed"))
    (tmp_path / "run.yaml").write_text(killed.to_yaml())
    ended = run_python("-c", KILLED, tmp_path / "run.yaml", 3)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [row["step"] for row in read_log(tmp_path / "killed" / "steps.csv")][-1] == 3
    train(whole)
    train(killed, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_second_run_in_a_folder_is_refused_while_the_first_is_trained(tiny, tmp_path):
    config, refused = tiny("optimisation.epochs=1", "data.val=[]"), []

    def train_again(what: str, done: int, total: int) -> None:
        if what.startswith("epoch") and done == 1:
            with pytest.raises(OutputError, match="run: another process is writing there") as error:
                train(config, resume=True)
            refused.append(error)

    train(config, on_progress=train_again)
    assert len(refused) == 1
    assert [row["step"] for row in read_log(tmp_path / "run" / "steps.csv")] == [1, 2, 3, 4]
    assert not (tmp_path / "run" / loop.LOCK).exists()


@pytest.mark.parametrize("step", [1, 3])  # before the first checkpoint, and after it
def test_a_resumed_run_leaves_the_file_of_anchors_alone(tiny, tmp_path, step):
    config = tiny(
        "output.save_steps=2", "optimisation.epochs=1", "data.val=[]", "model.anchors=fit", "model.levels=p2-p3"
    )
    with pytest.raises(KeyboardInterrupt):
        train(config, on_progress=stop_at(step))
    before = (tmp_path / "run" / "anchors.yaml").read_bytes()
    train(config, resume=True)
    assert (tmp_path / "run" / "anchors.yaml").read_bytes() == before


@pytest.fixture
def by_one_and_by_two(tiny, tmp_path):
    """Train in this process, and in two others; return what those two said."""

    def run(*fields: str, **task: str) -> str:
        fields += ("optimisation.batch_size=4", "optimisation.epochs=3")
        one, two = (tiny(*fields, f"output.folder={tmp_path / name}", **task) for name in ("one", "two"))
        (tmp_path / "run.yaml").write_text(two.to_yaml())
        train(one)
        ended = run_python(*ON_ONE_HOST, TOOL, tmp_path / "run.yaml")
        assert ended.returncode == 0, ended.stderr
        return ended.stderr

    return run


@pytest.mark.slow  # boxes: tests/test_two_hosts.py
def test_two_processes_learn_of_landmarks_what_one_does(by_one_and_by_two, tmp_path):
    by_one_and_by_two(task="landmarks")
    assert_alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_processes_look_into_a_flat_loss_together(by_one_and_by_two, tmp_path):
    flat = ("optimisation.learning_rate=1e-9", "optimisation.flat_epochs=1", "augment.enabled=false")
    flat += ("optimisation.schedule=step", "optimisation.milestones=[.9]")  # the rate is high in the third epoch
    said = by_one_and_by_two(*flat, "optimisation.warmup_steps=0", "data.val=[]")
    assert said.count("the loss has not fallen for 1 epoch;") == 1
    assert "is too small" in (tmp_path / "two" / "diagnosis.txt").read_text()
    for mine, theirs in zip(tables(tmp_path / "one")["steps"], tables(tmp_path / "two")["steps"], strict=True):
        assert_allclose(list(theirs.values()), list(mine.values()), rtol=1e-3, atol=1e-5)


def test_workers_change_nothing(tiny, tmp_path):
    for name, workers in (("own", 0), ("other", 1)):
        fields = (f"data.num_workers={workers}", "optimisation.epochs=1", "data.val=[]")
        train(tiny(*fields, f"output.folder={tmp_path / name}"))
    assert tables(tmp_path / "own") == tables(tmp_path / "other")


def test_the_seed_decides_everything_and_the_global_generator_nothing(tiny, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        state = torch.get_rng_state()
        fields = (f"seed={seed}", "optimisation.epochs=1", "data.val=[]")
        train(tiny(*fields, f"output.folder={tmp_path / name}"))
        assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
        torch.rand(3)  # what others draw in between
    assert tables(tmp_path / "a") == tables(tmp_path / "b")
    assert tables(tmp_path / "a") != tables(tmp_path / "c")


def test_a_loss_that_is_not_finite_names_its_batch_and_leaves_the_last_checkpoint(tiny, tmp_path, monkeypatch):
    # the first image of the second epoch has a pixel that is no number, as a power of a negative one would be
    config = tiny()
    drawn: list[int] = []
    original = DetectionData.__getitem__

    def poisoned(self, draw):
        sample = original(self, draw)
        if self.augment is not None:
            drawn.append(sample.image_row)
            if len(drawn) == 9:
                sample.image[0, 3, 3] = float("nan")
        return sample

    monkeypatch.setattr(DetectionData, "__getitem__", poisoned)
    with pytest.raises(TrainingError) as raised:
        train(config)
    message = str(raised.value)
    assert "epoch 2, step 5: the loss is not finite (classification nan" in message
    assert (
        f"the batch of {drawn[8] + 1}.png, {drawn[9] + 1}.png (pixels that are not finite: {drawn[8] + 1}.png)"
        in message
    )
    assert "last.pt is from before" in message
    checkpoint = read_checkpoint(tmp_path / "run" / "last.pt")
    assert checkpoint.step == 4
    assert all(torch.isfinite(each).all() for each in checkpoint.weights.values())


def test_it_stops_when_it_gets_no_better_and_keeps_the_best(tiny, tmp_path, monkeypatch):
    values = iter([0.2, 0.5, 0.5, float("nan"), 0.9])
    monkeypatch.setattr(loop, "validate", lambda *_, **__: {"ap": next(values)})
    fields = ("optimisation.epochs=5", "optimisation.batch_size=8")  # one step an epoch
    config = tiny(*fields, "optimisation.patience=2")
    result = train(config)
    assert (result.stopped_early, result.epochs, result.best) == (True, 4, 0.5)
    assert read_checkpoint(tmp_path / "run" / "best.pt").step == 2
    assert train(config, resume=True).epochs == 4  # it stays stopped
    more = tiny(*fields, "optimisation.patience=9")
    assert train(more, resume=True).epochs == 5  # unless there is more patience


@pytest.mark.parametrize(("warmup_steps", "is_told"), [(4, False), (5, True), (99, True)])
def test_a_warm_up_of_most_of_the_run_is_told(tiny, warmup_steps, is_told):
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        train(tiny(f"optimisation.warmup_steps={warmup_steps}"), log=lines.append, on_progress=stop_at(1))
    assert (f"warmup_steps={warmup_steps} of the run's 8 steps" in "\n".join(lines)) == is_told


def test_validation_comes_when_it_is_time_and_at_the_end(tiny, tmp_path):
    train(tiny("optimisation.epochs=3", "output.validate_epochs=2", "optimisation.batch_size=8"))
    assert [row["epoch"] for row in tables(tmp_path / "run")["validation"]] == [2, 3]


def test_a_flat_loss_is_looked_into_once(tiny, tmp_path):
    fields = ("optimisation.learning_rate=1e-9", "optimisation.flat_epochs=1", "optimisation.epochs=4", "data.val=[]")
    fields += ("optimisation.batch_size=8",)  # one step an epoch
    lines: list[str] = []
    train(tiny(*fields, "augment.enabled=false", "optimisation.warmup_steps=0"), log=lines.append)
    (said,) = lines
    assert "the loss has not fallen for 1 epoch;" in said
    assert "a learning rate of" in said
    assert "is too small" in (tmp_path / "run" / "diagnosis.txt").read_text()


def test_a_run_is_not_overwritten_nor_resumed_as_another(tiny, squares, tmp_path):
    content = json.loads((squares / "annotations.json").read_text())
    file = tmp_path / "train.json"
    file.write_text(json.dumps(content))
    config = tiny(f"data.train=['{file}']", "optimisation.epochs=1", "data.val=[]")
    train(config)
    with pytest.raises(TrainingError, match="holds a run: --resume it"):
        train(config)
    with pytest.raises(TrainingError, match=r"seed \(was 0, is 5\)"):
        train(config.model_copy(update={"seed": 5}), resume=True)
    assert train(config, resume=True).steps == 4  # there is nothing left to do
    content["categories"][0]["name"] = "circle"
    file.write_text(json.dumps(content))
    with pytest.raises(TrainingError, match="have changed, from 7 'square' to 7 'circle'"):
        train(config, resume=True)
