"""``detect export``: a trained detector for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

    from detect.training.checkpoints import TrainedDetector

Target = Literal["onnx", "torchvision"]


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run's folder, of which the best is taken.")],
    to: Annotated[
        Target, typer.Option(help="One ONNX file, or weights as torchvision's RetinaNet names them.")
    ] = "onnx",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the files.")] = Path("exported"),
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Image files and folders to check the ONNX file on; by default the run's validation images."),
    ] = None,
    max_candidates: Annotated[
        int,
        typer.Option(
            min=1,
            max=100_000,
            help="Of boxes: so many of an image meet in suppression; low score thresholds ask for more.",
        ),
    ] = 1000,
    num_images: Annotated[int, typer.Option(min=1, max=10_000, help="On how many at most.")] = 16,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Export a detector, and check that the export finds what the detector finds.

    `detect export runs/nuclei --to onnx -o exported` writes `detector.onnx`, from images in 0..1 to boxes, scores and
    classes (of landmarks to heatmaps), for images of the size of those it is checked on, any number at once. It is run by
    onnxruntime on real images: where it finds anything else than PyTorch does, nothing is written. `detector.json` tells
    the names of classes and how images are resized.
    """
    from json import dumps

    from detect.cli.detector import load_on
    from detect.cli.output import print_json, save

    trained = load_on(checkpoint, "cpu")
    told = (
        _to_onnx(trained, output, images, num_images, max_candidates)
        if to == "onnx"
        else _to_torchvision(trained, output)
    )
    about = {"format": to, "checkpoint": trained.name, **_description(trained), **told}
    save(output, {"detector.json": dumps(about, indent=2, allow_nan=False) + "\n"})
    if json:
        print_json(about)


def _description(trained: TrainedDetector) -> dict[str, Any]:
    """What one has to know to use the export."""
    categories = zip(trained.category_ids, trained.category_names, strict=True)
    return {
        "task": trained.task,
        "classes": [{"category_id": category, "name": name} for category, name in categories],
        "landmarks": list(trained.labels.type_names),
        "resize": str(trained.resize),
        "channels": trained.channels,
        "stride": None if trained.task == "boxes" else trained.config.model.stride,
    }


def _to_onnx(
    trained: TrainedDetector, output: Path, paths: list[Path] | None, num_images: int, max_candidates: int
) -> dict[str, Any]:
    from detect.cli.output import note
    from detect.detectors.onnx import export_onnx
    from detect.errors import OutputError

    images, image_hw = _check_images(trained, paths, num_images)
    path = output / "detector.onnx"
    try:
        check = export_onnx(trained.model, path, images, image_hw, max_candidates=max_candidates)
    except OSError as error:
        raise OutputError(f"{error.filename or path}: cannot be written: {error.strerror or error}") from None
    note(f"wrote {path}")
    note(
        f"checked on {check.num_images} images: {check.num_found:,} found by both, boxes or points at most "
        f"{check.position_px:.2g} px apart, scores {check.score:.2g}"
    )
    if not check.num_found:
        note("warning: nothing is found in these images, so they tell nothing: give others with --images")
    return {
        "input_hw": list(images.shape[2:]),
        "checked_images": check.num_images,
        "found": check.num_found,
        "largest_difference_px": check.position_px,
        "largest_difference_score": check.score,
    }


def _check_images(
    trained: TrainedDetector, paths: list[Path] | None, num_images: int
) -> tuple[Float[Tensor, "b d h w"], Int64[Tensor, "b 2"]]:
    """The first images that have the first one's size in the network's input."""
    from detect.errors import ConfigError
    from detect.loading.dataset import DetectionData, collate
    from detect.loading.image_files import dataset_from_files
    from detect.training.inference import batches_by_size
    from detect.training.inputs import read_validation, validation_folder

    if paths:
        dataset, folder = dataset_from_files(paths, trained.labels)
    else:
        validation, folder = read_validation(trained.config), validation_folder(trained.config)
        if validation is None:
            raise ConfigError("--images: needed, since the run has no data to validate on")
        dataset = validation
    data = DetectionData(
        dataset,
        folder,
        resize=trained.resize,
        channels=trained.channels,
        on_broken=trained.config.data.on_broken,
        category_ids=trained.category_ids,
    )
    batch = collate([data[place] for place in batches_by_size(data, num_images)[0]])
    return batch.images, batch.image_hw


def _to_torchvision(trained: TrainedDetector, output: Path) -> dict[str, Any]:
    import io

    import torch

    from detect.cli.output import note, save
    from detect.detectors.retinanet import RetinaNetDetector
    from detect.errors import ConvertError
    from detect.interop.torchvision_weights import torchvision_weights

    if not isinstance(trained.model, RetinaNetDetector):
        raise ConvertError("torchvision has no detector of landmarks in heatmaps: export it to ONNX")
    converted = torchvision_weights(trained.model)
    stream = io.BytesIO()
    torch.save(converted.state, stream)
    save(output, {"torchvision.pt": stream.getvalue()})
    for line in converted.notes:
        note(line)
    return {"notes": list(converted.notes)}
