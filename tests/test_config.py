"""Configuration files hold the options of commands, no more and no fewer, with their defaults."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args

import pytest

from detect.anchors.fitting import METHODS
from detect.anchors.mixture import _SHRINKAGES
from detect.cli import anchors as commands
from detect.config import FitConfig, ScoreConfig, read_config
from detect.interop.anchor_formats import FORMATS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize(("command", "model"), [(commands.fit, FitConfig), (commands.score, ScoreConfig)])
def test_fields_are_the_commands_options(command, model):
    parameters = inspect.signature(command).parameters
    options = {name: parameter.default for name, parameter in parameters.items() if name != "config"}
    fields: dict[str, Any] = {field.alias or name: field.default for name, field in model.model_fields.items()}
    assert set(fields) == set(options)
    for name, default in options.items():
        given = None if default is inspect.Parameter.empty else default
        assert (fields[name] or None) == (given or None), name


def test_choices_are_what_the_code_offers():
    assert get_args(commands.Method) == METHODS
    assert get_args(commands.Format) == tuple(FORMATS)
    assert get_args(commands.Shrinkage) == ("none", *_SHRINKAGES)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("anchors_*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_load(path):
    assert read_config(path, FitConfig)["method"] == "kmeans"


def test_only_fields_that_are_set_become_options(tmp_path):
    (tmp_path / "a.yaml").write_text("k: 3\n", "utf-8")
    assert read_config(tmp_path / "a.yaml", FitConfig) == {"k": 3}
    (tmp_path / "b.yaml").write_text("", "utf-8")
    assert read_config(tmp_path / "b.yaml", FitConfig) == {}
