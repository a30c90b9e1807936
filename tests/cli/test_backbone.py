"""``detect backbone`` as a user types it: fields, objects beside levels, layers, and what a mistake looks like."""

from __future__ import annotations

import pytest

from detect.samples import sample_annotations

NUCLEI = sample_annotations("nuclei")

NETWORK = """
from torch import nn

def classic():
    layers = [nn.Conv2d(1, 32, 5), nn.MaxPool2d(2), nn.Conv2d(32, 32, 3), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(800, 256), nn.Linear(256, 10))

def pooled():
    return nn.Sequential(nn.Conv2d(3, 4, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, 1))
"""


@pytest.fixture
def networks(tmp_path, monkeypatch):
    (tmp_path / "networks_of_a_test.py").write_text(NETWORK, "utf-8")
    monkeypatch.chdir(tmp_path)
    return "networks_of_a_test"


def test_fields_are_printed_and_given_as_json(detect, networks):
    run = detect("backbone", "profile", f"{networks}:pooled", "--no-effective")
    assert run.code == 0
    assert "C2" in run.out
    assert "11" in run.out
    answer = detect("backbone", "profile", f"{networks}:pooled", "--json").json
    [level] = answer["levels"]
    assert (level["name"], level["size"], level["stride"], level["offset"]) == ("C2", [11, 11], [4, 4], [0.5, 0.5])
    assert 1 < level["effective"][0] <= 11
    assert [layer["size"] for layer in answer["layers"]] == [[7, 7], [11, 11]]


def test_objects_beside_the_levels_and_a_page(detect, networks, tmp_path):
    run = detect("backbone", "profile", f"{networks}:pooled", NUCLEI, "-o", tmp_path / "page")
    assert "318 objects, resize none" in run.out
    assert "suit no level" in run.out
    assert "Objects beside the levels" in (tmp_path / "page" / "report.html").read_text("utf-8")


def test_a_run_sees_objects_after_its_own_resize_rule(detect, trained):
    run = trained("boxes", data={"resize": "letterbox:160"})
    answers = [
        detect("backbone", "profile", run, NUCLEI, "--no-effective", "--json", *more).json
        for more in ((), ("--resize", "none"))
    ]
    assert [answer["objects"]["resize"] for answer in answers] == ["letterbox:160", "none"]


def test_a_layer_can_be_profiled_by_name(detect, networks):
    answer = detect("backbone", "profile", f"{networks}:pooled", "--layer", "0", "--json", "--no-effective").json
    assert [(level["name"], level["size"]) for level in answer["levels"]] == [("0", [7, 7])]


def test_layers_are_listed_with_formulas_and_totals(detect, networks, tmp_path):
    command = ("backbone", "layers", f"{networks}:classic", "--size", "1x28x28")
    run = detect(*command, "--explain", "-o", tmp_path)
    assert run.code == 0
    for text in ("832", "(5*5*1 + 1)*32", "205,056", "217,706 parameters", "(28 + 2*0 - 5)/1 + 1 = 24"):
        assert text in run.out
    assert "each of the 32 filters is 1 deep, 5x5x1" in run.out
    assert (tmp_path / "layers.csv").read_text("utf-8").splitlines()[1].startswith("0,Conv2d,1x28x28,32x24x24,5x5,832,")
    assert detect(*command, "--json").json["parameters"] == 217_706
    assert len(detect(*command, "--json", "--layer", "2").json["layers"]) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("profile", "resnet50"), "no model 'resnet50'"),
        (("profile", "{}:no_such"), "has no attribute 'no_such'"),
        (("profile", "{}:pooled", "--layer", "layer9"), "no layer 'layer9'"),
        (("profile", "{}:pooled", "no_such.json"), "no_such.json"),
        (("layers", "{}:classic", "--size", "1x28x28", "--layer", "conv9"), "no layer 'conv9'"),
        (("layers", "{}:classic", "--size", "28y28"), "--size: expected HEIGHTxWIDTH"),
        (("layers", "{}:classic", "--size", "20x20"), "fails on an image of 1x20x20"),
        (("layers", "tiny", "--weights", "no_such.pt"), "no_such.pt"),
    ],
)
def test_a_mistake_is_one_line(refused, networks, arguments, reason):
    assert reason in refused("backbone", *(each.format(networks) for each in arguments))


def test_advice_puts_a_models_levels_beside_the_objects(detect, networks, tmp_path):
    command = ("advise", NUCLEI, "--for", "yolo11-8.3", "--size", 128, "--model", f"{networks}:pooled")
    run = detect(*command, "-o", tmp_path / "advice")
    assert "has levels of strides 4, and yolo11-8.3 of 8, 16, 32" in run.out
    assert "Objects beside the levels" in (tmp_path / "advice" / "report.html").read_text("utf-8")
