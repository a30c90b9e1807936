"""Options that commands share: their choices are the code's, and their words are the same everywhere."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from typer.main import get_command

from detect.anchors.grid_convention import CONVENTIONS
from detect.anchors.instances import BALANCES
from detect.cli import heatmaps, options
from detect.cli.app import app
from detect.evaluation.coco_points import SOURCES
from detect.evaluation.precision_recall import GOALS
from detect.fitting.fit import METHODS
from detect.fitting.fit_levels import FREE
from detect.fitting.structured import LAYOUTS
from detect.interop.anchor_formats import FORMATS
from detect.keypoints.coordinates import SHIFTS
from detect.keypoints.targets import CHOICES
from detect.samples import sample_annotations


def walk(command: Any, name: str = "") -> dict[str, Any]:
    inner = getattr(command, "commands", None)
    if inner is None:
        return {name: command}
    return {own: each for key, of_key in inner.items() for own, each in walk(of_key, f"{name} {key}".strip()).items()}


COMMANDS = walk(get_command(app))


def test_choices_are_what_the_code_offers():
    assert set(get_args(options.Method)) == set(METHODS) - {"mixture"}  # LogGaussianMixture is for Python alone
    assert get_args(options.Layout) == (FREE, *LAYOUTS)
    assert get_args(options.Balance) == BALANCES
    assert tuple(FORMATS) == options.TEXT_FORMATS
    assert get_args(options.ConventionName) == tuple(CONVENTIONS)
    assert get_args(options.PointSource) == SOURCES
    assert get_args(options.PixelOriginName) == tuple(SHIFTS)
    assert get_args(options.Goal) == GOALS
    for name, choices in (("shape", heatmaps.Shape), ("blend", heatmaps.Blend), ("occluded", heatmaps.Occluded)):
        assert get_args(choices) == tuple(CHOICES[name])


@pytest.mark.parametrize("old", ["--grid", "--pictures", "--skip-broken", "--radii", "--gt", "--pred", "--hidden"])
def test_one_thing_has_one_word(old):
    assert [name for name, command in COMMANDS.items() for each in command.params if old in each.opts] == []


@pytest.mark.parametrize("name", ["resize", "convention", "findings", "strict", "pixel_origin", "output"])
def test_an_option_is_explained_alike_by_every_command(name):
    own = [each for command in COMMANDS.values() for each in command.params if each.name == name]
    own = [each for each in own if each.default not in ("detect-demo", "predictions", "exported")]
    assert len(own) > 2
    if name != "output":
        assert len({each.help for each in own}) == 1
    assert len({each.default for each in own if each.default is not None and name != "output"}) <= 1


def test_commands_that_run_a_detector_take_a_device():
    with_device = {name for name, command in COMMANDS.items() if "device" in {each.name for each in command.params}}
    assert with_device == {"evaluate", "predict", "train"}


def test_the_default_resize_rule_is_that_of_given_anchors_or_none(detect):
    nuclei = str(sample_annotations("nuclei"))
    rules = [
        detect("anchors", "fit", nuclei, "-k", 1, "--json").json["resize"],
        detect("anchors", "score", nuclei, "--anchors", "yolov3-coco", "--json").json["anchors"][0]["resize"],
        detect("anchors", "sweep", nuclei, "--anchors", "yolov3-coco", "--sizes", "320", "--json").json["settings"][0][
            "resize"
        ],
    ]
    assert rules == ["none", "stretch:416x416", "stretch:320x320"]
