"""The table of attribution methods: its statistics by planted rows, and a whole run on two detections."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from detect.anchors.anchor_set import AnchorSet
from detect.data import read_coco
from detect.data.resize import parse_resize
from detect.detectors.retinanet import RetinaNetDetector
from detect.inspection.targets import Found
from detect.loading.dataset import DetectionData
from detect.samples import sample_annotations

PATH = Path(__file__).resolve().parents[1] / "tools" / "attribution_table.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("attribution_table", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["attribution_table"] = module
    spec.loader.exec_module(module)
    return module


def row(method, image, **numbers):
    usual = {"energy_inside": 0.5, "box_share": 0.1, "deletion": 0.2, "insertion": 0.8, "random_deletion": 0.5}
    usual |= {"random_insertion": 0.5, "sanity_correlation": 0.1, "seconds": 0.3}
    texts = {name: str(value) for name, value in {**usual, **numbers}.items()}
    return {"name": "cells", "run": "run", "image": image, "score": "0.9", "method": method, **texts}


def planted(num=40):
    """A good method, its equal up to noise, one at chance, and an edge detector."""
    random, rows = np.random.default_rng(0), []
    for number in range(num):
        image, noise = f"{number}.png", float(random.normal(0, 0.1))
        rows += [
            row("good", image, deletion=0.1),
            row("equal", image, deletion=0.1 + noise),
            row("chance", image, deletion=0.5 + noise, insertion=0.5 + noise, energy_inside=0.1 + 0.1 * noise),
            row("edges", image, sanity_correlation=0.9, energy_inside="nan"),
        ]
    return rows


def test_conclusions_name_the_best_its_equals_and_what_is_no_better_than_chance(tool):
    found = dict(sentence.split(": ", 1) for sentence in tool.conclusions(tool.methods_table(planted())))
    assert set(found) == {"deletion", "insertion", "energy inside", "random weights"}
    best, equals = found["deletion"].split(" for ")[1].split(";")
    assert {best.split(",")[0], equals.split(": ")[1].split(".")[0]} == {"good", "equal"}
    assert found["deletion"].endswith("No better than chance: chance.")
    assert "highest for" in found["insertion"]
    assert found["energy inside"].endswith("Undefined for most detections: edges.")
    assert found["random weights"].endswith("Above 0.5, so not to be trusted here: edges.")


def test_methods_that_are_sound_for_every_run_come_first(tool):
    rows = planted()
    other = [{**each, "name": "spots"} for each in rows]
    for each in other:
        each["sanity_correlation"] = "0.6" if each["method"] == "equal" else each["sanity_correlation"]
    text = tool.report(rows + other)
    assert "- spots: good.\n- all: good.\n" in text


def test_intervals_are_of_the_median_and_leave_out_what_is_not_defined(tool):
    values = np.append(np.random.default_rng(1).normal(3, 1, 400), np.nan)
    value, low, high = tool.interval(values)
    assert_allclose(value, np.nanmedian(values))
    assert_allclose([low - value, high - value], [-1.96 * 1.253 / 20, 1.96 * 1.253 / 20], atol=0.04)
    assert tool.interval(values) == (value, low, high)
    assert math.isnan(tool.interval(np.array([np.nan]))[0])
    assert tool.interval_text(np.array([np.nan])) == "-"


def test_only_images_that_all_methods_explained_are_compared(tool):
    rows = [row("a", "1"), row("b", "1", deletion=0.3), row("a", "2", deletion=9.0)]
    table = tool.methods_table(rows)
    assert table["a"]["deletion"].tolist() == [0.2]
    with pytest.raises(ValueError, match="no image that all methods have explained"):
        tool.methods_table([row("a", "1"), row("b", "2")])


def test_the_document_has_a_row_for_each_method_and_for_chance(tool):
    text = tool.report(planted())
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines][1] == "| random order"
    assert len(lines) == 2 + 4
    assert "- cells: good, equal." in text or "- cells: equal, good." in text
    assert "40 detections of `run`, one of an image" in text
    assert lines[1].split(" | ")[1] == "0.500 (0.500 to 0.500)"


def test_detections_are_true_if_they_lie_over_an_object_of_their_class(tool):
    file = sample_annotations("nuclei")
    data = DetectionData(read_coco(file), file.parent / "images", resize=parse_resize("none"), channels=1)
    sample = data[0]
    box = tuple(sample.targets.boxes[0].tolist())
    assert tool.is_true(Found(box, 0.9, 0, (0,)), sample, 0.5)
    assert not tool.is_true(Found(box, 0.9, 1, (0,)), sample, 0.5)
    assert not tool.is_true(Found((0.0, 0.0, 1.0, 1.0), 0.9, 0, (0,)), sample, 0.5)
    at = replace(sample, points=torch.tensor([[3.0, 4.0]]), types=torch.tensor([1]), visibility=torch.tensor([2]))
    square = (2.0, 3.0, 5.0, 4.6)  # the point is at (3.5, 4.5)
    assert tool.is_true(Found(square, 0.9, 1, (0, 0)), at, 0.5)
    assert not tool.is_true(Found(square, 0.9, 1, (0, 0)), at, 1.5)
    assert not tool.is_true(Found(square, 0.9, 0, (0, 0)), at, 0.5)


def test_a_run_is_measured_and_goes_on_where_it_stopped(tool, tmp_path, monkeypatch, nuclei_run):
    monkeypatch.setattr(tool, "is_true", lambda found, sample, shift: True)
    monkeypatch.setattr(tool, "NUM_PATTERN_IMAGES", 4)
    arguments = ["measure", nuclei_run, "--name", "few", "-o", tmp_path, "--detections", 2, "--methods"]
    for methods in ("saliency", "saliency,pattern-net"):
        tool.main([*map(str, arguments), methods])
    rows = tool.read_rows(tmp_path / "attributions" / "few.csv")
    assert sorted(each["method"] for each in rows) == ["pattern-net"] * 2 + ["saliency"] * 2
    assert len({each["image"] for each in rows}) == 2
    tool.main(["report", "-o", str(tmp_path)])
    assert "## few" in (tmp_path / "attributions.md").read_text("utf-8")


@pytest.fixture
def nuclei_run(tmp_path):
    from detect.loading.labels import LabelMap
    from detect.training.builder import build_detector
    from detect.training.checkpoints import Checkpoint, save_checkpoint
    from detect.training.config import parse_config

    labels = sample_annotations("nuclei")
    data = {"train": [str(labels)], "val": [str(labels)], "images": str(labels.parent / "images"), "channels": 1}
    fields = {"pyramid_channels": 32, "num_convs": 0, "score_threshold": 0.001}
    config = parse_config({"task": "boxes", "data": data, "model": fields})
    anchors, names = AnchorSet.of([[(12, 12)], [(24, 24)]], strides=(4, 8)), LabelMap((1,), ("nucleus",))
    detector = build_detector(config, names, anchors=anchors)
    assert isinstance(detector, RetinaNetDetector)
    metrics = {"best_threshold": 0.001}
    path = tmp_path / "run" / "best.pt"
    save_checkpoint(path, Checkpoint(config, names, anchors, detector.state_dict(), 0, metrics))
    return path


def test_mistakes_are_named(tool, tmp_path, capsys):
    for arguments in (["report", "-o", str(tmp_path)], ["measure", "run", "--methods", "magic"]):
        with pytest.raises(SystemExit) as stop:
            tool.main(arguments)
        assert stop.value.code == 2
    assert "unknown: magic" in capsys.readouterr().err
