"""What is said of pretrained weights before they are downloaded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from detect.detectors.downloads import download_of


def test_the_source_and_the_place_of_torchvisions_weights_are_named(monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: "/hub")
    for word, file in (
        ("torchvision:resnet18", "resnet18-f37072fd.pth"),
        ("torchvision:retinanet_resnet50_fpn", "retinanet_resnet50_fpn_coco-eeacb38b.pth"),
    ):
        assert download_of(word) == (
            f"{word}: the pretrained weights are downloaded from https://download.pytorch.org/models/{file} "
            "unless they are in /hub/checkpoints already, and kept there"
        )


def test_timms_weights_come_from_its_hub_or_else_from_a_url(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.example")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/cache")
    found = download_of("timm:resnet18")
    assert found is not None
    assert "https://hub.example/timm/resnet18.a1_in1k unless they are in /cache already" in found
    monkeypatch.setattr("torch.hub.get_dir", lambda: "/hub")
    of_url = SimpleNamespace(hf_hub_id=None, url="https://files.example/a.pth")
    monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda name, allow_unregistered: of_url)
    found = download_of("timm:resnet18")
    assert found is not None
    assert "https://files.example/a.pth unless they are in /hub/checkpoints already" in found


@pytest.mark.parametrize("word", ["tiny", "lite0", "timm:resnet17", "torchvision:resnet17", "own.module:Net", ""])
def test_nothing_is_downloaded_for_other_words(word):
    assert download_of(word) is None
