"""The options that name a model to inspect, and the model that they name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detect.cli.output import note
from detect.errors import ConfigError
from detect.files import is_folder

if TYPE_CHECKING:
    from detect.inspection.models import InspectedModel

ModelWord = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="tiny, lite0, timm:NAME, torchvision:NAME (also its detectors), MODULE:CALLABLE that returns a torch module, "
        "or the folder or checkpoint of a training run.",
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """A model, and the weights it has."""

    model: ModelWord
    weights: Annotated[
        Path | None, typer.Option(help="File of the model's weights: a state dict or safetensors. Default: random.")
    ] = None
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="ImageNet's or COCO's weights: lite0's are installed, others downloaded."),
    ] = False

    def read(self) -> InspectedModel:
        """The model, in evaluation mode."""
        return read_model(self.model, weights=self.weights, pretrained=self.pretrained)


def is_run(word: str) -> bool:
    """Whether a word is the folder or the checkpoint of a training run, not a model's name."""
    path = Path(word)
    return any(path.glob("*.pt")) if is_folder(path) else path.suffix == ".pt"


def read_model(word: str, **options: Any) -> InspectedModel:
    """The model of a word, also of a training run, which has its own weights and resize rule.

    Options are those of :func:`detect.inspection.models.build_model`.
    """
    from detect.detectors.downloads import download_of
    from detect.inspection.models import build_model, model_of

    if not is_run(word):
        if options.get("pretrained") and not options.get("weights") and (download := download_of(word)):
            note(download)
        return build_model(word, **options)
    if any(options.values()):
        raise ConfigError(f"model {word!r}: a training run has its own weights; leave out --weights and --pretrained")
    from detect.training.checkpoints import load_detector

    trained = load_detector(word)
    return replace(model_of(word, trained.model), resize=trained.resize)
