"""The walk of docs/first_detector.md: its configuration loads, and its commands run in its order."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from detect.training.config import parse_config, with_overrides

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "first_detector.md").read_text("utf-8")


def edited() -> dict[str, Any]:
    """The fields of the template with the lines that the walk changes."""
    fields: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "your_data.yaml").read_text("utf-8"))
    (changes,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    for section, own in yaml.safe_load(changes).items():
        unknown = set(own) - set(fields[section])
        assert not unknown, f"the template has no lines for {unknown}"
        fields[section] |= own
    return fields


def test_the_edited_template_is_a_configuration_of_files_that_are_here():
    data = parse_config(edited()).data
    for path in (*data.train, *data.val, data.images):
        assert (ROOT / path).exists()


@pytest.mark.slow
def test_its_commands_run(tmp_path):
    for name in ("configs", "data", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    fields = with_overrides(edited(), ["optimisation.epochs=2", "output.validate_epochs=1"])
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(fields))
    commands = re.findall(r"^\$ ((?:detect|python) [^#\n]+)", TEXT, flags=re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        program, *arguments = shlex.split(command)
        words = [sys.executable, *(["-m", "detect"] if program == "detect" else []), *arguments]
        run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, (command, run.stderr)
    results = json.loads(run.stdout)
    assert {"file_name", "category_id", "bbox", "score"} <= results[0].keys()
