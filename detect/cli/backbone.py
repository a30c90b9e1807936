"""``detect backbone``: what a network's maps can see, and what its layers compute."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from detect.cli import backbone_features, options
from detect.cli.config import register
from detect.cli.inspected import ModelOptions
from detect.cli.output import note, print_answer, save

app = typer.Typer(
    name="backbone",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Backbones and detectors: fields of their maps, and their layers.",
)


def profile(
    *,
    target: ModelOptions,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA]", help="Labels, as other commands take them: objects beside the levels."),
    ] = None,
    resize: options.Resize = None,
    images: options.Images = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a layer to profile in place of the maps, as `detect backbone layers` lists; repeatable."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=8, max=4096, help="Side of the image. Default: so large that fields do not reach its border."),
    ] = None,
    effective: Annotated[
        bool, typer.Option(help="Measure effective fields, by running the model forward and backward for each map.")
    ] = True,
    output: options.Output = None,
    json: options.AsJson = False,
) -> None:
    """Tell what the units of each level can see, and which objects each level suits.

    `detect backbone profile torchvision:retinanet_resnet50_fpn instances.json --resize shortest:800:1333 -o profile` gives
    the stride, shortest path, field and effective field (95 % of the influence, by gradients) of C3 to C5, P3 to P7 and of
    what the head predicts on each; then the share of the objects that each effective field spans, and the objects that no
    level suits. Fields are exact for branches, pyramids, dilated, transposed and depthwise convolutions; squeeze-and-
    excitation, attention and norms over the image are said to see the whole image. With -o it writes a page and the answer
    as JSON.
    """
    from detect.anchors.instances import ResizedInstances
    from detect.cli.backbone_results import print_profile, profile_object
    from detect.cli.output import json_text
    from detect.data.resize import parse_resize
    from detect.inspection.level_profile import profile_model, profile_objects

    given = parse_resize(resize) if resize else None  # before a long read, not after it
    model = target.read()
    instances = None
    if files:
        instances = ResizedInstances.of(options.DatasetFiles(files, images=images).read(), given or model.resize)
        instances.require_boxes()
    found = profile_model(model, size=size, layers=layer or (), effective=effective)
    objects = None if instances is None else profile_objects(found, instances)
    print_answer(json, partial(profile_object, found, objects), partial(print_profile, found, objects))
    if output:
        from detect.report.field_page import field_page

        answer = json_text(profile_object(found, objects), indent=1) + "\n"
        save(output, {"profile.json": answer, "report.html": field_page(found, objects)})
    elif not json:
        note("note: -o FOLDER writes a page with the fields over the layers and the objects beside the levels")


def layers(
    *,
    target: ModelOptions,
    size: Annotated[
        str, typer.Option(metavar="[CHANNELSx]HEIGHTxWIDTH", help="Size of the image, such as 224x224 or 1x28x28.")
    ] = "224x224",
    layer: Annotated[
        list[str] | None, typer.Option(help="Name of a layer, or of a part of the network, to list alone; repeatable.")
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say how each output size follows, and why filters are as deep as they are."),
    ] = False,
    output: options.Output = None,
    json: options.AsJson = False,
) -> None:
    """List every layer: shapes, kernel, parameters with their formula, operations, activation memory, and totals.

    `detect backbone layers torchvision:resnet50 --explain` lists layers in the order in which they run. Operations (FLOPs)
    are two for a multiplication and an addition, of convolutions, matrix products and attention, as PyTorch's
    FlopCounterMode counts them. Activations are the outputs of all layers for one image, in the model's precision.
    """
    from detect.cli.backbone_results import layers_csv, layers_object, parse_image_size, print_layers
    from detect.inspection.layers import list_layers, of_part

    model = target.read()
    table = list_layers(model.module, parse_image_size(size, model.in_channels), run=model.run)
    shown = [each for name in layer for each in of_part(table, name)] if layer else list(table.layers)
    print_answer(json, partial(layers_object, table, shown), partial(print_layers, table, shown, explain=explain))
    if output:
        save(output, {"layers.csv": layers_csv(shown)})


for each in (profile, layers, backbone_features.features):
    register(app, each)
