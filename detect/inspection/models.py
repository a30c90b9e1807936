"""Models to inspect, by words such as ``timm:resnet50``, and their maps by name.

C2 to C5 are a backbone's maps of strides 4 to 32, P3 to P7 the levels of a pyramid, and ``P3.classification`` is what a head
predicts on P3: a letter, and log2 of the stride. A stride that is no power of two is written out: ``C-stride12``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from detect.anchors.anchor_set import level_name
from detect.data.resize import ResizeRule, parse_resize
from detect.detectors.backbones import NETWORKS, OF_MANY
from detect.detectors.external_backbones import reported_build
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.pretrained_weights import import_timm, load_checkpoint, plain_names
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ConfigError
from detect.inspection.layers import first_line, tensors_in, unknown_layer
from detect.ops.torchvision_import import import_torchvision

WORDS = "tiny, lite0, timm:NAME, torchvision:NAME, MODULE:CALLABLE, or the folder or checkpoint of a training run"
# an image in which strides up to 512 show, where nothing is computed; then sizes that networks for one size may take
PROBE_PX = (1024, 512, 384, 256, 224, 192, 128, 96, 64, 32, 28)
COARSEST = 32  # of a backbone's maps, C5
FINEST = 4  # C2

Run = Callable[[nn.Module, Tensor], Any]


class Tap(NamedTuple):
    """Layers whose outputs are maps; ``""`` is the model itself, whose result counts.

    ``form`` makes a name from a level's, such as ``"{}.boxes"``; None keeps the names of layers.
    """

    layers: tuple[str, ...]
    form: str | None = None
    letter: str = "P"


class NamedMaps(nn.Module):
    """A model that returns the outputs of some of its layers by name, fine to coarse within each tap.

    >>> maps = NamedMaps(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU()), [Tap(("0",), None), Tap(("",), "{}", "C")])
    >>> {name: tuple(cells.shape) for name, cells in maps(torch.zeros(1, 3, 9, 9)).items()}
    {'0': (1, 8, 4, 4), 'C1': (1, 8, 4, 4)}

    ``run`` calls the model; by default on the images alone. Each map is a copy, which no later layer changes in place.

    Raises:
        ConfigError: there is no such layer, no map among the outputs, or the model fails on an image.
    """

    def __init__(self, model: nn.Module, taps: Sequence[Tap], *, in_channels: int = 3, run: Run | None = None) -> None:
        super().__init__()
        self.model, self.taps, self.run = model, tuple(taps), run or (lambda model, images: model(images))
        known = dict(model.named_modules())
        for name in (name for tap in self.taps for name in tap.layers if name not in known):
            raise unknown_layer(name, list(known))
        self.in_channels = in_channels
        self.probe_px, self.names = self._probe()
        if not self.names:
            raise ConfigError("the model returns no map (b, channels, h, w): name layers whose outputs are maps")

    def forward(self, images: Float[Tensor, "b d h w"]) -> dict[str, Tensor]:
        """The maps by name."""
        found = [cells for tap in self._collect(images) for _, cells in tap]
        return dict(zip(self.names, found, strict=True))

    def _collect(self, images: Tensor) -> list[list[tuple[str, Tensor]]]:
        """The outputs of each tap, with the names of their layers."""
        outputs: list[list[tuple[str, Tensor]]] = [[] for _ in self.taps]
        hooks = []
        for number, tap in enumerate(self.taps):
            for name in filter(None, tap.layers):
                layer = self.model.get_submodule(name)
                hooks.append(layer.register_forward_hook(_keeper(outputs[number], name)))
        try:
            result = self.run(self.model, images)
        finally:
            for hook in hooks:
                hook.remove()
        for number, tap in enumerate(self.taps):
            if "" in tap.layers:
                _keeper(outputs[number], "")(self.model, None, result)
        return outputs

    def blank(self, height: int, width: int) -> Float[Tensor, "1 d h w"]:
        """An image of zeros, where the weights are and of their type."""
        like = next(self.model.parameters(), torch.zeros(()))
        return torch.zeros(1, self.in_channels, height, width, device=like.device, dtype=like.dtype)

    @property
    def fixed_size(self) -> bool:
        """Whether the model takes images of one size, or of small ones alone."""
        return self.probe_px != PROBE_PX[0]

    def _probe(self) -> tuple[int, list[str]]:
        """The side of an image that the model takes, and the names of its maps."""
        reason = ""
        for side in PROBE_PX:
            with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
                try:
                    outputs = self._collect(self.blank(side, side))
                except Exception as error:
                    reason = reason or f"the model fails on an image of {side} x {side}: {first_line(error)}"
                    continue
            names: list[str] = []
            for tap, maps in zip(self.taps, outputs, strict=True):
                names += [
                    name if tap.form is None else tap.form.format(_level(cells, side, tap.letter))
                    for name, cells in maps
                ]
            return side, _unique(names)
        raise ConfigError(reason)


@dataclass(frozen=True, eq=False)
class InspectedModel:
    """A model in evaluation mode, as it is named, and its maps.

    ``taps`` are of ``source``, which shares its weights with ``module`` unless both are random.
    """

    name: str
    module: nn.Module
    in_channels: int
    source: nn.Module
    taps: tuple[Tap, ...]
    run: Run | None = None  # calls the model without what comes after its maps, such as suppression
    resize: ResizeRule = field(default_factory=lambda: parse_resize("none"))  # of the images of a training run

    @cached_property
    def maps(self) -> NamedMaps:
        """The network that returns the model's maps by name."""
        return self._named(self.source, self.taps)

    def layers(self, names: Sequence[str]) -> NamedMaps:
        """The network that returns the outputs of some of the module's layers by their names."""
        return self._named(self.module, [Tap((name,)) for name in names])

    def _named(self, model: nn.Module, taps: Sequence[Tap]) -> NamedMaps:
        with _reported(self.name):
            return NamedMaps(model, taps, in_channels=self.in_channels, run=self.run).eval()


def build_model(
    word: str, *, weights: str | Path | None = None, pretrained: bool = False, seed: int = 0
) -> InspectedModel:
    """The model of a word, :data:`WORDS` but a training run; with random weights by the seed unless some are given.

    >>> build_model("tiny").maps.names
    ['C2', 'C3', 'C4', 'C5']

    Raises:
        ConfigError: there is no such model, it cannot be built, or the weights do not fit it.
        MissingExtraError: timm or torchvision is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _built_model(word, weights, pretrained=pretrained)


def _built_model(word: str, weights: str | Path | None, *, pretrained: bool) -> InspectedModel:
    source, _, name = word.partition(":")
    tensors = None if weights is None else plain_names(load_checkpoint(weights))
    if source == "torchvision" and name in _torchvision_detectors():
        return _torchvision_detector(word, name, tensors, pretrained=pretrained)
    if source in NETWORKS and bool(name) == (source in OF_MANY):
        return _backbone(word, source, name, tensors, pretrained=pretrained)
    if not source or not name:
        raise ConfigError(f"no model {word!r}: need {WORDS}")
    if pretrained:
        known = "timm, torchvision and lite0"
        raise ConfigError(f"model {word!r}: pretrained weights are for {known}; give a file of weights")
    module = _called(word, source, name)
    _fill(word, module, tensors)
    return model_of(word, module)


def model_of(name: str, module: nn.Module) -> InspectedModel:
    """A module as a model to inspect: a detector of this package, or any whose result holds maps."""
    module.eval()
    taps: tuple[Tap, ...]
    if isinstance(module, RetinaNetDetector):
        taps = (
            Tap(("backbone",), "{}", "C"),
            Tap(("pyramid",), "{}"),
            Tap(_prefixed(module, "head.class_outputs."), "{}.classification"),
            Tap(_prefixed(module, "head.box_outputs."), "{}.boxes"),
        )
        return InspectedModel(name, module, module.backbone.in_channels, module, taps)
    if isinstance(module, LandmarkDetector):
        taps = (Tap(("backbone",), "{}", "C"), Tap(("pyramid",), "{}"), Tap(("head",), "{}.heatmap"))
        return InspectedModel(name, module, module.backbone.in_channels, module, taps)
    convs = [each for each in module.modules() if isinstance(each, nn.Conv2d)]
    channels = convs[0].in_channels if convs else 3
    return InspectedModel(name, module, channels, module, (Tap(("",), "{}", "C"),))


def _backbone(word: str, source: str, name: str, tensors: Any, *, pretrained: bool) -> InspectedModel:
    """A backbone's maps, and the whole network they are from."""
    strides, make = NETWORKS[source](name, in_channels=3, pretrained=pretrained, weights=tensors)
    maps = make([stride for stride in strides if FINEST <= stride <= COARSEST] or strides)
    whole = maps
    if source in OF_MANY:
        with reported_build(word, pretrained=pretrained):
            if source == "timm":
                whole = import_timm().create_model(name, pretrained=pretrained)
            else:
                whole = import_torchvision().models.get_model(name, weights="DEFAULT" if pretrained else None)
        _fill(word, whole, tensors)
    return InspectedModel(word, whole.eval(), 3, maps.eval(), (Tap(("",), "{}", "C"),))


def _torchvision_detectors() -> list[str]:
    models = import_torchvision().models
    return models.list_models(module=models.detection)


def _torchvision_detector(word: str, name: str, tensors: Any, *, pretrained: bool) -> InspectedModel:
    """A detector of torchvision on images that are resized and normalised already, up to what its heads predict."""
    with reported_build(word, pretrained=pretrained):
        weights = "DEFAULT" if pretrained else None
        model = import_torchvision().models.get_model(name, weights=weights, weights_backbone=None).eval()
    _fill(word, model, tensors)
    head = "rpn.head" if hasattr(model, "rpn") else "head"
    taps = [Tap(("backbone",), "{}")]
    if hasattr(model.backbone, "fpn"):
        taps.insert(0, Tap(("backbone.body",), "{}", "C"))
    for ending, what in PREDICTORS.items():
        layers = [name for name, _ in model.named_modules() if name.startswith(head) and ending in f"{name}."]
        layers = [name for name in layers if name.split(ending)[-1].strip(".").isdigit() or f"{name}.".endswith(ending)]
        if layers:
            leaves = [name for name in layers if not any(other.startswith(f"{name}.") for other in layers)]
            taps.append(Tap(tuple(leaves), f"{{}}.{what}"))

    def run(model: nn.Module, images: Tensor) -> Any:
        features = model.get_submodule("backbone")(images)
        levels = list(features.values()) if isinstance(features, Mapping) else [features]
        model.get_submodule(head)(levels)
        return levels

    return InspectedModel(word, model, 3, model, tuple(taps), run)


# the layers of torchvision's heads that predict
PREDICTORS = {
    ".cls_logits.": "classification",
    ".classification_head.module_list.": "classification",
    ".bbox_reg.": "boxes",
    ".bbox_pred.": "boxes",
    ".regression_head.module_list.": "boxes",
}


def _called(word: str, module: str, name: str) -> nn.Module:
    """What a callable of a module, also one in the working folder, returns."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        made = found if isinstance(found, nn.Module) else found()
    except ModuleNotFoundError as error:
        raise ConfigError(f"no model {word!r}: no module {error.name!r}; need {WORDS}") from None
    except Exception as error:
        raise ConfigError(f"model {word!r} cannot be built: {first_line(error)}") from None
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(made, nn.Module):
        raise ConfigError(f"model {word!r}: expected a torch module, got {type(made).__name__}")
    return made


def _fill(word: str, module: nn.Module, tensors: Mapping[str, Tensor] | None) -> None:
    if tensors is None:
        return
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise ConfigError(f"model {word!r}: weights do not fit: {' '.join(str(error).split())[:200]}") from None


@contextmanager
def _reported(word: str) -> Iterator[None]:
    """Report any error of the model in one line that names it."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"model {word!r}: {first_line(error)}") from None


def _keeper(kept: list[tuple[str, Tensor]], name: str) -> Callable[..., None]:
    """A hook that keeps copies of the maps in a layer's output."""

    def keep(_: nn.Module, __: object, output: object) -> None:
        kept.extend((name, each.clone()) for each in tensors_in(output) if each.ndim == 4)

    return keep


def _level(cells: Tensor, side: int, letter: str) -> str:
    stride = round(side / max(cells.shape[-2:]))
    name = level_name(stride)
    return name.replace("P", letter) if name.startswith("P") else f"{letter}-{name}"


def _unique(names: Sequence[str]) -> list[str]:
    """The names; repeated ones are numbered from the second on.

    >>> _unique(["C2", "C3", "C3"])
    ['C2', 'C3', 'C3-2']
    """
    return [name if (n := names[:i].count(name)) == 0 else f"{name}-{n + 1}" for i, name in enumerate(names)]


def _prefixed(module: nn.Module, prefix: str) -> tuple[str, ...]:
    return tuple(name for name, _ in module.named_modules() if name.startswith(prefix))
