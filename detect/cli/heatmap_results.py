"""What the ``detect heatmaps`` commands share: read landmarks, draw targets and pictures, pack shards."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from PIL import Image
from rich.console import Console

from detect.cli import output
from detect.data import CocoDataset, read_coco
from detect.data.images import open_image
from detect.evaluation.oracle import batches_of_one_size
from detect.keypoints.box_centers import sigma_from_size
from detect.keypoints.coordinates import SHIFTS
from detect.keypoints.keypoints import UNLABELLED, CocoKeypoints, box_keypoints, coco_keypoints
from detect.keypoints.targets import HeatmapTargets, render_heatmaps
from detect.report.pictures import contact_sheet, heatmap_overlay

BLANK = 70  # grey of the ground where no images are given
LEFT_OUT = ("outside", "ignored", "unlabelled")


def read_landmarks(
    files: Sequence[str], source: str, *, pixel_origin: str, merge: bool, strict: bool, list_findings: bool
) -> CocoKeypoints:
    """The points of the files: their keypoints, or the centres of their boxes."""
    with output.reading_bar() as on_progress:
        dataset = read_coco(list(files), keypoints=source == "keypoints", strict=strict, on_progress=on_progress)
    if list_findings:
        output.list_findings(dataset)
    return (
        box_keypoints(dataset, merge=merge)
        if source == "boxes"
        else coco_keypoints(dataset, pixel_origin=pixel_origin, merge=merge)
    )


@dataclass(frozen=True)
class Drawing:
    """How targets are drawn; ``options`` are keywords of :func:`render_heatmaps`."""

    stride: float
    sigma: float
    sigma_of_size: float | None
    options: Mapping[str, Any]

    def targets(self, found: CocoKeypoints, images: Sequence[int]) -> HeatmapTargets:
        """Of images of one size, as a batch."""
        batch = found.take(images)
        sigma: Any = self.sigma
        if self.sigma_of_size is not None:
            sigma = sigma_from_size(
                batch.sizes_wh, stride=self.stride, fraction=self.sigma_of_size, min_sigma=self.sigma
            )
        return render_heatmaps(
            batch.landmarks,
            found.dataset.images.wh[images[0], ::-1].tolist(),
            stride=self.stride,
            sigma=sigma,
            pixel_origin=batch.pixel_origin,
            ignore=batch.ignored if any(map(len, found.ignored)) else None,
            sizes=batch.sizes_wh,
            **self.options,
        )


def shards(
    found: CocoKeypoints, drawing: Drawing, *, per_shard: int, pack: str
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Description and content of one file after the other; the images of a file are of one size."""
    for number, images in enumerate(batches_of_one_size(found, per_shard)):
        targets = drawing.targets(found, images)
        about = {
            "file": f"targets-{number:05}.{pack}",
            "images": len(images),
            "map_hw": list(targets.heatmaps.shape[2:]),
            "drawn": len(targets.positives),
            **{kind: int(getattr(targets, kind).sum()) for kind in LEFT_OUT},
            "collisions": targets.num_collisions(),
        }
        yield about, _content(found, images, targets, drawing)


def _content(found: CocoKeypoints, images: Sequence[int], targets: HeatmapTargets, drawing: Drawing) -> dict[str, Any]:
    """Arrays, and plain values on how to read them."""
    dataset = found.dataset
    rows = found.take(images).rows[targets.instances]
    content = {
        "heatmaps": targets.heatmaps,
        "positives": targets.positives,
        "offsets": targets.offsets,
        "sizes": targets.sizes,
        "annotation_ids": dataset.instances.ids[rows],
        "image_ids": dataset.images.ids[list(images)],
        "file_names": np.array([dataset.images.file_names[row] for row in images]),
        "type_names": np.array(found.type_names),
        "stride": np.array(drawing.stride),
        "pixel": np.array(found.pixel_origin),
    }
    return content | ({} if targets.weights is None else {"weights": targets.weights})


def packed_shard(content: Mapping[str, Any], pack: str) -> bytes:
    """A file for ``numpy.load`` or ``torch.load``, both of which read it without running any code in it."""
    packed = io.BytesIO()
    if pack == "npz":
        np.savez_compressed(packed, **content)
    else:
        torch.save({name: _tensor_or_text(value) for name, value in content.items()}, packed)
    return packed.getvalue()


def _tensor_or_text(value: ndarray) -> Any:
    return value.tolist() if value.dtype.kind == "U" else torch.from_numpy(value)


def overlays(found: CocoKeypoints, drawing: Drawing, folder: Path | None, count: int) -> bytes:
    """A sheet of images with their maps, evenly spread over the dataset, as PNG."""
    with_points = np.unique(np.asarray(found.landmarks.image))
    chosen = with_points[np.linspace(0, len(with_points) - 1, min(count, len(with_points))).round().astype(int)]
    pictures = []
    for row in chosen.tolist():
        width, height = found.dataset.images.wh[row].tolist()
        name = found.dataset.images.file_names[row]
        image = open_image(folder, name, image_wh=(width, height)) if folder else Image.new("L", (width, height), BLANK)
        targets, own = drawing.targets(found, [row]), found.take([row]).landmarks
        points = np.asarray(own.points)[np.asarray(own.visibility) != UNLABELLED] + SHIFTS[found.pixel_origin]
        pictures.append(
            heatmap_overlay(image, np.asarray(targets.heatmaps[0]).max(axis=0), points, stride=drawing.stride)
        )
    sheet = io.BytesIO()
    contact_sheet(pictures).save(sheet, "PNG")
    return sheet.getvalue()


def index_of(found: CocoKeypoints, drawing: Drawing, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What ``targets.json`` says."""
    kinds = ("images", "drawn", *LEFT_OUT, "collisions")
    return {
        "type_names": list(found.type_names),
        "pixel": found.pixel_origin,
        "stride": drawing.stride,
        "sigma": drawing.sigma,
        "sigma_of_size": drawing.sigma_of_size,
        **drawing.options,
        **{kind: sum(each[kind] for each in files) for kind in kinds},
        "ignored_regions": sum(map(len, found.ignored)),
        "refused": len(found.dataset.invalid),
        "odd": len(found.dataset.suspicious),
        "files": list(files),
    }


def note_older_shards(folder: Path, files: Sequence[Mapping[str, Any]]) -> None:
    """Say which shards of another run are left: a pattern such as targets-*.npz would take them for new ones."""
    older = sorted({path.name for path in folder.glob("targets-*.*")} - {each["file"] for each in files})
    if older:
        output.note(f"warning: {folder} also holds {len(older):,} files of another run, such as {older[0]}")


def print_index(index: Mapping[str, Any], dataset: CocoDataset, console: Console) -> None:
    """What was drawn and what was not, for people."""
    output.print_findings(dataset, console)
    left_out = ", ".join(f"{index[kind]:,} {kind}" for kind in LEFT_OUT if index[kind])
    maps = "1 map" if len(index["type_names"]) == 1 else f"{len(index['type_names'])} maps"
    console.print(
        f"{index['drawn']:,} points drawn in {index['images']:,} images, {maps} each"
        f"{f'; left out: {left_out}' if left_out else ''}; {index['collisions']:,} share the cell of another; "
        f"{index['ignored_regions']:,} ignored regions"
    )
