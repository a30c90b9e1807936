"""Tables of points: napari's, ImageJ's and plain ones, with any separator."""

from __future__ import annotations

import pytest
from builders import findings_below, label_folder, labels_in_words

from detect.data.formats.point_tables import is_point_table, read_points, table_columns
from detect.data.read_dataset import read_dataset, read_point_files
from detect.errors import CocoError
from detect.keypoints.coco_keypoints import coco_keypoints

TABLES: dict[str, tuple[str, list[str], list[str]]] = {
    "napari": ("index,axis-0,axis-1\n0,4.0,3.0\n1,6.0,5.5\n", ["a: point 3 4", "a: point 5.5 6"], []),
    "ImageJ": (" ,Area,Mean,X,Y\n1,0,7,3,4\n", ["a: point 3 4"], []),
    "ImageJ with the images": (
        " ,Label,X,Y\n1,b.tif:0001,3,4\n2,c.tif,5,6\n",
        ["b.tif: point 3 4", "c.tif: point 5 6"],
        [],
    ),
    "a column of images": ("image,x,y\nb.png,3,4\nc.png,5,6\n", ["b.png: point 3 4", "c.png: point 5 6"], []),
    "labels": ("x,y,label\n3,4,cell\n5,6,\n", ["a: cell 3 4", "a: point 5 6"], []),
    "semicolons and decimal commas": ("x;y\r\n3,25;4,5\r\n", ["a: point 3.25 4.5"], []),
    "tabs": ("x\ty\n3\t4\n", ["a: point 3 4"], []),
    "a byte order mark and quotes": ('\ufeff"X","Y"\n"3","4"\n', ["a: point 3 4"], []),
    "only the header": ("x,y\n", [], []),
    "a blank line": ("x,y\n\n3,4\n", ["a: point 3 4"], []),
    "a word": (
        "x,y\n3,four\n5,6\n",
        ["a: point 5 6"],
        ["a.csv, line 2: annotation 1, image 1: 'four' is not a number"],
    ),
    "decimal commas between commas": (
        "x,y\n3,5,6,5\n5,6,,\n",
        ["a: point 5 6"],
        [
            "a.csv, line 2: annotation 1, image 1: 4 values for 2 columns: values with a ',' inside need quotes, or another "
            "separator"
        ],
    ),
    "a short line": ("x,y\n3\n", [], ["a.csv, line 2: annotation 1, image 1: '' is not a number"]),
}


@pytest.mark.parametrize("kind", TABLES)
def test_what_is_kept_and_said_of_a_table(tmp_path, kind):
    text, points, invalid = TABLES[kind]
    images = {f"images/{name}": (50, 40) for name in ("a.png", "b.png", "c.png", "b.tif", "c.tif")}
    label_folder(tmp_path, {"a.csv": text, **images})
    dataset = read_dataset(tmp_path / "a.csv", images=tmp_path / "images", keypoints=True)
    found = [text.split() for text in labels_in_words(dataset)]
    assert [" ".join([*text[:2], *text[-3:-1]]).replace("a.png:", "a:") for text in found] == points
    assert findings_below(tmp_path, dataset.invalid) == invalid
    assert set(map(tuple, dataset.images.wh.tolist())) <= {(50, 40)}


def test_points_are_keypoints_of_one_type_for_each_label(tmp_path):
    label_folder(tmp_path, {"a.csv": "x,y,label\n3,4,cell\n5,6,nucleus\n7,8,cell\n", "a.png": (50, 40)})
    found = coco_keypoints(read_dataset(tmp_path / "a.csv", images=tmp_path, keypoints=True))
    assert found.type_names == ("cell", "nucleus")
    assert found.landmarks.points.tolist() == [[3, 4], [5, 6], [7, 8]]
    assert found.landmarks.types.tolist() == [0, 1, 0]


def test_without_keypoints_points_have_no_box(tmp_path):
    label_folder(tmp_path, {"a.csv": "x,y\n3,4\n", "a.png": (50, 40)})
    assert findings_below(tmp_path, read_dataset(tmp_path / "a.csv", images=tmp_path).invalid) == [
        "a.csv, line 2: annotation 1, image 1: it has no bbox"
    ]


@pytest.mark.parametrize("text", ["index,axis-0,axis-1,axis-2\n0,1,2,3\n", "x,y,z\n1,2,3\n"])
def test_points_in_three_axes_are_no_labels_of_images(tmp_path, text):
    label_folder(tmp_path, {"a.csv": text})
    with pytest.raises(CocoError, match=r"a\.csv: points with three axes, which images do not have"):
        read_dataset(tmp_path / "a.csv")


def points_of(folder, text, **options):
    (folder / "a.csv").write_text(text, "utf-8")
    return read_points([str(folder / "a.csv")], **options)


def test_points_of_volumes_by_hand(tmp_path):
    # napari has z, y, x; its index 4 and the probability are no coordinates
    found = points_of(tmp_path, "index,axis-0,axis-1,axis-2,probability,label\n4,1,2.5,3,0.5,spot\n")
    assert (found.points.tolist(), found.scores.tolist(), found.axes) == ([[3.0, 2.5, 1.0]], [0.5], "x, y, z")
    assert (found.images, found.type_names, found.has_scores) == (("a",), ("spot",), True)
    # corners: half a pixel less in each axis
    text = "image;x;y;z;pixel_origin\nfolder/b.ome.tif;1,5;2,5;3,5;corner\nc.tif;4;5;6;center\n"
    found = points_of(tmp_path, text)
    assert found.points.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert (found.images, found.image_rows.tolist(), found.has_scores) == (("b", "c"), [0, 1], False)
    assert found.scores.tolist() == [1.0, 1.0]
    assert points_of(tmp_path, "x,y\n1,2\n", pixel_origin="corner").points.tolist() == [[0.5, 1.5]]


def test_rows_that_are_no_points_are_listed_by_line(tmp_path):
    found = points_of(
        tmp_path, "x,y,z,score,pixel_origin\n1,2,3,.5,\n\n1,2,,.5,\n1,2,3,high,\n1,2,3,.5,middle\nnan,2,3,1,\n"
    )
    assert found.points.tolist() == [[1.0, 2.0, 3.0]]
    assert findings_below(tmp_path, found.invalid) == [
        "a.csv, line 4: '' is not a number",
        "a.csv, line 5: 'high' is not a number",
        "a.csv, line 6: 'middle' is no pixel origin, center or corner",
        "a.csv, line 7: 'nan' is not a number",
    ]
    assert str(found.finding(0, "far away")).endswith("a.csv, line 2: far away")


@pytest.mark.parametrize(
    "files",
    [
        {"found/a/t.csv": "x,y\n1,1\n", "found/b/t.csv": "x,y\n5,5\n"},
        {"found/all.csv": "image,x,y\na/t.png,1,1\nb/t.png,5,5\n"},
        {"found/all.csv": "image,x,y\nt.png,1,1\nt.tif,5,5\n"},
    ],
)
def test_two_images_of_one_name_are_not_taken_as_one(tmp_path, files):
    label_folder(tmp_path, files)
    with pytest.raises(CocoError, match="two images of one name, 't', which tells the images: rename one"):
        read_point_files(tmp_path / "found")


def test_frames_are_not_taken_as_one_image(tmp_path):
    message = r"a\.csv, line 3: frame '1' after '0': points of several frames in one image: give each frame a table"
    with pytest.raises(CocoError, match=message):
        points_of(tmp_path, "frame,x,y\n0,1,2\n1,3,4\n")
    with pytest.raises(CocoError, match=message):
        read_dataset(tmp_path / "a.csv")
    assert len(points_of(tmp_path, "image,frame,x,y\na.png,0,1,2\nb.png,1,3,4\n").points) == 2
    assert len(points_of(tmp_path, "frame,x,y\n0,1,2\n0,3,4\n").points) == 2


def test_an_image_has_the_name_after_its_folders_of_any_system(tmp_path):
    assert points_of(tmp_path, "image,x,y\nC:\\data\\t.png,1,1\nC:\\data\\t.png,5,5\n").images == ("t",)


def test_an_image_without_points_is_a_table_of_a_header(tmp_path):
    label_folder(tmp_path, {"a.csv": "x,y,z\n", "b.csv": "x,y,z\n1,2,3\n"})
    found = read_point_files(tmp_path)
    assert (found.images, found.image_rows.tolist(), found.points.shape) == (("a", "b"), [1], (1, 3))


def test_tables_of_points_alone_and_of_one_kind(tmp_path):
    label_folder(
        tmp_path, {"a.csv": "x,y,z\n", "b.csv": "x,y\n", "c.json": '{"images": []}', "d.csv": "axis-0,axis-1,axis-3\n"}
    )
    for names, message in (
        (["a.csv", "b.csv"], r"b\.csv: points with 2 axes, those of .*a\.csv 3: give tables of one kind"),
        (["a.csv", "c.json"], r"c\.json: no table of points \(a CSV with columns x, y\[, z\]\)"),
        (["d.csv"], "four axes or more"),
    ):
        with pytest.raises(CocoError, match=message):
            read_point_files([tmp_path / name for name in names])
    assert [is_point_table(tmp_path / name) for name in ("a.csv", "c.json", "none.csv", "")] == [
        True,
        False,
        False,
        True,
    ]


def test_a_table_without_coordinates_is_none_of_points():
    assert table_columns("image,label,count") is None
    assert table_columns("image\tx\ty") == ("\t", ["image", "x", "y"])
