"""Networks of timm and torchvision as backbones, without the layers that the wanted maps do not need."""

from __future__ import annotations

import copy
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from threading import Thread
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detect.detectors.pretrained_weights import check_filled, import_timm, lite0_weights
from detect.errors import ConfigError
from detect.ops.torchvision_import import import_torchvision

TRIED_PX = 256
CONNECT_S = 5.0  # without a connection after this time, weights are read from the cache alone
# options with which networks made for one image size, such as vision transformers, take others
ANY_SIZE: tuple[dict[str, bool], ...] = ({}, {"dynamic_img_size": True}, {"strict_img_size": False})

LITE0 = "tf_efficientnet_lite0"  # its name in timm

Network = tuple[list[int], Callable[[Sequence[int]], nn.Module]]
Weights = Mapping[str, Tensor]


def lite0_network(_: str, *, in_channels: int, pretrained: bool, weights: Weights | None = None) -> Network:
    """EfficientNet-Lite0 as :func:`timm_network`; an installed package holds its pretrained weights."""
    if pretrained and weights is None:
        weights = lite0_weights(import_timm().create_model(LITE0).state_dict())
    return timm_network(LITE0, in_channels=in_channels, pretrained=False, weights=weights)


def timm_network(name: str, *, in_channels: int, pretrained: bool, weights: Weights | None = None) -> Network:
    """The strides of a timm model's maps, and a function that builds the network for some of them.

    ``weights`` are those of timm's whole model; they replace the pretrained ones. Raises as
    :func:`detect.detectors.backbones.build_backbone`.
    """
    timm = import_timm()
    label = f"timm:{name}"
    if not timm.is_model(name):
        raise ConfigError(f"backbone {label!r}: timm has no such model")
    model, options = _options_of(timm, name, in_channels)
    info = model.feature_info
    indices = dict(zip(info.reduction(), info.out_indices, strict=True))  # the last map of each stride

    def make(strides: Sequence[int]) -> nn.Module:
        more = {**options, "out_indices": [indices[stride] for stride in strides]}
        if weights is not None:
            made = _filled_timm(timm, name, weights, **more)
        else:
            with reported_build(label, pretrained=pretrained):
                made = timm.create_model(name, pretrained=pretrained, **more)
        last = getattr(getattr(made, "output_fmt", None), "name", "NCHW") == "NHWC"
        return _ChannelsFirst(made) if last else made

    return list(indices), make


def torchvision_network(name: str, *, in_channels: int, pretrained: bool, weights: Weights | None = None) -> Network:
    """The strides of a torchvision network's maps, and a function that builds the network for some of them.

    The map of a stride is the output of its last layer among those highest in the module tree: of a stage in a ResNet.
    ``weights`` are those of torchvision's whole network; they replace the pretrained ones. Raises as
    :func:`detect.detectors.backbones.build_backbone`.
    """
    models = import_torchvision().models
    label = f"torchvision:{name}"
    if name not in models.list_models(module=models):
        raise ConfigError(f"backbone {label!r}: torchvision has no such classification network")
    pretrained = pretrained and weights is None
    with reported_build(label, pretrained=pretrained):
        model = models.get_model(name, weights="DEFAULT" if pretrained else None)
    fresh = copy.deepcopy(model)
    if weights is not None:
        own = model.state_dict()
        model.load_state_dict({k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}, strict=False)
    _take_channels(model, in_channels, pretrained or weights is not None)
    with _reported(label, "has no maps for images of any size"):
        layers = _layers_of_strides(model, in_channels)
    if not layers:
        raise ConfigError(f"backbone {label!r} has no maps of half the image's size or less")
    extract = import_module("torchvision.models.feature_extraction").create_feature_extractor

    def make(strides: Sequence[int]) -> nn.Module:
        nodes = {layers[stride]: str(stride) for stride in strides}
        network = extract(model, nodes, suppress_diff_warning=True)
        if weights is not None:
            check_filled(label, before=fresh, after=network)
        return network

    return sorted(layers), make


def _filled_timm(timm: ModuleType, name: str, weights: Weights, **options: Any) -> nn.Module:
    """A timm model with these weights, which timm adapts to the number of channels."""
    label, loads = f"timm:{name}", logging.getLogger("timm.models._builder")
    level, made = loads.level, []
    loads.setLevel(logging.ERROR)  # warns of the layers behind the last map
    try:
        for overlay in (None, {"state_dict": dict(weights)}):
            with torch.random.fork_rng(devices=[]), _reported(label, "the weights given do not fit"):
                torch.default_generator.manual_seed(0)  # both start alike, so that equal weights were not loaded
                made.append(
                    timm.create_model(name, pretrained=bool(overlay), pretrained_cfg_overlay=overlay, **options)
                )
    finally:
        loads.setLevel(level)
    check_filled(label, before=made[0], after=made[1])
    return made[1]


class _ChannelsFirst(nn.Module):
    """Turns the maps of a model, (b, h, w, d), into (b, d, h, w)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "b d h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        return [cells.permute(0, 3, 1, 2) for cells in self.model(images)]


def _options_of(timm: ModuleType, name: str, in_channels: int) -> tuple[Any, dict[str, Any]]:
    """The model with random weights, and the options with which it takes images of any size."""
    reason = ""
    for more in ANY_SIZE:
        options = {"features_only": True, "in_chans": in_channels, **more}
        try:
            model = timm.create_model(name, **options).eval()
            with torch.no_grad():
                model(torch.zeros(1, in_channels, TRIED_PX, TRIED_PX))
        except Exception as error:
            reason = reason or _reason(error)
        else:
            return model, options
    raise ConfigError(f"backbone 'timm:{name}' has no maps for images of any size: {reason}")


@contextmanager
def _reported(label: str, what: str) -> Iterator[None]:
    """Report any error of another package in one line."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"backbone {label!r}: {what}: {_reason(error)}") from None


@contextmanager
def reported_build(label: str, *, pretrained: bool) -> Iterator[None]:
    """Make any error a ConfigError; without a connection, pretrained weights come from the cache, or fail in seconds.

    huggingface_hub would try again for a minute, and torch.hub would wait without a limit.
    """
    if not pretrained:
        with _reported(label, "cannot be built"):
            yield
        return
    constants: Any = import_module("huggingface_hub.constants") if label.startswith("timm:") else None
    offline, timeout_s = constants and constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    unreachable = constants is not None and not offline and not _in_reach(constants.ENDPOINT)
    try:
        socket.setdefaulttimeout(CONNECT_S)
        if constants and unreachable:
            constants.HF_HUB_OFFLINE = True
        yield
    except Exception as error:
        reason = f"{constants.ENDPOINT} cannot be reached" if constants and unreachable else _reason(error)
        ways = "set model.weights=FILE or model.pretrained=false"
        raise ConfigError(f"backbone {label!r}: weights are not available ({reason}): {ways}") from None
    finally:
        socket.setdefaulttimeout(timeout_s)
        if constants:
            constants.HF_HUB_OFFLINE = offline


def _in_reach(url: str) -> bool:
    """Whether the host of a URL, or the proxy to it, takes a connection; a name that is not resolved in time is not."""
    through = getproxies().get(urlsplit(url).scheme, url)
    place = urlsplit(through if "//" in through else f"//{through}")
    connected = []

    def connect() -> None:
        try:
            socket.create_connection((place.hostname or "", place.port or 443), timeout=CONNECT_S).close()
            connected.append(True)
        except OSError:
            pass

    thread = Thread(target=connect, daemon=True)  # a look-up of a name cannot be given a time limit
    thread.start()
    thread.join(CONNECT_S)
    return bool(connected)


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _take_channels(model: nn.Module, in_channels: int, pretrained: bool) -> None:
    """Change the first convolution's number of channels; pretrained, equal channels give what three gave."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    if first.in_channels == in_channels:
        return
    weight = first.weight.detach()
    shape = (weight.shape[0], in_channels, *weight.shape[2:])
    if pretrained:
        fresh = (weight.sum(dim=1, keepdim=True) / in_channels).expand(shape).clone()
    else:
        fresh = nn.init.kaiming_normal_(weight.new_empty(shape), mode="fan_out", nonlinearity="relu")
    first.weight = nn.Parameter(fresh)
    first.in_channels = in_channels


def _layers_of_strides(model: nn.Module, in_channels: int) -> dict[int, str]:
    """Names of the layers whose outputs are the maps, by stride."""
    found: dict[int, str] = {}

    def look_at(name: str) -> Callable[..., None]:
        def look(_: nn.Module, __: object, output: object) -> None:
            if not isinstance(output, Tensor) or output.ndim != 4:
                return
            extent = output.shape[-1]
            if extent < 2 or output.shape[-2] != extent or TRIED_PX % extent or extent == TRIED_PX:
                return
            before = found.get(TRIED_PX // extent)
            if before is None or name.count(".") <= before.count("."):
                found[TRIED_PX // extent] = name

        return look

    hooks = [module.register_forward_hook(look_at(name)) for name, module in model.named_modules() if name]
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, in_channels, TRIED_PX, TRIED_PX))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return found
