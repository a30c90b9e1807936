"""EXIF orientation: against Pillow's own transposition, in every format, and from metadata that are broken."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from builders import photo
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps

from detect.data.exif import SWAPPING, TO_UPRIGHT, fits_upright, load_turned, orientation_of, stored_size, upright_size

FORMATS = {"jpg": {}, "png": {}, "webp": {"lossless": True}, "tif": {}, "tiff": {"compression": "tiff_lzw"}, "mpo": {}}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", TO_UPRIGHT)
def test_upright_pixels_are_those_of_pillow_and_stored_ones_those_of_the_file(tmp_path, suffix, orientation):
    plain = photo(tmp_path / f"plain.{suffix}", **FORMATS[suffix])
    path = photo(tmp_path / f"turned.{suffix}", orientation=orientation, **FORMATS[suffix])
    with Image.open(plain) as stored, path.open("rb") as stream, Image.open(stream) as image:
        expected = {False: np.asarray(stored), True: np.asarray(ImageOps.exif_transpose(image))}
    for upright, pixels in expected.items():
        with path.open("rb") as stream, Image.open(stream) as image:
            assert (orientation_of(image), stored_size(image)) == (orientation, (128, 96))
            turned = load_turned(image, orientation, upright=upright)
        assert_array_equal(np.asarray(turned), pixels)
        assert_array_equal(np.asarray(ImageOps.exif_transpose(turned)), pixels)  # nobody turns it again
    assert expected[True].shape[1::-1] == upright_size((128, 96), orientation)


@pytest.mark.parametrize("value", [0, 1, 9, 255, 65_535])
def test_other_values_are_no_orientation(tmp_path, value):
    path = photo(tmp_path / "a.jpg", orientation=value)
    with Image.open(path) as image:
        assert orientation_of(image) == 1
        assert load_turned(image, 1, upright=True).size == (128, 96)


@given(st.integers(0, 60), st.binary(min_size=1, max_size=30))
def test_broken_metadata_are_no_orientation_and_no_error(start, noise):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "a camera", 72.0
    content = bytearray(exif.tobytes())
    content[6 + start : 6 + start + len(noise)] = noise
    for kind in ("JPEG", "PNG"):
        stream = io.BytesIO()
        Image.new("L", (3, 2)).save(stream, kind, exif=bytes(content))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's, which open_image ignores as well
            with Image.open(stream) as image:
                orientation = orientation_of(image)
                assert orientation in {1, *TO_UPRIGHT}
                assert load_turned(image, orientation, upright=True).size == upright_size((3, 2), orientation)


def test_an_orientation_that_is_text_or_several_numbers_is_none():
    for value in ("6", (6, 6), 6.0):
        image = Image.new("L", (3, 2))
        image.getexif()[0x0112] = value
        assert orientation_of(image) == 1


def test_png_pixels_are_not_decoded_for_metadata_behind_them(tmp_path):
    photo(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with Image.open(tmp_path / "cut.png") as image:
        assert orientation_of(image) == 1


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(1, 8), st.booleans())
def test_the_size_tells_unless_both_readings_have_it(stored_wh, orientation, upright):
    annotated = upright_size(stored_wh, orientation) if upright else stored_wh
    told = fits_upright(stored_wh, orientation, annotated)
    assert told == (upright if orientation in SWAPPING and stored_wh[0] != stored_wh[1] else None)
    assert fits_upright(stored_wh, orientation, (10, 10)) is None
    assert fits_upright(stored_wh, orientation, None) is None
