"""Commands run in this process, as a user types them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from builders import points_dataset, written

from detect.anchors.anchor_set import AnchorSet
from detect.cli.app import main
from detect.loading.labels import LabelMap
from detect.samples import sample_annotations
from detect.training.builder import build_detector
from detect.training.checkpoints import Checkpoint, save_checkpoint
from detect.training.config import parse_config

NUCLEI = sample_annotations("nuclei")


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
def refused(detect):
    """Run a command line that is refused; return its one line."""

    def run(*arguments: object) -> str:
        ended = detect(*arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert ended.err.startswith("detect: ")
        return str(ended.err)

    return run


@pytest.fixture
def truth(tmp_path) -> Path:
    """A file with the points of :func:`points_dataset`."""
    return written(tmp_path / "truth.json", points_dataset())


@pytest.fixture
def trained(tmp_path):
    """Write a run with a detector that has learnt nothing, so that every score is near .01; return its folder."""

    def run(
        task: str,
        *,
        names: dict[int, str] | None = None,
        anchors: AnchorSet | None = None,
        data: dict[str, Any] | None = None,
        threshold: float = 0.009,
        turns: bool = False,
        **model: Any,
    ) -> Path:
        names = names or {4: "nucleus", 9: "[debris]"}
        sections = {
            "train": [str(NUCLEI)],
            "val": [str(NUCLEI)],
            "images": str(NUCLEI.parent / "images"),
            "channels": 1,
        }
        thresholds = {"score_threshold": threshold, "threshold": threshold}
        fields = {"pyramid_channels": 32, "num_convs": 0, **thresholds, **model}
        own = {"data": {**sections, **(data or {})}, "model": fields, "augment": {"turns": turns}}
        config = parse_config({"task": task, **own})
        points = (
            {"type_names": ("nucleus",), "category_types": {next(iter(names)): (0,)}} if task == "landmarks" else {}
        )
        labels = LabelMap(tuple(names), tuple(names.values()), **points)
        if task == "boxes":
            anchors = anchors or AnchorSet.of([[(12, 12)], [(24, 24)]], strides=(4, 8))
        detector = build_detector(config, labels, anchors=anchors)
        checkpoint = Checkpoint(config, labels, anchors, detector.state_dict(), 0, {})
        save_checkpoint(tmp_path / "run" / "best.pt", checkpoint)
        return tmp_path / "run"

    return run
