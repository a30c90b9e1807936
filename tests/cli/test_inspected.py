"""Models that commands inspect: named ones, and training runs."""

from __future__ import annotations

import pytest

from detect.cli.inspected import is_run, read_model
from detect.errors import ConfigError


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
