"""``detect backbone features``: pictures of a network's filters and maps on one image, or of two networks side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detect.cli.inspected import ModelOptions, is_run, read_model
from detect.cli.options import AsJson, Output, Resize
from detect.cli.output import busy, print_answer, save, show, show_table
from detect.errors import ConfigError, ImageError
from detect.files import is_folder

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from detect.data.resize import ResizeRule
    from detect.inspection.activations import LevelDifference
    from detect.inspection.models import InspectedModel
    from detect.report.feature_page import NetworkView

MOST_PIXELS = 2**22  # of a network's input; with more, maps of stride 4 of a ResNet alone take gigabytes
NAMED_SEEDS = (0, 1)  # of random weights: those of MODEL, those of OTHER


def features(
    model: ModelOptions,
    image: Annotated[Path, typer.Argument(help="One image file.")],
    against: Annotated[
        str | None, typer.Option(help="Another model, or MODEL with other weights: both are drawn side by side.")
    ] = None,
    against_weights: Annotated[Path | None, typer.Option(help="File of the other model's weights.")] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Name of a layer whose output to show instead of the levels; repeatable.")
    ] = None,
    heads: Annotated[bool, typer.Option("--heads", help="Show what the heads of a detector predict as well.")] = False,
    resize: Resize = None,
    channels: Annotated[int, typer.Option(min=1, max=400, help="Channels to draw of each map.")] = 24,
    filters: Annotated[int, typer.Option(min=0, max=50, help="Convolutions whose filters to draw.")] = 4,
    own_scales: Annotated[
        bool, typer.Option("--own-scales", help="Draw each of two networks in its own scale, not in one for both.")
    ] = False,
    output: Output = None,
    json: AsJson = False,
) -> None:
    """Show what a network computes on an image: filters, and feature maps by level.

    `detect backbone features runs/nuclei cell.png -o features` writes a page and PNG files: the first filters as colours,
    others as grids, and for each level the channels that vary most, in one scale, alone and over the image.

    `--against OTHER` draws the same channels of a second network beside them, in the same scale, and says how similar the
    maps of each level are: `detect backbone features lite0 cell.png --pretrained --against lite0`, with random weights.
    """
    from detect.inspection.activations import compare_levels
    from detect.report.feature_page import feature_columns, feature_page, feature_pictures, feature_rows

    picture = _open(image)
    first = _Network.read(model.model, resize, 0, weights=model.weights, pretrained=model.pretrained)
    networks = [first]
    if against or against_weights:
        other = _Network.read(against or model.model, resize, 1, weights=against_weights, pretrained=False)
        first.check_alike(other)
        networks.append(other)
    canvas = first.canvas(picture)
    views = [each.view(canvas, layer or [], heads=heads, filters=filters) for each in networks]
    differences = compare_levels(views[0].levels, views[1].levels) if len(views) > 1 else []
    if len(views) > 1 and not differences:
        raise ConfigError(f"{first.model.name} and {networks[1].model.name} have no map of the same name and size")
    if output:
        with busy("drawing"):
            pictures = feature_pictures(_as_picture(canvas), views, num_channels=channels, own_scales=own_scales)
            page = feature_page(views, pictures, differences, image_name=image.name)
        save(output, {**{f"{each.name}.png": each.png for each in pictures}, "report.html": page})
    rows = feature_rows(views, differences)
    print_answer(
        json, lambda: _content(views, differences, canvas), lambda: show_table(feature_columns(views), rows, left=False)
    )
    if not json and not output:
        show("-o FOLDER writes the pictures.")


@dataclass(frozen=True, eq=False)
class _Network:
    """A model and how it reads an image: resize rule, then mean and deviation, which a training run has inside."""

    model: InspectedModel
    resize: ResizeRule
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None

    @classmethod
    def read(cls, word: str, resize: str | None, number: int, **options: Any) -> _Network:
        """The model of a word; random weights are those of a fixed seed."""
        from detect.data.resize import parse_resize
        from detect.detectors.pretrained_weights import pretrained_normalization

        model = read_model(word, **options) if is_run(word) else read_model(word, seed=NAMED_SEEDS[number], **options)
        rule = parse_resize(resize) if resize else model.resize
        if is_run(word):
            return cls(model, rule, None)
        weights = "pretrained" if options["pretrained"] else getattr(options["weights"], "name", "random weights")
        named = replace(model, name=f"{word}, {weights}")
        return cls(named, rule, pretrained_normalization(word, model.in_channels))

    def check_alike(self, other: _Network) -> None:
        """Raise ConfigError if the same image is another input to the other network."""
        if str(self.resize) != str(other.resize):
            raise ConfigError(
                f"{self.model.name} reads images by {self.resize}, {other.model.name} by {other.resize}, so their cells "
                "show other pixels: give --resize for both"
            )

    def canvas(self, picture: Image.Image) -> Tensor:
        """The network's input before normalisation, of as many channels as it reads."""
        from detect.loading.image_ops import MODES, decode_image, resize_picture

        channels = self.model.in_channels
        if channels not in MODES:
            raise ConfigError(f"model {self.model.name!r} reads {channels} channels, which an image file does not have")
        canvas = resize_picture(decode_image(picture, channels=channels), self.resize).on_canvas(channels)
        if canvas[0].numel() > MOST_PIXELS:
            size = f"{canvas.shape[2]:,} x {canvas.shape[1]:,}"
            raise ConfigError(f"the input has {size} pixels, more than {MOST_PIXELS:,}: give --resize letterbox:1024")
        return canvas

    def view(self, canvas: Tensor, layers: list[str], *, heads: bool, filters: int) -> NetworkView:
        """The maps and filters to draw."""
        from detect.detectors.backbones import Normalise
        from detect.inspection.activations import filter_banks, level_maps
        from detect.report.feature_page import NetworkView

        channels = self.model.in_channels
        values = canvas.mean(dim=0, keepdim=True).expand(channels, -1, -1) if len(canvas) != channels else canvas
        if self.normalization is not None:
            mean, std = self.normalization
            values = Normalise(channels, mean=mean, std=std)(values[None])[0]
        levels = level_maps(self.model, values, layers)
        if not layers and not heads:
            levels = [level for level in levels if not level.of_head]
        return NetworkView(self.model.name, levels, filter_banks(self.model.module, filters) if filters else [])


def _open(path: Path) -> Image.Image:
    """One image, upright; a folder is refused."""
    from detect.data.images import open_image

    if is_folder(path):
        raise ImageError(f"{path}: a folder, where one image file is expected")
    return open_image(path.parent, path.name, exif="apply")


def _as_picture(canvas: Tensor) -> Image.Image:
    import numpy as np
    from PIL import Image

    values = (canvas[:3].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def _content(views: list[NetworkView], differences: list[LevelDifference], canvas: Tensor) -> dict[str, Any]:
    """The JSON object: the maps of the first network, and how similar the other's are."""
    from dataclasses import asdict

    levels = []
    for level in views[0].levels:
        channels, height, width = level.cells.shape
        own = {"name": level.name, "stride": level.stride, "channels": channels, "cells_hw": [height, width]}
        levels.append({**own, "constant": level.num_constant, "channels_by_strength": level.order.tolist()})
    return {
        "models": [view.name for view in views],
        "input_hw": list(canvas.shape[1:]),
        "levels": levels,
        "differences": [asdict(each) for each in differences],
    }
