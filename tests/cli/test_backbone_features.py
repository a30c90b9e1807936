"""``detect backbone features`` as a user types it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from detect.inspection.models import build_model


@pytest.fixture
def image(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (53, 71, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "odd.png")
    return tmp_path / "odd.png"


def test_pictures_and_a_page_of_a_training_run_on_a_grey_image(detect, trained, image, tmp_path):
    grey = tmp_path / "grey.png"
    Image.open(image).convert("L").save(grey)
    run = detect("backbone", "features", trained("boxes"), grey, "-o", tmp_path / "out", "--channels", 3)
    assert run.code == 0, run.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "input.png", "filters_first.png", "C2.png", "C2_overlay.png", "P2.png", "P3.png"} <= names
    assert not any("classification" in name for name in names)
    assert run.out.splitlines()[0].split() == ["map", "stride", "cells", "channels", "constant", "strongest"]


def test_landmarks_and_their_heatmap_with_heads(detect, trained, image):
    found = detect("backbone", "features", trained("landmarks"), image, "--heads", "--json").json
    assert "P1.heatmap" in [level["name"] for level in found["levels"]]


def test_two_random_networks_of_one_name_differ_and_are_the_same_at_every_run(detect, image):
    arguments = ("backbone", "features", "tiny", image, "--against", "tiny", "--json")
    found = detect(*arguments).json
    assert found["input_hw"] == [53, 71]
    assert found["models"] == ["tiny, random weights", "tiny, random weights"]
    assert all(abs(each["correlation"]) < 0.9 for each in found["differences"])
    assert found == detect(*arguments).json


def test_equal_weights_have_equal_maps_and_random_ones_others(detect, image, tmp_path, monkeypatch):
    network = "nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())"
    (tmp_path / "two_weights.py").write_text(f"from torch import nn\ndef build():\n    return {network}\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    torch.save(build_model("two_weights:build").module.state_dict(), tmp_path / "own.pth")
    arguments = ("backbone", "features", "two_weights:build", image, "--weights", "own.pth", "--json")
    (same,) = detect(*arguments, "--against-weights", "own.pth").json["differences"]
    assert (round(same["similarity"], 6), round(same["correlation"], 6)) == (1.0, 1.0)
    other = detect(*arguments, "--against", "two_weights:build").json
    assert other["models"] == ["two_weights:build, own.pth", "two_weights:build, random weights"]
    assert other["differences"][0]["similarity"] < 0.99


def test_a_layer_by_its_name(detect, image):
    (level,) = detect("backbone", "features", "tiny", image, "--layer", "stem.0", "--json").json["levels"]
    assert (level["name"], level["stride"], level["channels"]) == ("stem.0", 2, 16)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "IMAGE"], "no model 'nothing'"),
        (["tiny", "missing.png"], "No such file"),
        (["tiny", "FOLDER"], "a folder, where one image file is expected"),
        (["tiny", "IMAGE", "--layer", "stem.9"], "no layer 'stem.9'"),
        (["tiny", "IMAGE", "--resize", "wide"], "wide"),
        (["tiny", "IMAGE", "--resize", "stretch:4096x4096"], "give --resize letterbox:1024"),
        (["tiny", "IMAGE", "--against", "RUN"], "give --resize for both"),
        (["tiny", "IMAGE", "--against-weights", "missing.pth"], "missing.pth"),
        (["RUN", "IMAGE", "--pretrained"], "has its own weights"),
    ],
)
def test_a_mistake_is_one_line(refused, trained, image, tmp_path, arguments, words):
    places = {"IMAGE": image, "FOLDER": tmp_path}
    if "RUN" in arguments:
        places["RUN"] = trained("boxes", data={"resize": "letterbox:64"})
    assert words in refused(
        "backbone", "features", *(places.get(each, each) for each in arguments), "-o", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()
