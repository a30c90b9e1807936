"""Options that several ``detect anchors`` commands take, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

RESIZE_HELP = (
    "The detector's resize rule: none, stretch:WxH, letterbox:S (YOLO), shortest:S:MAX (torchvision; add :detectron2 or "
    ":mmdet for their rounding), tiles:S:OVERLAP. Anchors are fitted and scored in pixels after it."
)


def _use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the fields of a configuration file the defaults of the command's options."""
    if path is not None and not context.resilient_parsing:
        from detect.config import FitConfig, ScoreConfig, read_config

        models: dict[str, Any] = {"fit": FitConfig, "score": ScoreConfig}
        context.default_map = read_config(path, models[str(context.info_name)])
    return path


# spelled out, so that --help and shell completion need not import what implements them; a test holds them equal to it
Method = Literal["optimal", "kmeans", "euclidean", "log-euclidean", "mixture"]
Layout = Literal["free", "octaves", "grid", "level-grids"]
Balance = Literal["none", "category", "size"]
Covariance = Literal["full", "tied", "diag", "spherical"]
Shrinkage = Literal["none", "ledoit-wolf", "oas"]
Format = Literal["torchvision", "detectron2", "mmdet", "mmdet-yolo", "yolov5", "ultralytics-yaml", "json"]
Grid = Literal["exact", "torchvision", "detectron2", "mmdet", "effdet"]
Assigner = Literal["max-iou", "atss"]

GridOption = Annotated[
    Grid, typer.Option(help="Whose way to lay anchors on feature maps: its strides, and whether corners are rounded.")
]
Images = Annotated[
    Path | None, typer.Option("--images", help="Folder of the images: the page then shows the worst covered boxes.")
]
Files = Annotated[list[str], typer.Argument(help="COCO annotation files (.json, .json.gz) or patterns: one dataset.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", callback=_use_config, is_eager=True, help="YAML with any of these options as fields."),
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write to; it is made if need be.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Strict = Annotated[bool, typer.Option(help="Make the first annotation that cannot be used an error.")]
Findings = Annotated[bool, typer.Option("--findings", help="List everything that was refused or is odd.")]
