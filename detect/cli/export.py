"""``detect export``: a trained detector as a file for other programs."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detect.cli.options import AsJson, Checkpoint
from detect.cli.output import cannot_write, note, print_json, save
from detect.errors import ConfigError, ConvertError

if TYPE_CHECKING:
    from detect.training.checkpoints import TrainedDetector

Target = Literal["onnx", "torchvision"]


def export(
    checkpoint: Checkpoint,
    to: Annotated[
        Target, typer.Option(help="An ONNX file, or weights with the names of torchvision's RetinaNet.")
    ] = "onnx",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the files.")] = Path("exported"),
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Image files and folders to verify the ONNX file on. Default: the run's validation images."),
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of images to verify on.")] = 16,
    max_candidates: Annotated[
        int,
        typer.Option(
            min=1, max=100_000, help="Boxes per image kept before NMS; a low score threshold needs more of them."
        ),
    ] = 1000,
    json: AsJson = False,
) -> None:
    """Export a detector, and verify that the export finds what the detector finds.

    `detect export runs/nuclei --to onnx -o exported` writes `detector.onnx`, which takes a batch of images in 0..1, of the
    size of those it is verified on, and returns boxes, scores and classes (for landmarks: heatmaps). onnxruntime runs it on
    real images first; if a result differs from PyTorch's, nothing is written. `detector.json` holds the class names and the
    resize rule.
    """
    from detect.cli.detectors import load_on

    trained = load_on(checkpoint, "cpu")
    if to == "onnx":
        outcome = _to_onnx(trained, output, images, num_images, max_candidates)
    else:
        outcome = _to_torchvision(trained, output)
    categories = zip(trained.category_ids, trained.category_names, strict=True)
    about = {
        "format": to,
        "checkpoint": trained.name,
        "task": trained.task,
        "classes": [{"category_id": category, "name": name} for category, name in categories],
        "landmarks": list(trained.labels.type_names),
        "resize": str(trained.resize),
        "channels": trained.channels,
        "stride": None if trained.task == "boxes" else trained.config.model.stride,
        **outcome,
    }
    save(output, {"detector.json": dumps(about, indent=2, allow_nan=False) + "\n"})
    if json:
        print_json(about)


def _to_onnx(
    trained: TrainedDetector, output: Path, paths: list[Path] | None, num_images: int, max_candidates: int
) -> dict[str, Any]:
    from detect.cli.detectors import open_images
    from detect.detectors.onnx import export_onnx
    from detect.loading.dataset import collate
    from detect.loading.image_files import dataset_from_files
    from detect.training.inference import batches_by_size
    from detect.training.inputs import read_validation, validation_folder

    if paths:
        data = open_images(trained, *dataset_from_files(paths, trained.labels))
    elif validation := read_validation(trained.config):
        data = open_images(trained, validation, validation_folder(trained.config))
    else:
        raise ConfigError("--images: needed, since the run has no validation data")
    # the first images whose network input has the size of the first one's
    batch = collate([data[place] for place in batches_by_size(data, num_images)[0]])
    path = output / "detector.onnx"
    try:
        check = export_onnx(trained.model, path, batch.images, batch.image_hw, max_candidates=max_candidates)
    except OSError as error:
        raise cannot_write(error, path) from None
    note(f"wrote {path}")
    note(
        f"verified on {check.num_images} images: {check.num_found:,} results of both, positions at most "
        f"{check.position_px:.2g} px apart, scores {check.score:.2g}"
    )
    if not check.num_found:
        note("warning: nothing was found in these images, so nothing was verified: give others with --images")
    return {
        "input_hw": list(batch.images.shape[2:]),
        "checked_images": check.num_images,
        "found": check.num_found,
        "largest_difference_px": check.position_px,
        "largest_difference_score": check.score,
    }


def _to_torchvision(trained: TrainedDetector, output: Path) -> dict[str, Any]:
    import io

    import torch

    from detect.detectors.retinanet import RetinaNetDetector
    from detect.interop.torchvision import torchvision_weights

    if not isinstance(trained.model, RetinaNetDetector):
        raise ConvertError("torchvision has no landmark detector with heatmaps: export to ONNX")
    converted = torchvision_weights(trained.model)
    stream = io.BytesIO()
    torch.save(converted.state, stream)
    save(output, {"torchvision.pt": stream.getvalue()})
    for line in converted.notes:
        note(line)
    return {"notes": list(converted.notes)}
