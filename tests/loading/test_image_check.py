"""Images that cannot be used are found, listed and counted."""

from __future__ import annotations

import warnings

from PIL import Image

from detect.data.images import open_image
from detect.errors import ImageError
from detect.loading.image_check import BrokenImage, broken_message, find_broken_images


def test_the_rows_of_broken_images_come_in_order_with_their_reasons():
    def open_row(row: int) -> None:
        if row % 3 == 1:
            raise ImageError(f"{row}.png: broken")

    broken = find_broken_images(open_row, 8)
    assert broken == (BrokenImage(1, "1.png: broken"), BrokenImage(4, "4.png: broken"), BrokenImage(7, "7.png: broken"))


def test_progress_counts_the_images():
    calls: list[tuple[str, int, int]] = []
    find_broken_images(lambda row: row, 3, on_progress=lambda *each: calls.append(each))
    assert calls == [("checking images", done, 3) for done in (1, 2, 3)]


def test_no_images_are_not_broken():
    assert find_broken_images(open, 0) == ()


def test_of_many_the_first_are_named_and_the_others_counted():
    message = broken_message([BrokenImage(row, f"{row}.png: broken") for row in range(12)], 30)
    named = "; ".join(f"{row}.png: broken" for row in range(5))
    assert message == f"12 of 30 images cannot be used: {named}; and 7 more"


def test_filters_of_warnings_are_left_as_they_were(tmp_path):
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    for _ in range(20):
        assert find_broken_images(lambda _: open_image(tmp_path, "a.png"), 32) == ()
    assert list(warnings.filters) == before
