"""Pascal VOC files: corners that count from 1, difficult objects, and files that are damaged."""

from __future__ import annotations

import pytest
from builders import findings_below, label_folder, labels_in_words

from detect.data.read_dataset import read_dataset

SIZE = "<size><width>100</width><height>50</height><depth>3</depth></size>"


def voc(*objects: str, size: str = SIZE, name: str = "a.jpg") -> str:
    return f"<annotation><folder>x</folder><filename>{name}</filename>{size}{''.join(objects)}</annotation>"


def box(x0: object, y0: object, x1: object, y1: object, more: str = "", name: str = "cat") -> str:
    corners = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


PLACE = "a.xml, object 1: annotation 1, image 1: "
FILES: dict[str, tuple[str, list[str], list[str], list[str]]] = {
    "a box of the whole image": (voc(box(1, 1, 100, 50)), ["a.jpg: cat 0 0 100 50"], [], []),
    "a box of one pixel": (voc(box(3, 4, 3, 4)), ["a.jpg: cat 2 3 1 1"], [], []),
    "decimals": (voc(box("1.5", " 2.25 ", "10.5", "20.0")), ["a.jpg: cat 0.5 1.25 10 18.75"], [], []),
    "counted from 0": (
        *(voc(box(0, 5, 10, 20)), ["a.jpg: cat 0 5 10 15"], []),
        ["a.xml: coordinates are taken to count from 0, not from 1 as VOC's: a.xml has one below 1"],
    ),
    "difficult": (
        *(voc(box(1, 1, 10, 20, "<difficult>1</difficult>")), ["a.jpg: (cat 0 0 10 20)"], []),
        [
            "a.xml: difficult objects are read as crowd regions, which are ignored, as in VOC's own evaluation: 1, "
            "the first is a.xml, object 1"
        ],
    ),
    "parts of an object": (
        *(voc(box(1, 1, 10, 20).replace("</object>", f"<part>{box(2, 2, 3, 3)[8:-9]}</part></object>")),),
        *(["a.jpg: cat 0 0 10 20"], [], []),
    ),
    "no objects": (voc(), [], [], []),
    "swapped corners": (voc(box(20, 1, 10, 5)), [], [f"{PLACE}width -9 is not positive"], []),
    "no number": (voc(box("", 1, 10, 5)), [], [f"{PLACE}'' is not a number"], []),
    "no box": (voc("<object><name>cat</name></object>"), [], [f"{PLACE}it has no bndbox"], []),
    "no name": (voc(box(1, 1, 10, 5, name="")), [], [f"{PLACE}it has no label"], []),
    "a name with markup": (voc(box(1, 1, 9, 9, name="a &amp; b")), ["a.jpg: a & b 0 0 9 9"], [], []),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_kept_counted_and_said_of_a_file(tmp_path, kind):
    text, annotations, invalid, suspicious = FILES[kind]
    dataset = read_dataset(label_folder(tmp_path, {"a.xml": text}) / "a.xml")
    assert labels_in_words(dataset) == annotations
    assert findings_below(tmp_path, dataset.invalid) == invalid
    assert findings_below(tmp_path, dataset.suspicious) == suspicious
    assert dataset.images.wh.tolist() == [[100, 50]]


@pytest.mark.parametrize("place", ["JPEGImages/a.jpg", "Annotations/a.jpg", "pictures/deep/a.jpg"])
def test_a_size_that_is_missing_is_that_of_the_image(tmp_path, place):
    label_folder(tmp_path, {"Annotations/a.xml": voc(box(1, 1, 100, 50), size=""), place: (100, 50)})
    images = tmp_path / "pictures" if "deep" in place else None
    dataset = read_dataset(tmp_path / "Annotations", images=images)
    assert dataset.images.wh.tolist() == [[100, 50]]
    assert dataset.images.file_names == ("deep/a.jpg" if images else "a.jpg",)


def test_order_of_files_does_not_matter_and_categories_are_sorted(tmp_path):
    texts = {f"{name}.xml": voc(box(1, 1, 9, 9, name=label), name=f"{name}.jpg") for name, label in ("bz", "ay", "cx")}
    label_folder(tmp_path, texts)
    paths = [tmp_path / name for name in texts]
    expected = labels_in_words(read_dataset(tmp_path))
    assert expected == ["a.jpg: y 0 0 9 9", "b.jpg: z 0 0 9 9", "c.jpg: x 0 0 9 9"]
    for order in (paths, paths[::-1]):
        dataset = read_dataset(order)
        assert labels_in_words(dataset) == expected
        assert dataset.categories == {1: "x", 2: "y", 3: "z"}
        assert dataset.annotations.ids.tolist() == [1, 2, 3]
