"""Configuration files hold the options of commands, no more and no fewer, with their defaults."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from annotated_types import Ge, Le, Lt
from typer.main import get_command
from typer.models import OptionInfo

from detect.anchors.grid_convention import CONVENTIONS
from detect.anchors.instances import BALANCES
from detect.cli import anchor_fit, anchor_options, heatmaps
from detect.cli import anchors as commands
from detect.cli.app import main
from detect.config import CeilingConfig, FitConfig, RenderConfig, ScoreConfig, ScorePointsConfig, read_config
from detect.errors import ConfigError
from detect.evaluation.coco_points import SOURCES
from detect.evaluation.precision_recall import GOALS
from detect.fitting.fit import METHODS
from detect.fitting.fit_levels import FREE
from detect.fitting.mixture import _SHRINKAGES
from detect.fitting.structured import LAYOUTS
from detect.interop.anchor_formats import FORMATS
from detect.keypoints.coordinates import SHIFTS
from detect.keypoints.targets import CHOICES
from detect.samples import sample_annotations

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
HEATMAPS = [
    (heatmaps.render, RenderConfig),
    (heatmaps.oracle, CeilingConfig),
    (heatmaps.score, ScorePointsConfig),
]
COMMANDS = [(anchor_fit.fit, FitConfig), (commands.score, ScoreConfig), *HEATMAPS]


@pytest.mark.parametrize(("command", "model"), COMMANDS)
def test_fields_are_the_commands_options(command, model):
    parameters = inspect.signature(command).parameters
    options = {name: parameter.default for name, parameter in parameters.items() if name != "config"}
    fields: dict[str, Any] = {field.alias or name: field.default for name, field in model.model_fields.items()}
    assert set(fields) == set(options)
    for name, default in options.items():
        given = None if default is inspect.Parameter.empty else default
        assert (fields[name] or None) == (given or None), name


@pytest.mark.parametrize(("command", "model"), COMMANDS)
def test_fields_have_the_ranges_and_choices_of_the_options(command, model):
    hints = get_type_hints(command, include_extras=True)
    for name, field in model.model_fields.items():
        kind, *about = get_args(hints[field.alias or name])
        (option,) = [each for each in about if isinstance(each, OptionInfo)] or [OptionInfo()]
        # pydantic moves the range of a field that may be None into its type
        metadata = [*field.metadata, *(each for part in get_args(field.annotation) for each in get_args(part)[1:])]
        low = [rule.ge for rule in metadata if isinstance(rule, Ge)]
        high = [rule.le for rule in metadata if isinstance(rule, Le)] + [
            rule.lt - 1 for rule in metadata if isinstance(rule, Lt)
        ]
        assert (low or [None]) == [option.min], name
        assert (high or [None]) == [option.max], name
        assert choices_of(field.annotation) == choices_of(kind), name


def choices_of(annotation: Any) -> list[str]:
    """The texts of a Literal, wherever it stands in a type."""
    return [text for part in get_args(annotation) for text in ([part] if isinstance(part, str) else choices_of(part))]


@pytest.mark.parametrize(("command", "model"), HEATMAPS)
def test_fields_are_spelled_as_options_are_typed(command, model):
    typed = {option.name: option.opts for option in get_command(heatmaps.app).commands[command.__name__].params}
    for name, field in model.model_fields.items():
        spelled = (field.validation_alias or name).replace("_", "-")
        assert {spelled, f"--{spelled}"} & set(typed[field.alias or name]), name


def test_choices_are_what_the_code_offers():
    assert get_args(anchor_options.Method) == METHODS
    assert get_args(anchor_options.Layout) == (FREE, *LAYOUTS)
    assert get_args(anchor_options.Balance) == BALANCES
    assert get_args(anchor_options.Format) == tuple(FORMATS)
    assert get_args(anchor_options.Grid) == tuple(CONVENTIONS)
    assert get_args(anchor_options.Shrinkage) == ("none", *_SHRINKAGES)
    assert get_args(heatmaps.Source) == SOURCES
    assert get_args(heatmaps.Pixel) == tuple(SHIFTS)
    assert get_args(heatmaps.Goal) == GOALS
    for name, choices in (("shape", heatmaps.Shape), ("blend", heatmaps.Blend), ("occluded", heatmaps.Occluded)):
        assert get_args(choices) == tuple(CHOICES[name])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("anchors_*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_load(path):
    assert read_config(path, FitConfig)["method"] == "optimal"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("heatmaps_*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_of_heatmaps_load_and_run(path, tmp_path, monkeypatch, capsys):
    fields = read_config(path, RenderConfig)
    sample = sample_annotations("bccd" if fields.get("source") == "boxes" else "nuclei")
    monkeypatch.setattr(sys, "argv", ["detect", "heatmaps", "render", str(sample), "--config", str(path), "--json"])
    with pytest.raises(SystemExit, match=r"^0$"):  # as Typer ends a command that went well
        main()
    index = json.loads(capsys.readouterr().out)
    assert index["drawn"] == (4886 if fields.get("source") == "boxes" else 318)
    assert {name: index[name] for name in fields.keys() & index.keys()} == {
        name: value for name, value in fields.items() if name in index
    }


def test_from_and_gt_are_the_names_on_the_command_line(tmp_path):
    (tmp_path / "a.yaml").write_text("from: boxes\ngt: [a.json]\nradii: 2\n", "utf-8")
    assert read_config(tmp_path / "a.yaml", ScorePointsConfig) == {"source": "boxes", "truth": ["a.json"], "radii": "2"}
    (tmp_path / "a.yaml").write_text("from: masks\n", "utf-8")
    with pytest.raises(ConfigError, match=r"a\.yaml: from: Input should be 'keypoints' or 'boxes'"):
        read_config(tmp_path / "a.yaml", ScorePointsConfig)


def test_only_fields_that_are_set_become_options(tmp_path):
    (tmp_path / "a.yaml").write_text("k: 3\n", "utf-8")
    assert read_config(tmp_path / "a.yaml", FitConfig) == {"k": 3}
    (tmp_path / "b.yaml").write_text("", "utf-8")
    assert read_config(tmp_path / "b.yaml", FitConfig) == {}
