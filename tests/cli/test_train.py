"""``detect train`` as it is typed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from detect.anchors.anchor_set import AnchorSet
from detect.cli.train import fields_of
from detect.training import overfitting
from detect.training.config import DataConfig, TrainConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def squares(tmp_path) -> Path:
    """A configuration over four images of one bright square each, in the folder beside it."""
    images, annotations = [], []
    (tmp_path / "images").mkdir()
    for number in range(1, 5):
        pixels = np.zeros((32, 32), np.uint8)
        pixels[8:20, number : number + 12] = 200
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 32, "height": 32})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [number, 8, 12, 12]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (tmp_path / "squares.json").write_text(json.dumps(content))
    AnchorSet.of([[(12, 12)]], strides=(4,)).save(tmp_path / "anchors.yaml")
    file = str(tmp_path / "squares.json")
    fields = {
        "data": {"train": [file], "val": [file], "images": str(tmp_path / "images"), "channels": 1},
        "model": {"anchors": str(tmp_path / "anchors.yaml"), "pyramid_channels": 32, "num_convs": 0},
        "optimisation": {"epochs": 1, "batch_size": 2, "warmup_steps": 0},
        "output": {"folder": str(tmp_path / "run"), "tensorboard": False},
    }
    path = tmp_path / "squares.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_a_run_prints_its_numbers(detect, squares):
    ended = detect("train", squares, "optimisation.epochs=2")
    assert ended.code == 0
    assert "2 epochs, 4 steps" in ended.out
    assert "ap50" in ended.out
    assert (squares.parent / "run" / "last.pt").exists()


def test_json_is_one_object(detect, squares):
    told = detect("train", squares, "--json").json
    assert (told["epochs"], told["steps"], told["stopped_early"]) == (1, 2, False)
    assert set(told["metrics"]) >= {"ap", "ap50", "ar100"}


def test_a_second_run_needs_resume(detect, refused, squares):
    assert detect("train", squares).code == 0
    assert "holds a run: --resume it" in refused("train", squares)
    assert detect("train", squares, "--resume").code == 0


def test_images_may_be_elsewhere(detect, refused, squares, tmp_path):
    shutil.move(tmp_path / "images", tmp_path / "other place")
    assert "4 of 4 images cannot be used" in refused("train", squares)
    assert detect("train", squares, "--images", tmp_path / "other place").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimisation.epoch=3"], "no field 'optimisation.epoch'"),
        (["data.train=[none.json]"], "none.json"),
        (["model.backbone=huge"], "no backbone 'huge'"),
        (["--overfit", "9"], "there are 4 images with objects"),
        pytest.param(
            *(["--device", "cuda"], "optimisation.accelerator=cuda: torch finds no CUDA device"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_a_mistake_is_one_line(refused, squares, arguments, message):
    assert message in refused("train", squares, *arguments)


def test_every_field_is_listed_with_what_it_takes_and_is(detect):
    ended = detect("train", "--fields")
    assert ended.code == 0
    rows = {line.split()[0]: line for line in ended.out.splitlines()[1:] if not line.startswith(" ")}
    sections = TrainConfig(data=DataConfig(train=["a.json"], images=Path("images"))).model_dump()
    names = [f"{section}.{name}" for section, fields in sections.items() if isinstance(fields, dict) for name in fields]
    assert sorted(rows) == sorted(["task", "seed", *names])
    for row, parts in (
        ("data.images", ["required", "path", "folder of the images"]),
        ("model.norm", ["group", "group | batch | null", "normalization in the towers"]),
        ("augment.zoom", ["[0.75, 1.4]", "[low, high], above 0 to 100", "range of the scale factor"]),
        ("optimisation.clip_norm", ["5.0", "above 0 to 1,000,000", "largest norm of the gradient"]),
    ):
        assert re.split("  +", rows[row].strip()) == [row, *parts]
    assert all(field.get("description") for _, field in fields_of(TrainConfig.model_json_schema()))


def test_overfitting_says_whether_it_passed(detect, squares, monkeypatch):
    monkeypatch.setattr("detect.training.overfitting.overfit", partial(overfitting.overfit, num_steps=3))
    ended = detect("train", squares, "--overfit", 2)
    assert ended.code == 1  # three steps are too few
    assert "NOT learned by heart" in ended.out
    assert not (squares.parent / "run").exists()


def test_labels_that_are_normalised_do_not_pass(detect, squares):
    labels = squares.parent / "squares.json"
    content = json.loads(labels.read_text())
    for each in content["annotations"]:
        each["bbox"] = [number / 32 for number in each["bbox"]]
    labels.write_text(json.dumps(content))
    ended = detect("train", squares, "--overfit", 2)
    assert ended.code == 1
    assert "- boxes are under 1 px: normalised? the coordinates of all 4 boxes lie from 0 to 0.625" in ended.out
    assert detect("train", squares, "--overfit", 2, "--json").json["score"] is None


def test_broken_images_are_named_with_the_field_that_skips_them(detect, squares, tmp_path):
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    ended = detect("train", squares)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert ended.err.endswith("2.png: not an image that can be read; data.on_broken=skip leaves them out\n")
    ended = detect("train", squares, "data.on_broken=skip")
    assert ended.code == 0
    assert "skipped: 1 of 4 images cannot be used" in ended.err


COMMAND = """
import sys
from detect.cli.app import main
sys.argv[0] = "detect"
main()
"""
SHORT = (  # half of the head, and augmentation that the longer runs have is left out: 93 steps
    *("model.pyramid_channels=32", "model.num_convs=1", "augment.turns=false", "augment.zoom=[1,1]"),
    *(
        "optimisation.epochs=3",
        "optimisation.batch_size=4",
        "optimisation.learning_rate=3e-3",
        "output.validate_epochs=3",
    ),
    *("optimisation.warmup_steps=10", "optimisation.ema_decay=0.9"),
)


def part_of_nuclei(folder: Path, part: str, *, step: int) -> Path:
    """Labels of every ``step``-th image."""
    content = json.loads((CONFIGS.parent / "data" / "nuclei" / f"nuclei_{part}.json").read_text("utf-8"))
    content["images"] = content["images"][::step]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
    (folder / f"{part}.json").write_text(json.dumps(content), "utf-8")
    return folder / f"{part}.json"


def test_a_short_run_learns_some_nuclei_and_finds_others(tmp_path, fresh_python):
    """AP .23 and AP50 .55; with boxes that are not flipped with their images AP .11."""
    files = {name: part_of_nuclei(tmp_path, name, step=step) for name, step in (("train", 3), ("val", 4))}
    fields = [f"data.{name}=[{file}]" for name, file in files.items()]
    fields += [f"data.images={CONFIGS.parent / 'data/nuclei/images'}", f"output.folder={tmp_path / 'run'}"]
    printed = fresh_python(COMMAND, "train", CONFIGS / "smoke.yaml", *SHORT, *fields, "--json")
    metrics = json.loads(printed)["metrics"]
    assert metrics["ap"] > 0.15
    assert metrics["ap50"] > 0.4


TWELVE = "optimisation.epochs=12 output.validate_epochs=12"
POINTS = {"f1_5px": 0.72, "f1_3px": 0.64, "count_mae": -1.3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields", "floors"),
    [("smoke", "", {"ap": 0.46, "ap50": 0.76}), ("nuclei_landmarks", TWELVE, POINTS)],
)
def test_smoke_runs_reach_their_floors(tmp_path, name, fields, floors):
    command = [sys.executable, "-m", "detect", "train", f"configs/{name}.yaml", *fields.split()]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}  # as a user runs it
    command += [f"output.folder={tmp_path}", "--json"]
    run = subprocess.run(command, cwd=CONFIGS.parent, env=environment, capture_output=True, text=True, check=True)
    metrics = json.loads(run.stdout)["metrics"]
    for metric, floor in floors.items():  # below 0: an error, which is at most so large
        assert (metrics[metric] if floor > 0 else -metrics[metric]) >= floor, metric
