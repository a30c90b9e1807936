"""``detect predict`` on a slide as a user types it: its points, what is said of them, a run that is killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from detect.cli.predict_slides import is_slide
from detect.data import read_coco, read_results
from detect.samples import sample_annotations
from detect.training import slides
from detect.training.tile_journal import NAME

tifffile = pytest.importorskip("tifffile")
zarr = pytest.importorskip("zarr")
pytest.importorskip("torchvision")

LOCAL = {"backbone": "torchvision:resnet18", "norm": None, "threshold": 0.0095}


@pytest.fixture(autouse=True, scope="module")
def measured_once():
    """Measure the reach of each backbone once, which takes longer than a test."""
    measure, known = slides.measure_reach, {}

    def known_reach(model):
        if model.backbone.name not in known:
            known[model.backbone.name] = measure(model)
        return known[model.backbone.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slides, "measure_reach", known_reach)
        yield


@pytest.fixture
def slide(tmp_path) -> Path:
    """Four micrographs, also as a photo and as an OME-TIFF beside the zarr."""
    files = sorted((sample_annotations("nuclei").parent / "images").iterdir())[:4]
    first, second, third, fourth = (np.asarray(Image.open(file).convert("L")) for file in files)
    pixels = np.block([[first, second], [third, fourth]])[:230, :250]
    zarr.create_array(tmp_path / "slide.zarr", shape=pixels.shape, chunks=(64, 64), dtype="uint8")[:] = pixels
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "slide.ome.tif", pixels, tile=(64, 64), metadata={"axes": "YX", **size})
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "slide.zarr"


def points_of(folder: Path) -> np.ndarray:
    """x, y and score of the results, sorted."""
    results = read_results(folder / "results.json", read_coco(folder / "images.json"))
    points = np.concatenate([*results.keypoints])[:, :2]
    found = np.column_stack([points, results.scores])
    return found[np.lexsort(found[:, :2].round(2).T)]


def test_points_are_those_of_a_photo_of_the_same_pixels(detect, slide, tmp_path, trained):
    run = trained("landmarks", **LOCAL)
    for name, options in (("slide.zarr", ("--to", "coco", "--slice", "128:0")), ("photo.png", ("--num-pictures", 0))):
        found = detect("predict", run, tmp_path / name, "-o", tmp_path / name[:5], *options)
        assert found.code == 0
        assert ("the points are those of the whole slide" in found.err) == (name == "slide.zarr")
    tiles, photo = points_of(tmp_path / "slide"), points_of(tmp_path / "photo")
    assert len(tiles) == len(photo) > 10
    assert_allclose(tiles, photo, atol=2e-4)  # the slide's are rounded, the photo's are in single precision
    assert sorted(path.name for path in (tmp_path / "slide").iterdir()) == ["images.json", "results.json"]


def test_an_ome_tiff_has_micrometres_and_counts(detect, slide, tmp_path, trained):
    run = detect("predict", trained("landmarks", **LOCAL), tmp_path / "slide.ome.tif", "-o", tmp_path / "out", "--json")
    assert run.json["exact"] is True
    assert run.json["by_type"] == {"nucleus": run.json["points"]}
    header, first = (tmp_path / "out" / "slide.csv").read_text().splitlines()[:2]
    values = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(values["x_um"]) == pytest.approx(float(values["x"]) / 2, abs=1e-4)


def test_a_network_with_group_norms_says_that_its_points_are_of_tiles(detect, slide, tmp_path, trained):
    run = trained("landmarks", threshold=0.0095)
    run = detect("predict", run, slide, "-o", tmp_path / "out", "--slice", "128:32", "--json")
    assert run.json["exact"] is False
    assert "no tiles can give the points of the whole slide" in run.err
    assert "tiles of 128 px have statistics of their own, overlap by 32 px" in run.err
    assert "of the whole slide\n" not in run.err


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_file(detect, refused, slide, tmp_path, trained):
    small = zarr.create_array(tmp_path / "small.zarr", shape=(120, 130), chunks=(64, 64), dtype="uint8")
    small[:] = zarr.open_array(slide, mode="r")[:120, :130]
    command = ["predict", str(trained("landmarks", **LOCAL)), str(tmp_path / "small.zarr"), "--slice", "64:0", "-o"]
    assert detect(*command, tmp_path / "fresh").code == 0
    with subprocess.Popen([sys.executable, "-m", "detect", *command, str(tmp_path / "out")]) as process:
        journal = tmp_path / "out" / NAME
        while process.poll() is None and not (journal.exists() and tiles_in(journal) >= 2):
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".csv"] == []
    shutil.copytree(tmp_path / "out", tmp_path / "other")
    run = detect(*command, tmp_path / "out")
    assert run.code == 0
    assert "going on: " in run.err
    assert (tmp_path / "out" / "small.csv").read_bytes() == (tmp_path / "fresh" / "small.csv").read_bytes()
    assert not journal.exists()
    assert "unfinished tiles of another checkpoint, slide or setting" in refused(
        *command, tmp_path / "other", "--slice", "128:0"
    )


def tiles_in(journal: Path) -> int:
    import sqlite3
    from contextlib import closing

    try:
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM tiles").fetchone()[0])
    except sqlite3.Error:
        return 0


def test_mistakes_are_one_line(refused, slide, tmp_path, trained):
    run = trained("boxes")
    for arguments, message in (
        ((slide,), "a run for boxes: slides are for landmarks"),
        ((slide, tmp_path / "photo.png"), "a slide is predicted alone"),
        ((tmp_path / "photo.png", "--to", "csv"), "--to csv: for slides"),
        ((slide, "--counts", "none", "--confidence", ".8"), "--confidence, --counts: not for slides: "),
    ):
        assert message in refused("predict", run, *arguments, "-o", tmp_path / "out")
    assert "--slice huge: expected SIZE:OVERLAP" in refused(
        "predict", trained("landmarks"), slide, "--slice", "huge", "-o", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


def test_slides_are_told_from_photos(slide, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "photo.tif", np.zeros((50, 60), np.uint8))
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    names = ("slide.zarr", "slide.ome.tif", "photo.png", "photo.tif", "broken.tif", "no.tif")
    kinds = {name: is_slide(tmp_path / name) for name in names}
    assert [name for name, is_one in kinds.items() if is_one] == ["slide.zarr", "slide.ome.tif"]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert is_slide(tmp_path / "photo.tif")


def test_a_slide_of_a_detector_with_angles_says_that_its_points_have_none(detect, slide, tmp_path, trained):
    run = trained("landmarks", data={"orientation": "axis"}, **LOCAL)
    found = detect("predict", run, slide, "-o", tmp_path / "out", "--slice", "128:0")
    assert (found.code, "the points of a slide have no angles" in found.err) == (0, True)
