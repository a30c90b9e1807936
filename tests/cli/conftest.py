"""Commands run in this process, as a user types them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from builders import points_dataset, written

from detect.cli.app import main


class Run(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def detect(monkeypatch, capsys):
    """Run a command line."""

    def run(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["detect", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return Run(code, *capsys.readouterr())

    return run


@pytest.fixture
def truth(tmp_path) -> Path:
    """A file with the points of :func:`points_dataset`."""
    return written(tmp_path / "truth.json", points_dataset())
