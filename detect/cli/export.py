"""``detect export``: a trained detector as a file for other programs."""

from __future__ import annotations

from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detect.cli.options import AsJson, Checkpoint, note_fetched
from detect.cli.output import cannot_write, note, print_json, save
from detect.errors import ConfigError, ConvertError
from detect.wording import plural

if TYPE_CHECKING:
    from detect.loading.dataset import DetectionData
    from detect.training.checkpoints import TrainedDetector

Target = Literal["onnx", "torchvision"]

KEEPS_SIZES = ("none", "tiles")  # resize rules after which images have sizes of their own


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
    original: Annotated[
        bool,
        typer.Option(
            "--original",
            help="The ONNX file is given each image's place on the canvas and returns results in pixels of the original "
            "image, as `detect predict` writes them.",
        ),
    ] = False,
    max_candidates: Annotated[
        int,
        typer.Option(
            min=1,
            max=100_000,
            help="Boxes per image kept before NMS, or points per image; a low score threshold needs more of them.",
        ),
    ] = 1000,
    json: AsJson = False,
) -> None:
    """Export a detector, and verify that the export finds what the detector finds.

    `detect export runs/nuclei --original -o exported` writes `detector.onnx`, which takes a batch of images and returns
    boxes, scores and classes (for landmarks: points, scores, keypoint types and, with data.orientation, angles). onnxruntime
    runs it on real images first; if a result differs from PyTorch's, nothing is written. After `shortest:S:MAX` images may
    have any size, after other rules that of the images it is verified on.

    `detector.json` holds what a program needs to run it: `inputs` and `outputs` (name, dtype, shape, meaning), `image`
    (channels and their order, range), `resize` (the rule in numbers and words, with padding and interpolation),
    `coordinates` (frame, pixel convention, the way back to the original), `thresholds`, `classes`, `keypoint_types`,
    `stride` of the heatmaps, `why_fixed_size` and `verified`. examples/run_onnx.py reads it, with NumPy, Pillow and
    onnxruntime.
    """
    from detect.cli.detectors import load_on

    trained = load_on(checkpoint, "cpu")
    if to == "onnx":
        outcome = _to_onnx(trained, output, images, num_images, max_candidates, original)
    elif original:
        raise ConfigError("--original: only for --to onnx")
    else:
        outcome = _to_torchvision(trained, output)
    categories = zip(trained.category_ids, trained.category_names, strict=True)
    about = {
        "format": to,
        "checkpoint": trained.name,
        "task": trained.task,
        "classes": [{"category_id": category, "name": name} for category, name in categories],
        **outcome,
    }
    save(output, {"detector.json": dumps(about, indent=2, allow_nan=False) + "\n"})
    if json:
        print_json(about)


def _to_onnx(
    trained: TrainedDetector,
    output: Path,
    paths: list[Path] | None,
    num_images: int,
    max_candidates: int,
    original: bool,
) -> dict[str, Any]:
    from detect.cli.detector_json import describe_export
    from detect.cli.detectors import open_images
    from detect.detectors.onnx import export_onnx
    from detect.loading.image_files import dataset_from_files
    from detect.training.inputs import read_validation, validation_files, validation_folder

    note_fetched(() if paths else validation_files(trained.config))
    if paths:
        dataset, folder = dataset_from_files(paths, trained.labels)
    elif validation := read_validation(trained.config):
        dataset, folder = validation, validation_folder(trained.config)
    else:
        raise ConfigError("--images: needed, since the run has no validation data")
    data = open_images(trained, dataset, folder, on_broken="skip")  # any that can be read will do
    path = output / "detector.onnx"
    options = {"max_candidates": max_candidates, **_inputs(trained, data, num_images, original)}
    try:
        check = export_onnx(trained.model, path, **options)
    except OSError as error:
        raise cannot_write(error, path) from None
    if trained.resize.name in KEEPS_SIZES:
        check = replace(check, why_fixed=f"data.resize={trained.resize} does not bring images to one size")
    note(f"wrote {path}")
    if check.why_fixed:
        note(f"all images must have the size of the first one verified on, after resizing: {check.why_fixed}")
    note(
        f"verified on {plural(check.num_images, 'image')}: {check.num_found:,} results of both, positions at most "
        f"{check.position_px:.2g} px apart, scores {check.score:.2g}"
        f"{f', angles {check.angle_deg:.2g} degrees' if any(each.name == 'angles' for each in check.outputs) else ''}"
    )
    if not check.num_found:
        note("warning: nothing was found in these images, so nothing was verified: give others with --images")
    return describe_export(trained, check, max_candidates=max_candidates, original=original)


def _inputs(trained: TrainedDetector, data: DetectionData, num_images: int, original: bool) -> dict[str, Any]:
    """Arguments of the export: the first images, of one network input size unless the file is for several."""
    import torch

    from detect.data.resize import SIZE_DIVISOR
    from detect.detectors.onnx import Originals
    from detect.training.inference import batches_by_size

    any_size = trained.resize.name == "shortest"
    places = list(range(min(len(data), num_images))) if any_size else batches_by_size(data, num_images)[0]
    samples = [data[place] for place in places]
    image_wh = data.dataset.images.wh[[sample.image_row for sample in samples]]
    moved = trained.resize.resize_images(image_wh)
    corners = [moved.offset_xy, moved.offset_xy + image_wh * moved.scale_xy]
    content = torch.cat(list(map(torch.from_numpy, corners)), dim=1)
    originals = Originals(content, torch.from_numpy(image_wh[:, ::-1].copy()), trained.config.data.pixel_origin)
    return {
        "images": [sample.image for sample in samples],
        "image_hw": torch.stack([sample.image_hw for sample in samples]),
        "originals": originals if original else None,
        "size_multiple": SIZE_DIVISOR if any_size else None,
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
