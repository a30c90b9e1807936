"""``detect predict`` as a user types it: results that can be read again, a picture for each image, broken files."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import photo
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps

from detect.data import read_coco, read_results
from detect.samples import sample_annotations
from detect.training.checkpoints import read_checkpoint, save_checkpoint

IMAGES = sample_annotations("nuclei").parent / "images"


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three nuclei in a folder and in one within it; a text file beside them."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for source, name in zip(sorted(IMAGES.iterdir()), ("a.png", "b.png", "more/a.png"), strict=False):
        shutil.copy(source, folder / name)
    (folder / "notes.txt").write_text("no image", "utf-8")
    return folder


@pytest.mark.parametrize(("task", "resize"), [("boxes", "none"), ("landmarks", "letterbox:160")])
def test_results_belong_to_the_images_and_each_has_a_picture(detect, photos, tmp_path, task, resize, trained):
    out = tmp_path / "out"
    run = detect("predict", trained(task, data={"resize": resize}), photos, "-o", out, "--picture-score", 0.009)
    assert run.code == 0
    assert "in 3 images" in run.out
    dataset = read_coco(out / "images.json")
    assert dataset.images.file_names == ("a.png", "b.png", "more/a.png")
    results = read_results(out / "results.json", dataset)
    assert results.invalid == ()
    assert len(results.scores) > 10
    if task == "boxes":
        assert (results.boxes_xywh[:, :2] >= 0).all()
        assert (results.boxes_xywh[:, :2] + results.boxes_xywh[:, 2:] <= 128).all()
    else:
        assert (np.concatenate(results.keypoints)[:, :2] < 130).all()
    pictures = sorted(path.relative_to(out / "pictures").as_posix() for path in (out / "pictures").rglob("*.png"))
    assert pictures == ["a.png", "b.png", "more/a.png"]
    with Image.open(out / "pictures" / "more" / "a.png") as picture:
        assert picture.size == (512, 512)
        assert len({color for _, color in picture.getcolors(2**20)} - {(grey,) * 3 for grey in range(256)}) > 0


def test_pictures_of_another_run_are_told(detect, photos, tmp_path, trained):
    line = ("predict", trained("boxes"), "-o", tmp_path / "out")
    assert "another run" not in detect(*line, photos).err
    folder = tmp_path / "out" / "pictures"
    assert (
        f"warning: {folder} also holds 2 files of another run, such as b.png\n" in detect(*line, photos / "a.png").err
    )


def test_the_score_of_pictures_is_the_run_s_best_threshold_or_the_usual_one(detect, photos, tmp_path, trained):
    folder = trained("boxes")
    arguments = ("predict", folder, photos, "-o", tmp_path / "out", "--num-pictures", 0)
    assert detect(*arguments).out.endswith("0 of score 0.3 or more; the run has no best threshold\n")
    before = read_checkpoint(folder / "best.pt")
    for best, score in ((0.25, 0.25), (math.nan, 0.3)):
        save_checkpoint(folder / "best.pt", replace(before, metrics={"best_threshold": best}))
        assert detect(*arguments, "--json").json["picture_score"] == score
    save_checkpoint(folder / "best.pt", replace(before, metrics={"best_threshold": 0.25}))
    assert "of score 0.25 or more, the threshold of the highest F1" in detect(*arguments).out
    assert detect(*arguments, "--picture-score", 0.5).out.endswith("of score 0.5 or more\n")


def test_tiles_find_what_whole_images_have_and_more(detect, photos, tmp_path, trained):
    """Nuclei of 128 px, as one tile and as nine."""
    arguments = ("predict", trained("landmarks", threshold=0.0095), photos, "-o", tmp_path / "out", "--num-pictures", 0)
    whole, one, nine = (
        (detect(*arguments, *options).code, (tmp_path / "out" / "results.json").read_bytes())
        for options in ((), ("--slice", "128:32"), ("--slice", "64:0.5"))
    )
    assert whole == one
    assert nine[0] == 0
    assert nine[1] != whole[1]
    found = read_results(tmp_path / "out" / "results.json", read_coco(tmp_path / "out" / "images.json"))
    assert np.concatenate(found.keypoints)[:, :2].max() > 100


def test_pictures_are_left_out_if_asked(detect, photos, tmp_path, trained):
    run = detect("predict", trained("boxes"), photos / "a.png", "-o", tmp_path / "out", "--num-pictures", 0, "--json")
    assert run.json["images"] == 1
    assert not (tmp_path / "out" / "pictures").exists()
    assert read_coco(tmp_path / "out" / "images.json").images.file_names == ("a.png",)


def test_broken_images_are_named_and_skipped_only_if_asked(detect, photos, tmp_path, trained):
    (photos / "c.png").write_bytes((photos / "a.png").read_bytes()[:300])
    (photos / "d.jpg").write_bytes(b"nothing like a picture")
    checkpoint = trained("boxes")
    run = detect("predict", checkpoint, photos, "-o", tmp_path / "out")
    assert run.code == 2
    assert "2 of 5 images cannot be used" in run.err
    assert "c.png" in run.err
    assert "d.jpg" in run.err
    assert run.err.endswith("; --on-broken skip leaves them out\n")
    assert not (tmp_path / "out").exists()
    run = detect("predict", checkpoint, photos, "-o", tmp_path / "out", "--on-broken", "skip", "--json")
    assert (run.code, run.json["images"], run.json["skipped"]) == (0, 3, 2)
    assert run.err.count("skipped: ") == 2
    images = json.loads((tmp_path / "out" / "images.json").read_text("utf-8"))["images"]
    assert [(each["id"], each["file_name"]) for each in images] == [(1, "a.png"), (2, "b.png"), (5, "more/a.png")]
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert {each["image_id"] for each in results} == {1, 2, 5}  # an image that was not read is not one without objects
    assert len(list((tmp_path / "out" / "pictures").rglob("*.png"))) == 3


def test_photos_are_turned_upright_and_so_are_their_results(detect, tmp_path, trained):
    """Each photo beside the same photo that Pillow has turned: the results, sizes and pictures are equal."""
    for orientation in (6, 3):
        turned = photo(tmp_path / "photos" / f"{orientation}.png", orientation=orientation)
        with Image.open(turned) as image:
            ImageOps.exif_transpose(image).save(tmp_path / "photos" / f"{orientation}_upright.png")
    out = tmp_path / "out"
    run = detect("predict", trained("boxes", data={"resize": "letterbox:160"}), tmp_path / "photos", "-o", out)
    assert (run.code, "warning" in run.err) == (0, False)
    content = json.loads((out / "images.json").read_text("utf-8"))
    assert "upright" in content["info"]["description"]
    assert [image.get("exif_orientation") for image in content["images"]] == [3, None, 6, None]
    assert [(image["width"], image["height"]) for image in content["images"]] == [(128, 96)] * 2 + [(96, 128)] * 2
    found = [[], [], [], []]
    for entry in json.loads((out / "results.json").read_text("utf-8")):
        found[entry.pop("image_id") - 1].append(entry)
    assert found[0] == found[1] != found[2] == found[3]
    assert min(map(len, found)) > 0
    for name in ("3", "6"):
        drawn = [Image.open(out / "pictures" / f"{name}{end}.png") for end in ("", "_upright")]
        assert_array_equal(np.asarray(drawn[0]), np.asarray(drawn[1]))
        assert drawn[0].getexif().get(0x0112) is None


def test_no_images_are_one_line(refused, tmp_path, trained):
    (tmp_path / "empty").mkdir()
    for place, message in ((tmp_path / "empty", "no image in this folder"), (tmp_path / "no.png", "No such file")):
        assert message in refused("predict", trained("boxes"), place)
