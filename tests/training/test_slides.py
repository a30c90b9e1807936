"""Points of a slide, tile by tile, are those of the whole image; and what a network without such tiles gives."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import random_images, with_threshold
from torch.testing import assert_close

from detect.data.resize import parse_resize
from detect.data.volumes import ArrayFile
from detect.detectors.backbones import build_backbone
from detect.detectors.landmarks import LandmarkDetector
from detect.errors import ConfigError, ImageError
from detect.keypoints.peaks import find_peaks
from detect.loading.labels import LabelMap
from detect.training import slides
from detect.training.checkpoints import TrainedDetector
from detect.training.config import parse_config
from detect.training.slides import SlideDetector, inside_slide


def network(backbone: str = "torchvision:resnet18", *, norm: str | None = None, channels: int = 1) -> LandmarkDetector:
    """A network whose maps have many peaks: its batch norms have seen images, its output has a larger scale."""
    pytest.importorskip("torchvision")
    built = build_backbone(backbone, strides=(2, 4), in_channels=channels, seed=0)
    model = LandmarkDetector(built, 2, pyramid_channels=32, norm=norm, seed=0).train()
    with torch.no_grad():
        for seed in range(3):
            model(random_images(2, channels, 96, 96) ** (seed + 1))
        model.head.heatmap_output.weight *= 300
        model.head.heatmap_output.bias.zero_()
    return with_threshold(model.eval(), 0.6)


def slide_of(values: np.ndarray, axes: str = "yx") -> ArrayFile:
    return ArrayFile(Path("slide.tif"), values, axes, {})


def on(
    values: np.ndarray, model: LandmarkDetector, *, tiles: str = "tiles:64:32", resize: str = "none", axes: str = "yx"
) -> SlideDetector:
    config = parse_config({"task": "landmarks", "data": {"train": ["a.json"], "images": "images", "channels": 1}})
    labels = LabelMap((1,), ("cell",), ("cell",), {1: (0,)})
    trained = TrainedDetector(model, config, labels, None, parse_resize(resize), "run")
    return SlideDetector.of(trained, slide_of(values, axes), tiles=tiles)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture(autouse=True, scope="module")
def measured_once():
    """Measure the reach of each network once, which takes longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slides, "measure_reach", cache(slides.measure_reach))
        yield


@pytest.fixture(scope="module")
def model() -> LandmarkDetector:
    return network()


@pytest.mark.parametrize("hw", [(200, 331), (97, 64), (33, 500)])
def test_points_of_tiles_are_those_of_the_whole_image(model, hw):
    values = pixels(*hw)
    found = on(values, model).find()
    with torch.no_grad():
        maps = model(torch.from_numpy(values)[None, None] / 255).logits.sigmoid()
    whole = find_peaks(maps, threshold=model.threshold)
    assert len(whole.cells) > 20
    order, wanted = (
        np.lexsort((*each.round(decimals=2).T.numpy(), types))
        for each, types in ((found.cells, found.types.numpy()), (whole.in_image(2), whole.types.numpy()))
    )
    assert_close(found.cells[order], whole.in_image(2).double()[wanted], rtol=0, atol=1e-4)
    assert_close(found.scores[order], whole.scores[wanted], rtol=0, atol=1e-5)


def test_heatmaps_of_a_window_are_those_of_the_whole_image(model):
    values = pixels(300, 260)
    detector = on(values, model)
    with torch.no_grad():
        maps = model(torch.from_numpy(values)[None, None] / 255).logits.sigmoid()[0]
    for window in ((slice(0, 10), slice(120, 130)), (slice(61, 93), slice(33, 34)), (slice(140, 150), slice(0, 130))):
        assert_close(detector.heatmaps(window), maps[(slice(None), *window)], rtol=0, atol=1e-5)


def test_tiles_lie_on_the_coarsest_stride(model):
    detector = on(pixels(80, 80), model, tiles="tiles:50:10")
    assert detector.reach is not None
    assert detector.reach.multiple % 4 == 0
    assert detector.tile_px % detector.reach.multiple == 0
    assert detector.tile_px >= 50


def test_tiles_of_one_colour_are_computed_once_for_each_size(model, monkeypatch):
    values = np.full((130, 640), 7, np.uint8)
    values[:40, :40] = pixels(40, 40)
    calls: list[int] = []
    forward = model.forward
    detector = on(values, model)
    monkeypatch.setattr(model, "forward", lambda images: calls.append(1) or forward(images))
    found = detector.find()
    plain = len(calls)
    calls.clear()
    monkeypatch.setattr(slides, "MAX_KNOWN", 0)
    every = on(values, model)
    calls.clear()
    assert_close(every.find().cells, found.cells, rtol=0, atol=0)
    assert plain < len(calls) * 0.7


def test_a_run_that_stops_goes_on_with_the_same_points(model):
    values = pixels(200, 200)
    detector, journal, calls = on(values, model), {}, []
    fresh = detector.find()

    class Stops(dict):
        def __setitem__(self, number, arrays):
            if len(self) == 7:
                raise KeyboardInterrupt
            super().__setitem__(number, arrays)

    journal = Stops()
    with pytest.raises(KeyboardInterrupt):
        detector.find(journal=journal)
    found = detector.find(journal=dict(journal), on_progress=lambda *now: calls.append(now))
    assert calls[0][1] == 8
    for name in ("cells", "scores", "types", "covariance"):
        assert_close(getattr(found, name), getattr(fresh, name), rtol=0, atol=0)


@pytest.fixture(scope="module")
def grouped() -> LandmarkDetector:
    return network("tiny", norm="group")


def test_a_network_with_group_norms_merges_what_overlapping_tiles_find(grouped):
    values = pixels(150, 190)
    detector = on(values, grouped)
    assert (detector.reach, detector.tile_px, detector.overlap_px) == (None, 64, 32)
    found = detector.find()
    assert len(found.cells) > 20
    assert found.cells[:, 0].max() > 170
    assert (found.types.diff() >= 0).all()
    journal: dict[int, Any] = {}
    detector.find(journal=journal)
    assert len(found.cells) < sum(len(tile["scores"]) for tile in journal.values())
    assert_close(detector.find(journal=journal).cells, found.cells, rtol=0, atol=0)
    with pytest.raises(ValueError, match="pixels near them"):
        detector.heatmaps((slice(0, 3), slice(0, 3)))


def test_one_tile_of_such_a_network_is_the_image(grouped):
    values = pixels(64, 60)
    image = torch.from_numpy(values)[None, None] / 255
    whole = grouped.detect(image, torch.tensor([[64, 60]]))
    assert_close(on(values, grouped).find().cells.float(), whole.cells, rtol=0, atol=1e-4)


def test_grey_and_deep_slides_are_read_as_images_are(model):
    grey = pixels(70, 70)
    wanted = on(grey, model).find()
    deep = on(grey.astype(np.uint16) * 257, model).find()
    colours = on(np.repeat(grey[..., None], 3, axis=2), model, axes="yxc").find()
    floats = on((grey / 255).astype(np.float32), model).find()
    for found in (deep, colours, floats):
        assert_close(found.cells, wanted.cells, rtol=0, atol=1e-3)


def test_slides_that_the_network_cannot_read_are_one_line(model):
    for values, axes, message in (
        (pixels(3, 70, 70), "zyx", "a volume, with axes 'zyx'"),
        (pixels(5, 70, 70), "cyx", "5 channels, the run reads 1"),
        (np.zeros((70, 70), np.int32), "yx", "values of type int32"),
    ):
        with pytest.raises(ImageError, match=message):
            on(values, model, axes=axes)
    with pytest.raises(ImageError, match="values outside 0 to 1"):
        on(np.full((70, 70), 2.0), model).find()


def test_runs_for_another_scale_are_refused(model):
    with pytest.raises(ConfigError, match=r"a slide is read at its own scale: train with data\.resize=none"):
        on(pixels(9, 9), model, resize="letterbox:64")


def test_points_outside_the_slide_are_left_out(model):
    peaks = on(pixels(70, 80), model).find()
    peaks.cells[0] = torch.tensor([-3.0, 5.0])
    peaks.cells[1] = torch.tensor([-2.4, 71.4])
    kept = inside_slide(peaks, (80, 70), 2.0)
    assert len(kept.cells) == len(peaks.cells) - 1
    assert kept.cells[0, 1] == pytest.approx(71.4)
