"""``--config``: fields are the options of a command, checked as the command line checks them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import commands, part_content, written
from typer.main import get_command

from detect.cli import config
from detect.cli.app import app, main
from detect.cli.config import read_config
from detect.data import read_coco
from detect.errors import ConfigError
from detect.samples import sample_annotations
from detect.training.config import read_train_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NUCLEI = str(sample_annotations("nuclei"))


def command_context(line: str) -> Any:
    """The context of a command, as --config sees it."""
    context = get_command(app).make_context("detect", [*line.split(), "--help"], resilient_parsing=True)
    for name in line.split():
        context = context.command.commands[name].make_context(name, [], parent=context, resilient_parsing=True)
    return context


def values(tmp_path: Path, line: str, text: str) -> dict[str, Any]:
    (tmp_path / "a.yaml").write_text(text, "utf-8")
    return read_config(command_context(line), tmp_path / "a.yaml")


COMMANDS = {name: each for name, each in commands().items() if not hasattr(each, "commands")}


def test_every_command_with_options_takes_a_configuration():
    without = {name for name, command in COMMANDS.items() if "config" not in {each.name for each in command.params}}
    assert without == {"anchors known", "demo"}
    (own,) = [each for each in COMMANDS["train"].params if each.name == "config"]
    assert own.param_type_name == "argument"  # the whole run is in it


@pytest.mark.parametrize(
    ("line", "arguments"),
    [("anchors curve", [NUCLEI]), ("backbone features", ["tiny", "a.png"]), ("evaluate", [NUCLEI])],
)
def test_what_runs_long_is_named_as_it_is_typed(monkeypatch, line, arguments):
    named = []

    def busy(what: str) -> Any:
        named.append(what)
        raise ConfigError("enough")

    monkeypatch.setattr(config, "busy", busy)
    with pytest.raises(ConfigError, match="enough"):
        app([*line.split(), *arguments])
    assert named == [f"detect {line}"]


def test_only_fields_that_are_set_become_options(tmp_path):
    assert values(tmp_path, "anchors fit", "k: 3\n") == {"k": "3"}
    assert values(tmp_path, "anchors fit", "k: 3\nlevels: null\n") == {"k": "3"}
    assert values(tmp_path, "anchors fit", "") == {}


def test_fields_are_spelled_as_options_are_typed(tmp_path):
    text = "from: boxes\nfiles: [a.json]\nradius: 2\noks_sigmas: .1\npixel-origin: corner\n"
    assert values(tmp_path, "heatmaps score", text) == {
        "source": "boxes",
        "files": ["a.json"],
        "radius": ["2"],
        "oks_sigmas": "0.1",
        "pixel_origin": "corner",
    }


def test_lists_are_comma_lists_or_repeated_options(tmp_path):
    assert values(tmp_path, "heatmaps oracle", "strides: [2, 4]\nsigmas: 1.5\n") == {"strides": "2,4", "sigmas": "1.5"}
    assert values(tmp_path, "anchors fit", "compare: [retinanet, yolov3-coco]\nfixed: 3x4\n") == {
        "compare": ["retinanet", "yolov3-coco"],
        "fixed": ["3x4"],
    }


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        ("anchors fit", "kk: 3", "no option 'kk', did you mean 'k'"),
        ("anchors fit", "max_strids: 3", "no option 'max_strids', did you mean 'max-strides'"),
        ("anchors fit", "epochs: 3", "no option 'epochs'$"),
        ("anchors fit", "config: b.yaml", "no option 'config'"),
        ("anchors fit", "k: many", "k: Input should be a valid integer"),
        ("anchors fit", "k: 3.7", "k: Input should be a valid integer"),
        ("anchors fit", "k: 0", "k: Input should be greater than or equal to 1"),
        ("anchors fit", "strict: 3", "strict: Input should be a valid boolean"),
        ("anchors score", "assigner: hungarian", "assigner: 'hungarian' is not one of 'max-iou', 'atss'"),
        ("heatmaps score", "from: masks", "from: 'masks' is not one of 'keypoints', 'boxes'"),
        ("evaluate", "radius: [1, 0]", "radius: Input should be greater than or equal to 0.01"),
        ("evaluate", "on_broken: ask", "on_broken: 'ask' is not one of 'fail', 'skip'"),
        ("predict", "batch_size: 0", "batch_size: Input should be greater than or equal to 1"),
        ("export", "to: [onnx, torchvision]", "to: 'onnx,torchvision' is not one of 'onnx', 'torchvision'"),
        ("anchors fit", "weight: {cell: 2}", "weight: expected a value, got {'cell': 2}"),
        ("anchors fit", "[1]", "expected fields such as 'k: 9', got list"),
        ("anchors fit", "k: [", "not YAML"),
    ],
)
def test_a_mistake_names_the_file_and_the_field(tmp_path, line, text, message):
    with pytest.raises(ConfigError, match=rf"a\.yaml: {message}") as raised:
        values(tmp_path, line, text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("field", ["assigner: max_iou", "assigner: max-iou", '"assigner": max_iou'])
def test_hyphens_and_underscores_are_alike_in_files(detect, tmp_path, field):
    path = tmp_path / "a.yaml"
    path.write_text(f"{field}\nanchors: retinanet\nresize: none\njson: true\n", "utf-8")
    (content,) = detect("anchors", "score", NUCLEI, "--config", path).json["anchors"]
    assert content["assignment"]["overall"]["count"] == 318


def test_hyphens_and_underscores_are_alike_on_the_command_line(detect):
    typed = ("anchors", "fit", NUCLEI, "--levels", "p2-p3", "--certify", 1, "--json")
    by_hyphen = detect(*typed, "--per-level", 1, "--method", "log-euclidean", "--objective", "shape")
    assert by_hyphen.code == 0
    assert by_hyphen == detect(*typed, "--per_level", 1, "--method", "log_euclidean", "--objective", "shape")


def test_a_file_gives_what_the_command_line_gives_and_the_command_line_wins(detect, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({"files": [NUCLEI], "k": 4, "levels": "p2-p4", "json": True}), "utf-8")
    assert detect("anchors", "fit", "--config", path) == detect(
        "anchors", "fit", NUCLEI, "-k", 4, "--levels", "p2-p4", "--json"
    )
    assert len(detect("anchors", "fit", "--config", path, "-k", 2).json["shapes"]) == 2


RUNS = {
    "anchors_nuclei": ("anchors fit", "nuclei"),
    "anchors_retinanet_800": ("anchors fit", "nuclei"),
    "anchors_yolo_640": ("anchors fit", "bccd"),
    "heatmaps_boxes": ("heatmaps render", "bccd"),
    "heatmaps_nuclei": ("heatmaps render", "nuclei"),
}
TRAINED = {path.stem for path in CONFIGS.glob("*.yaml")} - set(RUNS)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.usefixtures("unchecked")  # fits of 45 shapes, whose checks take three quarters of the time
def test_shipped_configurations_run(monkeypatch, capsys, tmp_path, name):
    line, sample = RUNS[name]
    few = written(tmp_path / "few.json", part_content(sample, step=6))
    path = CONFIGS / f"{name}.yaml"
    given = [*line.split(), str(few), "--config", str(path), "--json"]
    given += ["--certify", "1"] if line == "anchors fit" else []  # no proof, which takes the longest
    monkeypatch.setattr(sys, "argv", ["detect", *given])
    with pytest.raises(SystemExit, match=r"^0$"):  # as Typer ends a command that went well
        main()
    content = json.loads(capsys.readouterr().out)
    fields = yaml.safe_load(path.read_text("utf-8"))
    shown = (fields.keys() & content.keys()) - {"compare", "levels"}
    assert {key: content[key] for key in shown} == {key: fields[key] for key in shown}
    if line == "anchors fit":
        assert [each["name"] for each in content["compare"]] == fields["compare"]
        numbers = {len(level["shapes"]) for level in content["levels"]}
        assert len(content["shapes"]) == fields["k"] if "k" in fields else numbers == {fields["per_level"]}
    else:
        assert content["drawn"] == len(read_coco(few).instances)


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_shipped_configurations_of_training_are_valid(name):
    assert read_train_config(CONFIGS / f"{name}.yaml").optimisation.epochs > 0
