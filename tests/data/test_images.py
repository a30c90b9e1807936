"""Opening images: inside the folder, whole, of the size that is said, upright or as their labels refer to them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from builders import photo
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps

from detect.data import read_coco
from detect.data.image_sizes import read_headers
from detect.data.images import ImageFiles, as_rgb, open_image
from detect.data.read_dataset import read_dataset
from detect.errors import ImageError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "deep").mkdir(parents=True)
    Image.new("L", (6, 4), 7).save(tmp_path / "images" / "deep" / "a.png")
    Image.new("L", (6, 4)).save(tmp_path / "outside.png")
    (tmp_path / "images" / "text.png").write_text("not an image", "utf-8")
    whole = (tmp_path / "outside.png").read_bytes()
    (tmp_path / "images" / "cut.png").write_bytes(whole[:-20])
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "outside.png")
    return tmp_path / "images"


def test_an_image_is_opened_as_it_is(folder):
    image = open_image(folder, "deep/a.png", image_wh=(6, 4))
    assert_array_equal(np.asarray(image), np.full((4, 6), 7))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../outside.png", r"file name '\.\./outside\.png' leads to no file in"),
        ("/etc/hostname", "leads to no file in"),
        ("link.png", "leads to no file in"),
        ("", "leads to no file in"),
        ("none.png", "none.png: No such file"),
        ("text.png", "text.png: not an image that can be read"),
        ("cut.png", "cut.png: .*trunc"),
        ("deep", "deep: Is a directory"),
    ],
)
def test_what_cannot_be_opened_is_named(folder, name, reason):
    with pytest.raises(ImageError, match=reason):
        open_image(folder, name)


def test_another_size_than_annotated_is_told(folder):
    with pytest.raises(ImageError, match=r"a\.png: the image is 6x4, its annotations say 4x6"):
        open_image(folder, "deep/a.png", image_wh=(4, 6))


def test_more_pixels_than_memory_is_for_are_refused(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(
        ImageError, match="more than 20 pixels, too many to open: cut the image and its labels into tiles"
    ):
        open_image(folder, "deep/a.png")


def test_deep_images_are_stretched_to_eight_bits():
    deep = Image.fromarray(np.array([[1000, 3000], [2000, 5000]], np.uint16))
    assert_array_equal(np.asarray(as_rgb(deep))[..., 0], [[0, 127], [63, 255]])
    assert_array_equal(np.asarray(as_rgb(Image.new("L", (1, 1), 9))), [[[9, 9, 9]]])


def test_palettes_with_transparency_are_converted_without_a_warning(tmp_path):
    draws = np.random.default_rng(0)
    image = Image.fromarray(draws.integers(0, 8, (6, 9), np.uint8)).convert("P")
    image.putpalette(draws.integers(0, 256, 768, np.uint8).tobytes())
    image.save(tmp_path / "a.png", transparency=bytes([0, 100, 255, 30]))
    with Image.open(tmp_path / "a.png") as raw, pytest.warns(UserWarning, match="should be converted to RGBA"):
        colours, greys, transparent = raw.convert("RGB"), raw.convert("L"), raw.convert("RGBA")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_image(tmp_path, "a.png")
        for converted, expected in ((as_rgb(opened), colours), (opened.convert("L"), greys), (opened, transparent)):
            assert_array_equal(np.asarray(converted), np.asarray(expected))


def turned_photos(
    folder: Any, photos: list[tuple[int, tuple[int, int], tuple[int, int]]], **options: Any
) -> ImageFiles:
    """Photos with an orientation, a stored size and an annotated size each."""
    images = []
    for number, (orientation, stored_wh, (width, height)) in enumerate(photos):
        photo(folder / f"{number}.png", orientation=orientation, wh=stored_wh)
        images.append({"id": number, "width": width, "height": height, "file_name": f"{number}.png"})
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    return ImageFiles(read_dataset(content, **options), folder)


UPRIGHT, STORED = (6, (64, 48), (48, 64)), (6, (64, 48), (64, 48))  # as labelled
UPSIDE_DOWN, SQUARE, PLAIN = (3, (64, 48), (64, 48)), (8, (48, 48), (48, 48)), (1, (64, 48), (64, 48))


@pytest.mark.parametrize(
    ("photos", "exif", "upright"),
    [
        ([UPRIGHT, STORED, PLAIN], "auto", [True, False, False]),
        ([UPSIDE_DOWN, SQUARE], "auto", [True, True]),
        ([UPSIDE_DOWN, SQUARE, UPRIGHT], "auto", [True, True, True]),
        ([UPSIDE_DOWN, SQUARE, STORED, STORED], "auto", [False, False, False, False]),
        ([UPSIDE_DOWN, STORED, UPRIGHT], "auto", [True, False, True]),  # the others disagree
        ([UPSIDE_DOWN, SQUARE, UPRIGHT], "apply", [True, True, True]),
        ([UPSIDE_DOWN, SQUARE, STORED], "ignore", [False, False, False]),
    ],
)
def test_images_are_read_as_their_labels_refer_to_them(tmp_path, photos, exif, upright):
    files = turned_photos(tmp_path, photos, exif=exif)
    for row, (is_upright, (orientation, wh, _)) in enumerate(zip(upright, photos, strict=True)):
        with Image.open(tmp_path / f"{row}.png") as image, Image.open(photo(tmp_path / "p.png", wh=wh)) as plain:
            expected = np.asarray(ImageOps.exif_transpose(image) if is_upright else plain)
        assert_array_equal(np.asarray(files.open(row)), expected, err_msg=f"{row} of orientation {orientation}")
    undecided = sum(each in {UPSIDE_DOWN, SQUARE} for each in photos) * (exif == "auto")
    if not undecided:
        assert files.warning() is None
        return
    reading, other = ("upright", "ignore") if upright[0] else ("as stored", "apply")
    images = "1 image has" if undecided == 1 else "2 images have"
    assert files.warning() == (
        f"{images} an EXIF orientation, such as 0.png, and labels that fit both readings: taken {reading}; "
        f"data.exif={other} (--exif {other}) if the labels were made otherwise"
    )


def test_a_part_is_read_as_the_whole_dataset_tells(tmp_path):
    files = turned_photos(tmp_path, [UPSIDE_DOWN, STORED, PLAIN])
    part = ImageFiles(files.dataset.take_images(np.array([0, 2])).take_images(np.array([0])), tmp_path)
    assert_array_equal(np.asarray(part.open(0)), np.asarray(files.open(0)))
    assert "taken as stored" in str(part.warning())


@pytest.mark.parametrize(("exif", "annotated", "size"), [("apply", STORED, "48x64"), ("ignore", UPRIGHT, "64x48")])
def test_a_size_of_the_other_reading_names_orientation_and_option(tmp_path, exif, annotated, size):
    files = turned_photos(tmp_path, [annotated], exif=exif)
    message = (
        rf"0\.png: the image is {size} \(EXIF orientation 6, stored as 64x48, read with data.exif={exif}\), its annota"
    )
    with pytest.raises(ImageError, match=message):
        files.open(0)
    with pytest.raises(ImageError, match=r"the image is .*read with data.exif=auto\), its annotations say 7x9"):
        turned_photos(tmp_path, [(6, (64, 48), (7, 9))]).open(0)


def test_images_without_an_annotated_size_are_not_checked(tmp_path):
    photo(tmp_path / "a.png", orientation=6)
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}
    assert ImageFiles(read_coco(content), tmp_path).open(0).size == (96, 128)


def test_headers_outside_the_folder_are_not_read(folder):
    images = [
        {"id": n, "width": 6, "height": 4, "file_name": name} for n, name in enumerate(("link.png", "deep/a.png"))
    ]
    photo(folder.parent / "outside.png", orientation=6)
    dataset = read_coco({"images": images, "annotations": [], "categories": []})
    assert ImageFiles(dataset, folder).orientations == {}


HARD_NAMES = [
    "a\x00.png",
    "a\ud800.png",
    "loop.png",
    "a" * 300 + ".png",
    "a/" * 3000,
    "\x1b[2J.png",
    "",
    ".",
    "a.png/b",
]


@pytest.mark.parametrize("name", HARD_NAMES, ids=lambda name: ascii(name[:12]))
def test_a_name_that_no_image_can_have_is_a_broken_image(name, tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ImageError):
        open_image(tmp_path, name)
    assert len(read_headers([f"{tmp_path}/{name}"]).reasons) == 1
    content = {
        "images": [{"id": 1, "width": 4, "height": 4, "file_name": name}],
        "categories": [{"id": 1}],
        "annotations": [],
    }
    assert ImageFiles(read_coco(content), tmp_path).orientations == {}
