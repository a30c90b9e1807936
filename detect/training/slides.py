"""A landmark detector over a slide larger than memory, tile by tile.

If every heatmap cell depends on pixels near it alone, which is measured (:mod:`detect.detectors.input_reach`), a tile is
read with all pixels that its cells depend on, at a multiple of the network's coarsest stride. Its heatmap is then that of
the whole slide, up to rounding, and so are the points (:mod:`detect.keypoints.tiled_peaks`). A network with an operation
over the whole image, such as a group norm, has no such answer for a part: its tiles are images of their own, which overlap,
and what two of them find is merged (:mod:`detect.training.slicing`).

A tile of one colour gives what the first such tile of its size gave: it is not computed again.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy import ndarray
from PIL import Image
from torch import Tensor

from detect.data.coco_reader import Progress
from detect.data.resize import ResizeRule, parse_resize
from detect.data.volumes import ArrayFile
from detect.detectors.input_reach import InputReach, measure_reach
from detect.detectors.landmarks import PIXEL_ORIGIN, LandmarkDetector
from detect.errors import ConfigError, ImageError
from detect.keypoints.peaks import Peaks
from detect.keypoints.tiled_peaks import Journal, Window, find_tiled_peaks
from detect.loading.image_ops import decode_image
from detect.training.checkpoints import TrainedDetector
from detect.training.slicing import MERGED_CELLS, TileGrid, merge_near

SAME_SCALE = ("none", "tiles")  # resize rules that keep the scale of pixels
MAX_KNOWN = 64  # answers of tiles of one colour


@dataclass(frozen=True, eq=False)
class SlideDetector:
    """A trained detector, a slide, and tiles of ``tile_px``; ``reach`` is None if cells depend on a whole image."""

    model: LandmarkDetector
    channels: int
    slide: ArrayFile
    tile_px: int
    overlap_px: int
    reach: InputReach | None
    device: str = "cpu"
    known: dict[Hashable, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, trained: TrainedDetector, slide: ArrayFile, *, tiles: ResizeRule | str, device: str = "cpu"
    ) -> SlideDetector:
        """Check that the detector takes the slide, and measure its reach; ``tiles`` is a rule ``tiles:S:OVERLAP``.

        Raises:
            ConfigError: the run is for boxes, or for another scale than the slide's.
            ImageError: the slide is a volume, or has other channels than the run reads.
        """
        model = trained.model
        if not isinstance(model, LandmarkDetector):
            raise ConfigError(
                f"{trained.name}: a run for boxes: slides are for landmarks; cut the slide into images, or use --slice on "
                "images that fit into memory"
            )
        if trained.resize.name not in SAME_SCALE:
            raise ConfigError(
                f"{trained.name}: its images are resized by {trained.resize}, and a slide is read at its own scale: train "
                "with data.resize=none"
            )
        if "z" in slide.axes:
            raise ImageError(f"{slide.path}: a volume, with axes {slide.axes!r}: the network reads images of two axes")
        grey_of_colours = slide.dtype == np.uint8 and slide.num_channels in {3, 4}
        if slide.num_channels not in {1, trained.channels} and not grey_of_colours:
            raise ImageError(f"{slide.path}: {slide.num_channels} channels, the run reads {trained.channels}")
        slide.check_maps()
        size, overlap = parse_resize(tiles).sizes
        reach = measure_reach(model)
        if reach is not None:
            size = -(-size // reach.multiple) * reach.multiple
        return cls(model, trained.channels, slide, size, overlap, reach, device)

    def find(self, *, journal: Journal | None = None, on_progress: Progress | None = None) -> Peaks:
        """The points of the slide, with ``cells`` in pixel indices, by type and falling score."""
        if self.reach is None:
            return self._find_by_tile(journal, on_progress)
        stride, (height, width) = self.model.stride, self.slide.extents
        tile = [self.tile_px // stride] * 2
        options: dict[str, Any] = {"journal": journal, "on_progress": on_progress, "threshold": self.model.threshold}
        extents, num_types = (-(-height // stride), -(-width // stride)), self.model.head.num_types
        found = find_tiled_peaks(self.heatmaps, extents, num_types=num_types, tile=tile, **options)
        covariance = None if found.covariance is None else found.covariance * stride**2
        return replace(found, cells=found.in_image(stride, PIXEL_ORIGIN), covariance=covariance)

    def heatmaps(self, window: Window) -> Float[Tensor, "j h w"]:
        """The heatmaps of the slide in a window of cells (rows, columns), computed from all pixels that they depend on."""
        if self.reach is None:
            raise ValueError("the heatmap of a part needs a network whose cells depend on pixels near them")
        stride, multiple, pixels = self.model.stride, self.reach.multiple, []
        for part, before, after, extent in zip(
            window, self.reach.before, self.reach.after, self.slide.extents, strict=True
        ):
            start = max(0, (part.start * stride - before) // multiple * multiple)
            stop = min(-(-(part.stop * stride + after) // multiple) * multiple, extent)
            pixels.append(slice(start, stop))
        maps = self._output(pixels)
        rows, columns = (
            slice(part.start - p.start // stride, part.stop - p.start // stride)
            for part, p in zip(window, pixels, strict=True)
        )
        return maps[:, rows, columns]

    def _output(self, pixels: Sequence[slice]) -> Float[Tensor, "j h w"]:
        """The heatmaps of a part of the slide as the network gives them; those of parts of one colour are kept."""
        values = self.slide.read(pixels)
        colour = values[:, :1, :1]
        is_plain = bool((values == colour).all())
        key = (values.shape, tuple(colour.ravel().tolist()))
        if is_plain and key in self.known:
            return self.known[key]
        with torch.inference_mode():
            output = self.model(self._image(values)[None].to(self.device)).logits[0].float().sigmoid().cpu()
        if is_plain and len(self.known) < MAX_KNOWN:
            self.known[key] = output
        return output

    def _image(self, values: Shaped[ndarray, "c h w"]) -> Float[Tensor, "d h w"]:
        """The pixels of a part as the network takes them: those that ``detect predict`` reads from an image file."""
        if self.slide.dtype == np.uint8 and len(values) in {1, 3, 4}:
            picture = Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
            image = decode_image(picture, channels=self.channels).values / 255
        else:
            image = torch.from_numpy(self.slide.as_maps(values)).float()
            if not (image.min() >= 0 and image.max() <= 1):  # also NaN
                raise ImageError(f"{self.slide.path}: values outside 0 to 1: divide them by the highest of the type")
        return image.expand(self.channels, -1, -1)

    def _find_by_tile(self, journal: Journal | None, on_progress: Progress | None) -> Peaks:
        """The points of tiles that are images of their own, merged."""
        height, width = self.slide.extents
        grid = TileGrid.of((width, height), parse_resize(f"tiles:{self.tile_px}:{self.overlap_px}"))
        found = []
        for number, (x, y) in enumerate(grid.corners.tolist()):
            if journal is not None and number in journal:
                found.append(journal[number])
                continue
            found.append(self._points_of_tile(grid, number, x, y))
            if journal is not None:
                journal[number] = found[-1]
            if on_progress:
                on_progress("finding points", number + 1, len(grid.corners))
        tile = np.repeat(np.arange(len(found)), [len(each["scores"]) for each in found])
        columns = {name: np.concatenate([each[name] for each in found]) for name in ("points", "scores", "types")}
        distance = MERGED_CELLS * self.model.stride
        own: dict[str, Any] = {"scores": columns["scores"], "classes": columns["types"], "distance": distance}
        rows = merge_near(columns["points"], tile, **own)
        rows = rows[np.argsort(columns["types"][rows], kind="stable")]
        points, scores, types = (torch.from_numpy(columns[name][rows]) for name in ("points", "scores", "types"))
        return Peaks(points, scores, torch.zeros_like(types), types, None, 1, self.model.head.num_types)

    def _points_of_tile(self, grid: TileGrid, number: int, x: int, y: int) -> dict[str, Any]:
        """The points of a tile, in pixels of the slide, that this tile answers for."""
        width, height = grid.tile_wh
        maps = self._output([slice(y, y + height), slice(x, x + width)])
        peaks = self.model.read_points(maps[None], torch.tensor([[height, width]]))
        points = peaks.cells.double().numpy() + np.array([x, y])
        slack = np.full(len(points), MERGED_CELLS * self.model.stride)
        own = grid.answers_for(np.tile(points + 0.5, 2), np.full(len(points), number), slack)
        return {"points": points[own], "scores": peaks.scores.double().numpy()[own], "types": peaks.types.numpy()[own]}


def inside_slide(peaks: Peaks, slide_wh: tuple[int, int], margin_px: float) -> Peaks:
    """The peaks at most a margin outside the slide, as ``detect predict`` keeps those of images."""
    high = torch.tensor(slide_wh) - 0.5 + margin_px
    return peaks.take(((peaks.cells >= -0.5 - margin_px) & (peaks.cells <= high)).all(dim=1))
