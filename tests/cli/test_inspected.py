"""Models that commands inspect: named ones, and training runs."""

from __future__ import annotations

import io
import sys

import pytest

from detect.cli.inspected import is_run, read_model
from detect.errors import ConfigError
from detect.ops.torchvision_import import import_torchvision


def test_a_run_is_read_from_its_folder_or_checkpoint(trained):
    run = trained("boxes")
    for word in (run, run / "best.pt"):
        model = read_model(str(word))
        heads = [f"{level}.{what}" for what in ("classification", "boxes") for level in ("P2", "P3")]
        assert [name for name in model.maps.names if name[0] == "P"] == ["P2", "P3", *heads]
        assert model.maps.names[0] == "C2"


def test_a_run_has_its_own_weights(trained):
    with pytest.raises(ConfigError, match="has its own weights"):
        read_model(str(trained("boxes")), pretrained=True)


def test_other_words_are_names_of_models(tmp_path):
    assert not is_run("timm:resnet18")
    assert not is_run(str(tmp_path))
    assert read_model("tiny", weights=None, pretrained=False).maps.names == ["C2", "C3", "C4", "C5"]


@pytest.mark.parametrize("word", ["torchvision:resnet18", "torchvision:retinanet_resnet50_fpn"])
def test_a_download_is_announced_before_it_is_tried_and_fails_in_one_line(word, detect, monkeypatch):
    tried = []

    def offline(name, weights, **_):
        if weights:
            tried.append(sys.stderr.getvalue())
            raise OSError("no route to host\nand more")

    monkeypatch.setattr(import_torchvision().models, "get_model", offline)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    code = detect("backbone", "layers", word, "--pretrained").code
    announced, error = sys.stderr.getvalue().splitlines()
    assert announced.startswith(
        f"{word}: the pretrained weights are downloaded from https://download.pytorch.org/models/"
    )
    assert tried == [announced + "\n"]
    assert error.startswith("detect: ")
    assert "weights are not available (no route to host)" in error
    assert code == 2


def test_weights_that_are_given_or_installed_are_not_announced(detect, capsys):
    assert "downloaded" not in detect("backbone", "layers", "lite0", "--pretrained").err
