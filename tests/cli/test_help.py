"""What ``--help`` shows is what was written, and its examples can be typed back."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from builders import commands

from detect.anchors.anchor_set import strides_of
from detect.fitting.objective import Objective

# in a process of its own, since typer reads the width of the terminal when it is imported
RENDER = """
import contextlib, io, json, sys
from detect.cli.app import app
shown = {}
for name in json.loads(sys.argv[1]):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        app([*name.split(), "--help"], prog_name="detect")
    shown[name] = text.getvalue()
print(json.dumps(shown))
"""


COMMANDS = commands()
EXAMPLES = [
    (name, example)
    for name, command in COMMANDS.items()
    for example in re.findall(r"`(detect .+?)`", command.help, flags=re.DOTALL)
]
README = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
EXAMPLES += [("README", example) for example in re.findall(r"^\$ (detect .+)$", README, flags=re.MULTILINE)]


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    """The help of each command, on a terminal so wide that nothing is broken into lines, with single spaces."""
    command = [sys.executable, "-c", RENDER, json.dumps(list(COMMANDS))]
    wide = {**os.environ, "TERMINAL_WIDTH": "20000", "COLUMNS": "20000"}
    run = subprocess.run(command, env=wide, capture_output=True, text=True, check=True)
    return {name: " ".join(text.split()) for name, text in json.loads(run.stdout).items()}


def written(text: str) -> str:
    return " ".join(text.replace("`", "").split())


@pytest.mark.parametrize("name", COMMANDS)
def test_no_character_of_a_help_text_is_taken_for_markup(name, rendered):
    texts = [each for each in COMMANDS[name].help.split("\n\n") if each.strip()]
    texts += [parameter.help for parameter in COMMANDS[name].params if getattr(parameter, "help", None)]
    assert [text for text in map(written, texts) if text not in rendered[name]] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_no_help_says_that_average_precision_follows_from_coverage(name, rendered):
    # docs/evidence.md: over three categories of different sizes it did not
    assert not re.search(r"precision follows|AP follows|follows? (coverage|recall)", rendered[name])


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not hasattr(command, "commands")])
def test_every_command_shows_how_it_is_typed(name):
    assert f"`detect {name}" in " ".join(COMMANDS[name].help.split())


def test_everyones_options_of_a_fit_are_on_one_screen_and_the_experts_below():
    command = [sys.executable, "-m", "detect", "anchors", "fit", "--help"]
    screen = {**os.environ, "TERMINAL_WIDTH": "120", "COLUMNS": "120"}
    lines = subprocess.run(command, env=screen, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    panels = [number for number, line in enumerate(lines) if line.startswith("╭─")]
    assert [lines[number].split("─ ")[1].split(" ─")[0] for number in panels] == ["Arguments", "Options", "For experts"]
    everyones, experts = "\n".join(lines[: panels[2]]), "\n".join(lines[panels[2] :])
    assert panels[2] <= 50
    assert max(map(len, lines)) <= 120
    for option in (
        "-k ",
        "--levels",
        "--per-level",
        "--resize",
        "--for",
        "--size",
        "--compare",
        "--images",
    ):
        assert option in everyones
    for option in ("--output", "--json", "--config", "--strict", "--findings", "FILES"):
        assert option in everyones
    for option in ("--max-per-level", "--penalty", "--layout", "--balance", "--method", "--certify", "--seed"):
        assert f"│ {option} " in experts
        assert f"│ {option} " not in everyones


def test_examples_of_the_readme_are_found():
    assert {"README", ""} <= {name for name, _ in EXAMPLES}


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_a_command_line_in_help_and_readme_can_be_typed(name, example):
    words = shlex.split(example, comments=True)[1:]
    command = COMMANDS[""]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert command is not COMMANDS[""]
    command.make_context(name, words)  # an unknown option, or a value out of range, is an error


@pytest.mark.parametrize("example", ["recall@0.5", "0.8*iou+0.2*recall@0.5"])
def test_an_objective_in_help_can_be_typed(example, rendered):
    assert example in re.findall(r"[\w.@*+]+", rendered["anchors fit"])
    assert [Objective.parse(f"{kind}{example}").on_grid for kind in ("", "shape:", "grid:")] == [False, False, True]


@pytest.mark.parametrize("example", ["p3-p7", "p2,p4", "8,16,32"])
def test_levels_in_help_can_be_typed(example, rendered):
    assert example in re.findall(r"[\w,-]+", rendered["anchors fit"])
    assert strides_of(example)
