"""Whole files of another form: each mistake is named on real boxes, and the option that is named reads it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from builders import coco_content
from coco_files import coco_error
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose

from detect.data import read_coco
from detect.data.coco_dataset import dataset_of
from detect.data.coco_entries import BoxForm
from detect.data.coco_forms import boxes_to_xywh
from detect.data.coco_reader import rows_from_object
from detect.samples import sample_annotations

SAMPLES = ["bccd", "nuclei"]
TACO = Path(__file__).parents[1] / "data" / "taco" / "faults.json"

FORMS: dict[str, Callable[..., list[float]]] = {
    "xywh": lambda x, y, w, h, _width, _height: [x, y, w, h],
    "xyxy": lambda x, y, w, h, _width, _height: [x, y, x + w, y + h],
    "cxcywh": lambda x, y, w, h, _width, _height: [x + w / 2, y + h / 2, w, h],
    "normalised": lambda x, y, w, h, width, height: [x / width, y / height, w / width, h / height],
    "normalised-xyxy": lambda x, y, w, h, width, height: [x / width, y / height, (x + w) / width, (y + h) / height],
    "normalised-cxcywh": lambda x, y, w, h, width, height: [
        (x + w / 2) / width,
        (y + h / 2) / height,
        w / width,
        h / height,
    ],
}


@cache
def text_of(name: str) -> str:
    return sample_annotations(name).read_text()


def sample(name: str, form: str = "xywh", *, area: bool = True, every: int = 1) -> dict[str, Any]:
    """Some images of a sample, with its boxes in a form."""
    content = json.loads(text_of(name))
    content["images"] = content["images"][::every]
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in sizes]
    for entry in content["annotations"]:
        entry["bbox"] = FORMS[form](*entry["bbox"], *sizes[entry["image_id"]])
        if not area:
            entry.pop("area", None)
    return content


def resized(name: str, size_of: Callable[[int, int], tuple[int, int]]) -> dict[str, Any]:
    """A part of a sample, whose images claim other sizes."""
    content = sample(name, every=4)
    for image in content["images"]:
        image["width"], image["height"] = size_of(image["width"], image["height"])
    return content


def warning(content: dict[str, Any], **options: Any) -> str:
    (text,) = read_coco(content, **options).warnings
    assert "\n" not in text
    return text.removeprefix("(in memory): ")


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("every", [1, 10])
def test_real_files_look_like_what_they_are(name, every):
    assert read_coco(sample(name, every=every)).warnings == ()


def test_boxes_of_taco_that_reach_out_a_little_say_nothing_about_the_file():
    assert read_coco(TACO).warnings == ()


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("area", [True, False])
@pytest.mark.parametrize("form", [form for form in FORMS if form != "xywh"])
def test_another_form_is_named_and_the_named_option_reads_it(name, form, area):
    content = sample(name, form, area=area, every=8)
    text = warning(content)
    assert text.startswith("bbox looks like (")
    assert text.endswith(f"; --bbox {form}, or data.bbox={form} of a run, reads them so")
    dataset = read_coco(content, bbox=form)
    assert dataset.warnings == ()
    expected = read_coco(sample(name, area=area, every=8))
    assert_allclose(dataset.annotations.boxes_xywh, expected.annotations.boxes_xywh, atol=1e-9)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "xywh"])
def test_an_option_that_reads_an_ordinary_file_wrongly_is_named_too(form):
    assert warning(sample("bccd", every=4), bbox=form).endswith(
        "; --bbox xywh, or data.bbox=xywh of a run, reads them so"
    )


def test_the_warning_says_how_sure_it_is():
    content = sample("bccd", "xyxy")
    xyxy = np.array([entry["bbox"] for entry in content["annotations"]])
    # all images are 640 x 480; a pixel, or a hundredth of the side, may be rounding
    share = (
        (xyxy[:, 0] + xyxy[:, 2] > 646.4) | (xyxy[:, 1] + xyxy[:, 3] > 484.8) | (xyxy[:, 2:] <= 0).any(axis=1)
    ).mean()
    assert warning(content) == (
        f"bbox looks like (x0, y0, x1, y1): {100 * share:.0f} % of {len(xyxy):,} boxes looked at do not fit their images as "
        "(x, y, width, height), 0.041 % as (x0, y0, x1, y1), and area agrees with that; "
        "--bbox xyxy, or data.bbox=xyxy of a run, reads them so"
    )  # 2 of 4,888 boxes have no size in any form


def test_exchanged_width_and_height_are_named():
    text = warning(resized("bccd", lambda width, height: (height, width)))
    assert text.startswith("labels swap x and y, or images width and height? 3")
    assert text.endswith("if the two are exchanged: correct the file")


def test_width_and_height_may_be_exchanged_in_some_images_alone():
    turned = itertools.cycle([True, False, False])
    content = resized("bccd", lambda width, height: (height, width) if next(turned) else (width, height))
    assert warning(content).startswith("labels swap x and y, or images width and height?")


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("side", [1, 100])
def test_sizes_that_are_no_sizes_are_named(name, side):
    text = warning(resized(name, lambda *_: (side, side)))
    assert text.startswith(
        f"the sizes of images look wrong: all {len(sample(name, every=4)['images'])} are {side}x{side} pixels"
    )


def test_sizes_of_another_scale_are_named():
    divisors = itertools.cycle([3, 4])
    text = warning(resized("nuclei", lambda width, _: (width // next(divisors), 40)))
    assert text.startswith("boxes and sizes of images do not belong together: ")


def test_images_of_unknown_size_say_nothing_except_of_normalised_boxes():
    for form in FORMS:
        content = sample("bccd", form, every=10)
        for image in content["images"]:
            del image["width"]
        warnings = read_coco(content).warnings
        assert len(warnings) == form.startswith("normalised")


def test_a_few_boxes_say_nothing():
    assert read_coco(coco_content([(50, 50, 60, 60)] * 4)).warnings == ()
    assert read_coco({"images": [], "annotations": []}).warnings == ()
    assert read_coco(coco_content([(0, 0, 1, 1)] * 30)).warnings == ()  # boxes of a pixel, not of a whole image


def test_each_shard_has_a_form_and_one_without_is_left_alone():
    """As labels of other formats, whose form is known."""
    shards = [
        replace(
            rows_from_object(coco_content([box], image_ids=[number], ids=[number]), file=f"{number}.json"), form=form
        )
        for number, (box, form) in enumerate(
            [((10, 10, 5, 5), None), ((10, 10, 15, 15), "xyxy"), ((12, 12, 4, 4), "cxcywh")]
        )
    ]
    dataset = dataset_of(shards)
    assert_allclose(dataset.instances.boxes_xywh, [[10, 10, 5, 5], [10, 10, 5, 5], [10, 10, 4, 4]])
    corners = rows_from_object(sample("nuclei", "xyxy"), file="a.json")
    assert dataset_of([corners]).warnings == ()
    other = replace(rows_from_object(coco_content([(1, 1, 2, 2)], image_ids=[9999]), file="b.json"), categories=None)
    (text,) = dataset_of([replace(corners, form="xywh"), other]).warnings
    assert text.startswith("a.json: bbox looks like (x0, y0, x1, y1)")


def test_an_outline_is_in_pixels_whatever_the_form_of_boxes():
    content = coco_content([(0.1, 0.1, 0.5, 0.5), (0, 0, 0, 0)], image_wh=(100, 50))
    content["annotations"][1] |= {"bbox": None, "segmentation": [[10, 20, 30, 20, 30, 25]]}
    dataset = read_coco(content, bbox="normalised")
    assert_allclose(dataset.instances.boxes_xywh, [[10, 5, 50, 25], [10, 20, 20, 5]])


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_form_is_named():
    forms = ", ".join(get_args(BoxForm))
    assert coco_error(coco_content([]), bbox="yolo") == f"bbox 'yolo' is not one of {forms}"


@given(arrays(float, (3, 4), elements=st.floats(0.1, 100)), arrays(float, (3, 2), elements=st.integers(1, 999)))
def test_every_form_is_converted_back(boxes, image_wh):
    for name, form in FORMS.items():
        written = np.array([form(*box, *wh) for box, wh in zip(boxes, image_wh, strict=True)])
        assert_allclose(boxes_to_xywh(written, image_wh, name), boxes, atol=1e-9)


def test_the_table_of_forms_is_complete():
    assert tuple(FORMS) == get_args(BoxForm)
