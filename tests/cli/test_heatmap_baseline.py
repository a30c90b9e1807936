"""``detect heatmaps baseline`` as a user types it: blobs drawn by hand are found, on other images than those fitted to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import part_content, written
from PIL import Image

from detect.samples import sample_annotations

NUCLEI = sample_annotations("nuclei")
SIZE, SIGMA = 64, 4.0
PLACES = {"train": [[(15, 20), (45, 36)], [(30, 12), (20, 38)]], "val": [[(20, 36), (48, 16)], [(13, 14), (42, 36)]]}


def blobs(folder: Path, name: str, *, deep: bool = False) -> Path:
    """Two images of dark Gaussians of one size on a bright ground, with their centres as keypoints, and of small clutter."""
    y, x = np.mgrid[:SIZE, :SIZE]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, places in enumerate(PLACES[name], 1):
        drawn = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * SIGMA**2)) for a, b in places)
        drawn += sum(np.exp(-((x - a) ** 2 + (y - 57) ** 2) / (2 * 1.2**2)) for a in range(8, SIZE, 16))
        pixels = (60_000 - 50_000 * drawn).astype(np.uint16) if deep else (220 - 180 * drawn).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}{number}.png")
        images.append({"id": number, "file_name": f"{name}{number}.png", "width": SIZE, "height": SIZE})
        annotations += [
            {
                "id": len(annotations) + place,
                "image_id": number,
                "category_id": 1,
                "keypoints": [a, b, 2],
                "bbox": [a, b, 1, 1],
            }
            for place, (a, b) in enumerate(places, 1)
        ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "blob"}]}
    return written(folder / f"{name}.json", content)


@pytest.mark.parametrize("deep", [False, True])
def test_blobs_of_other_images_are_found_at_the_scale_of_the_training_images(detect, tmp_path, deep):
    train, val = (blobs(tmp_path, name, deep=deep) for name in ("train", "val"))
    arguments = ("heatmaps", "baseline", train, "--images", tmp_path, "--validation", val)
    run = detect(*arguments, "--json", "-o", tmp_path / "out")
    assert run.code == 0, run.err
    found = run.json
    assert found["detector"]["polarity"] == "dark"
    assert 1 / 1.42 < found["detector"]["sigma"] / SIGMA < 1.42  # the octave of scales that it looks at
    assert [each["radius"] for each in found["overall"]] == [1, 2, 3, 5]
    assert [each["micro"]["f1"] for each in found["overall"]] == [1.0] * 4
    assert found["overall"][0]["num_truth"] == 4
    assert re.search(r"dark blobs of sigma \S+ px, F1 1.0000 on the training images", detect(*arguments).out)
    # what it writes, scored by the other command at the detector's threshold, gives the same numbers
    threshold = found["detector"]["threshold"]
    results = ("--results", tmp_path / "out" / "results.json", "--threshold", threshold)
    assert detect("heatmaps", "score", val, *results, "--json").json["overall"] == found["overall"]


def test_on_the_images_it_was_fitted_to_the_score_is_that_of_the_fit(detect, tmp_path):
    few = written(tmp_path / "few.json", part_content("nuclei", step=8))
    arguments = ("heatmaps", "baseline", few, "--images", NUCLEI.parent / "images", "--validation", few, "--radius", 3)
    found = detect(*arguments, "--json").json
    (own,) = found["overall"]
    assert own["micro"]["f1"] == pytest.approx(found["detector"]["f1"])  # the same images, the same radius
    assert 0.3 < own["micro"]["f1"] < 1


def test_centres_of_boxes_are_points_too(detect, tmp_path):
    train, val = (blobs(tmp_path, name) for name in ("train", "val"))
    arguments = ("heatmaps", "baseline", train, "--images", tmp_path, "--validation", val, "--from", "boxes")
    # boxes of 1 px at the centres: their own centres lie .5 px farther, as pixels do in continuous coordinates
    assert detect(*arguments, "--radius", 1, "--json").json["overall"][0]["micro"]["f1"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--validation", "none.json"], "none.json: No such file"),
        (["--validation", "{val}", "--val-images", "nowhere"], "nowhere: not a folder of images"),
    ],
)
def test_a_mistake_is_one_line(refused, tmp_path, options, message):
    train, val = (blobs(tmp_path, name) for name in ("train", "val"))
    given = [option.format(val=val) for option in options]
    assert message in refused("heatmaps", "baseline", train, "--images", tmp_path, *given)


def test_the_images_are_needed(detect, tmp_path):
    train = blobs(tmp_path, "train")
    run = detect("heatmaps", "baseline", train, "--validation", train)
    assert (run.code, run.err) == (2, "detect: --images: needed, the folder of the training images\n")
