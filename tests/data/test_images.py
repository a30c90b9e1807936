"""Opening images: inside the folder, whole, of the size that is said."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from detect.data.images import as_rgb, open_image
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
