"""The files of ``detect heatmaps render``: target maps in shards, a sheet of pictures, an index."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detect.cli.detectors import spread_evenly
from detect.cli.output import print_findings, show
from detect.conventions import ORIGIN_SHIFTS
from detect.data import CocoDataset
from detect.data.images import ImageFiles
from detect.evaluation.oracle import batches_of_one_size, check_map_sizes
from detect.keypoints.coco_keypoints import CocoKeypoints
from detect.keypoints.keypoints import UNLABELLED
from detect.keypoints.orientations import NO_ORIENTATION, PER_TURN
from detect.keypoints.targets import HeatmapTargets, render_heatmaps, sigma_from_size
from detect.report.pictures import contact_sheet, heatmap_overlay
from detect.wording import listed, plural

BLANK = 70  # grey level of the background if no images are given
NOT_DRAWN = ("outside", "ignored", "unlabelled")


@dataclass(frozen=True)
class TargetFiles:
    """The landmarks of a dataset as files of target maps.

    ``options`` are keywords of :func:`render_heatmaps`; with ``sigma_of_size``, ``sigma`` is the least one.
    """

    landmarks: CocoKeypoints
    stride: float
    sigma: float
    sigma_of_size: float | None
    options: Mapping[str, Any]
    unlabelled: str = "ignore"

    def __post_init__(self) -> None:
        check_map_sizes(self.landmarks, self.stride)

    @cached_property
    def num_ignored_keypoints(self) -> int:
        """Keypoints without a label whose object's box, or whole map, is ignored."""
        of_images = sum(map(len, self.landmarks.ignored)) * self.landmarks.landmarks.num_types
        return sum(map(len, self.landmarks.ignored_regions(self.unlabelled))) - of_images

    def targets(self, images: Sequence[int]) -> HeatmapTargets:
        """The targets of images of one size, as a batch."""
        batch = self.landmarks.take(images)
        sigma: Any = self.sigma
        if self.sigma_of_size is not None:
            options = {"stride": self.stride, "fraction": self.sigma_of_size, "min_sigma": self.sigma}
            sigma = sigma_from_size(batch.sizes_wh, **options)
        image_hw = self.landmarks.dataset.images.wh[images[0], ::-1].tolist()
        regions = batch.ignored_regions(self.unlabelled)
        ignore = regions if self.num_ignored_keypoints or any(map(len, self.landmarks.ignored)) else None
        own = {"stride": self.stride, "pixel_origin": batch.pixel_origin, "sizes": batch.sizes_wh, **self.options}
        if batch.landmarks.angles is not None:
            own["angles"] = np.asarray(batch.landmarks.angles) * PER_TURN[batch.orientation]
        return render_heatmaps(batch.landmarks, image_hw, sigma=sigma, ignore=ignore, **own)

    def shards(self, *, per_shard: int, pack: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Description and content of one file after the other; the images of a file have one size."""
        dataset = self.landmarks.dataset
        for number, images in enumerate(batches_of_one_size(self.landmarks, per_shard)):
            targets = self.targets(images)
            about = {
                "file": f"targets-{number:05}.{pack}",
                "images": len(images),
                "map_hw": list(targets.heatmaps.shape[2:]),
                "drawn": len(targets.positives),
                **{kind: int(getattr(targets, kind).sum()) for kind in NOT_DRAWN},
                "same_cell": targets.num_same_cell(),
                **self._of_angles(targets),
            }
            rows = self.landmarks.take(images).rows[targets.instances]
            content = {
                **{name: getattr(targets, name) for name in ("heatmaps", "positives", "offsets", "sizes")},
                "annotation_ids": dataset.instances.ids[rows],
                "image_ids": dataset.images.ids[list(images)],
                "file_names": np.array([dataset.images.file_names[row] for row in images]),
                "type_names": np.array(self.landmarks.type_names),
                "stride": np.array(self.stride),
                "pixel_origin": np.array(self.landmarks.pixel_origin),
            }
            for name in ("weights", "orientations"):
                content |= {} if getattr(targets, name) is None else {name: getattr(targets, name)}
            yield about, content

    def _of_angles(self, targets: HeatmapTargets) -> dict[str, int]:
        """The number of drawn points whose angle is not known, if they have orientations."""
        if targets.orientations is None:
            return {}
        return {"without_angle": int(np.isnan(np.asarray(targets.orientations)).any(axis=1).sum())}

    def overlays(self, folder: Path | None, count: int) -> bytes:
        """A sheet of images with their maps, evenly spread over the dataset, as PNG."""
        found, images = self.landmarks, self.landmarks.dataset.images
        pictures = []
        for row in spread_evenly(np.unique(np.asarray(found.landmarks.image)), count):
            width, height = images.wh[row].tolist()
            image = Image.new("L", (width, height), BLANK)
            if folder:
                image = ImageFiles(found.dataset, folder).open(row)
            targets, own = self.targets([row]), found.take([row]).landmarks
            is_labelled = np.asarray(own.visibility) != UNLABELLED
            points = np.asarray(own.points)[is_labelled] + ORIGIN_SHIFTS[found.pixel_origin]
            heatmap = np.asarray(targets.heatmaps[0]).max(axis=0)
            directed = {} if own.angles is None else {"angles": np.asarray(own.angles)[is_labelled]}
            two_sided = PER_TURN.get(found.orientation) == 2
            pictures.append(
                heatmap_overlay(image, heatmap, points, stride=self.stride, two_sided=two_sided, **directed)
            )
        sheet = io.BytesIO()
        contact_sheet(pictures).save(sheet, "PNG")
        return sheet.getvalue()

    def index(self, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The content of ``targets.json``."""
        oriented = self.landmarks.orientation != NO_ORIENTATION
        kinds = ("images", "drawn", *NOT_DRAWN, "same_cell", *(("without_angle",) if oriented else ()))
        return {
            "type_names": list(self.landmarks.type_names),
            "pixel_origin": self.landmarks.pixel_origin,
            **{name: getattr(self, name) for name in ("stride", "sigma", "sigma_of_size")},
            **self.options,
            "unlabelled_keypoints": self.unlabelled,
            "orientation": self.landmarks.orientation,
            **{kind: sum(each[kind] for each in files) for kind in kinds},
            "ignored_regions": sum(map(len, self.landmarks.ignored)),
            "ignored_keypoints": self.num_ignored_keypoints,
            **{kind: len(getattr(self.landmarks.dataset, kind)) for kind in ("invalid", "suspicious")},
            "files": list(files),
        }


def packed_shard(content: Mapping[str, Any], pack: str) -> bytes:
    """A file for ``numpy.load`` or ``torch.load``; both read it without running code from it."""
    packed = io.BytesIO()
    if pack == "npz":
        np.savez_compressed(packed, **content)
    else:
        texts = {name: value.tolist() for name, value in content.items() if value.dtype.kind == "U"}
        numbers = {name: torch.from_numpy(value) for name, value in content.items() if name not in texts}
        torch.save({**numbers, **texts}, packed)
    return packed.getvalue()


def print_index(index: Mapping[str, Any], dataset: CocoDataset) -> None:
    """Print how many points were drawn, and how many were not and why."""
    print_findings(dataset)
    left_out = ", ".join(f"{index[kind]:,} {kind}" for kind in NOT_DRAWN if index[kind])
    names, without = index["type_names"], index.get("without_angle")
    maps = f"{plural(len(names), 'map')} each ({listed(names)})"
    parts = [
        f"{plural(index['drawn'], 'point')} drawn in {plural(index['images'], 'image')}, {maps}",
        f"not drawn: {left_out}" if left_out else "",
        f"{index['same_cell']:,} share the cell of another",
        plural(index["ignored_regions"], "ignored region"),
        f"{without:,} without an angle" if without else "",
        f"{plural(index['ignored_keypoints'], 'unlabelled keypoint')} ignored" if index["ignored_keypoints"] else "",
    ]
    show("; ".join(filter(None, parts)))
