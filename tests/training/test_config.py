"""Configurations of runs: fields, their ranges, and what is set over them."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from detect.errors import ConfigError
from detect.loading.augment import Augment
from detect.training.config import (
    AugmentConfig,
    TrainConfig,
    parse_config,
    read_train_config,
    with_overrides,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEAST = {"data": {"train": ["a.json"], "images": "images"}}


@pytest.mark.parametrize("name", ["nuclei_retinanet", "nuclei_landmarks", "bccd_retinanet", "smoke"])
def test_shipped_configurations_load(name):
    config = read_train_config(CONFIGS / f"{name}.yaml")
    assert config.task == ("landmarks" if "landmarks" in name else "boxes")
    assert config.output.folder == Path("runs") / name
    for file in [*config.data.train, *config.data.val]:
        assert (CONFIGS.parent / file).exists()


def test_smoke_is_the_nuclei_run_but_shorter():
    fields = yaml.safe_load((CONFIGS / "nuclei_retinanet.yaml").read_text())
    smoke = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
    assert smoke == with_overrides(
        fields, ["optimisation.epochs=8", "output.folder=runs/smoke", "output.validate_epochs=8"]
    )


def test_augmentation_has_the_arguments_of_what_it_builds():
    parameters = inspect.signature(Augment).parameters
    fields = {name: field.default for name, field in AugmentConfig.model_fields.items() if name != "enabled"}
    assert fields == {name: parameter.default for name, parameter in parameters.items()}


def test_what_is_written_reads_back_the_same():
    config = parse_config({**LEAST, "seed": 3, "augment": {"zoom": [1, 2]}})
    assert TrainConfig.model_validate(yaml.safe_load(config.to_yaml())) == config


def test_fields_that_name_files_take_text_and_paths_alike():
    def config(as_):
        files = {"train": [as_("a.json")], "val": [as_("b.json")], "images": as_("images"), "val_images": as_("more")}
        return parse_config(
            {"data": files, "model": {"anchors": as_("anchors.yaml")}, "output": {"folder": as_("runs/new")}}
        )

    assert config(Path) == config(str)
    assert config(Path).to_yaml() == config(str).to_yaml()
    one = parse_config({"data": {"train": Path("a.json"), "val": "b.json", "images": "images"}}).data
    assert (one.train, one.val) == (["a.json"], ["b.json"])


def test_overrides_win_and_leave_the_rest(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("data: {train: [a.json], images: images, channels: 1}\n")
    config = read_train_config(
        file, ["optimisation.epochs=8", "data.val=[b.json]", "model.norm=null", "optimisation.learning_rate=1e-3"]
    )
    assert (config.optimisation.epochs, config.data.val, config.data.channels) == (8, ["b.json"], 1)
    assert config.model.norm is None
    assert config.optimisation.learning_rate == 1e-3  # YAML 1.1 reads 1e-3 as text


def test_overrides_do_not_change_their_input():
    fields = {"data": {"train": ["a.json"]}}
    with_overrides(fields, ["data.train=[b.json]", "seed=1"])
    assert fields == {"data": {"train": ["a.json"]}}


def test_hyphens_and_underscores_are_the_same_in_names_and_choices(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "data: {train: [a.json], images: images, val-share: 0.25}\nmodel: {low-quality-mode: forced, num_convs: 4}\n"
    )
    config = read_train_config(
        file, ["model.box-loss=smooth-l1", "model.num-convs=3", "optimisation.precision=bf16_mixed"]
    )
    assert (config.data.val_share, config.model.low_quality_mode, config.model.num_convs) == (0.25, "forced", 3)
    assert (config.model.box_loss, config.optimisation.precision) == ("smooth_l1", "bf16-mixed")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimisation.epoch=3", "no field 'optimisation.epoch'"),
        ("sed=3", "no field 'sed'"),
        ("optimisation.epochs=0", "optimisation.epochs: Input should be greater than or equal to 1"),
        ("optimisation.epochs", "write section.field=value"),
        ("=3", "write section.field=value"),
        ("seed.value=3", "'seed' is not a section"),
        ("data.train=[a", "the value is not YAML"),
        ("data.resize=big", "data.resize: resize rule 'big' is not known"),
        ("model.levels=x", "model.levels: levels 'x'"),
        ("model.bg_iou_thresh=0.9", "bg_iou_thresh 0.9 is above fg_iou_thresh 0.5"),
        ("model.alpha=-0.5", "model.alpha: alpha is above 0 and below 1, or -1, got -0.5"),
        ("model.alpha=0", "model.alpha: alpha is above 0 and below 1, or -1, got 0.0"),
        ("model.score_threshold=[0.1, 1]", "model.score_threshold"),
        ("model.nms=soft", "model.nms: Input should be 'hard', 'linear' or 'gaussian'"),
        ("optimisation.milestones=[.9,.5]", "milestones must rise and lie between 0 and 1"),
        ("data={train: [a.json], val: [b.json], images: images, val_share: 0.1}", "give val or val_share, not both"),
        ("data.mean=[.5]", "mean has 1 numbers for 3 channels"),
        ("data.mean=[.5, .5, .5]", "give both mean and std, or neither"),
        ("model.freeze_stride=4", "freeze_stride would keep random weights"),
        ("data.channels=2", "data.channels"),
        ("augment.zoom=[2, 1]", "a range of factors from low to high"),
        ("data.images=null", "data.images"),
        ("optimisation.learning_rate=.nan", "optimisation.learning_rate"),
    ],
)
def test_a_wrong_field_is_one_clear_line(tmp_path, override, message):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**LEAST, "seed": 1}))
    with pytest.raises(ConfigError) as raised:
        read_train_config(file, [override])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected sections"),
        ("a: [", "not YAML"),
        ("", "data: missing"),
        ("data: {}", "data.train: missing"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_train_config(file)


def test_all_faults_are_named_at_once():
    with pytest.raises(ConfigError, match=r"run: .*seed: .*; .*no field 'optimisation.x'"):
        parse_config({**LEAST, "seed": -1, "optimisation": {"x": 1}}, source="run")
