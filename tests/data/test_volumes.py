"""Arrays in files: what is read, the axes and sizes that files state, and files that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detect.data import volumes
from detect.data.volumes import open_array
from detect.errors import ImageError, MissingExtraError

tifffile = pytest.importorskip("tifffile")
zarr = pytest.importorskip("zarr")

VOLUME = np.random.default_rng(0).integers(0, 2**16, (5, 40, 50), np.uint16)
WINDOW = (slice(1, 3), slice(5, 40), slice(30, 45))
OME = {f"PhysicalSize{axis}": size for axis, size in (("X", 0.5), ("Y", 500.0), ("Z", 2.0))} | {
    "PhysicalSizeYUnit": "nm"
}


def saved(path: Path, values: np.ndarray = VOLUME, **options: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez_compressed(path, maps=values)
    elif path.suffix == ".zarr":
        array = zarr.create_array(path, shape=values.shape, chunks=(16,) * values.ndim, dtype=values.dtype, **options)
        array[:] = values
    else:
        tifffile.imwrite(path, values, **options)
    return path


def ome_zarr(path: Path, *, version: str = "0.5", axes: Any = None, level: str = "full") -> Path:
    """An OME-Zarr image of two levels."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    for name, array in (("full", VOLUME), ("half", VOLUME[..., ::2, ::2])):
        group.create_array(name, data=np.ascontiguousarray(array), chunks=(5, 16, 16))
    units = ["micrometer", "micrometer", "nanometer"]
    axes = axes or [{"name": name, "type": "space", "unit": unit} for name, unit in zip("zyx", units, strict=True)]
    scale = [{"type": "scale", "scale": [2.0, 0.5, 250.0]}, {"type": "translation", "translation": [0.0, 0.0, 0.0]}]
    datasets = [{"path": level, "coordinateTransformations": scale}, {"path": "half"}]
    image = {"axes": axes, "datasets": datasets, "coordinateTransformations": [{"type": "scale", "scale": [1, 2, 2]}]}
    about = {"multiscales": [image]}
    group.attrs.update(about if version == "0.4" else {"ome": {"version": version, **about}})
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.npy", {}),
        ("a.npz", {}),
        ("a.zarr", {}),
        ("plain.tif", {"photometric": "minisblack"}),
        ("big.tif", {"bigtiff": True, "tile": (16, 32), "photometric": "minisblack"}),
        ("stack.tif", {"imagej": True, "metadata": {"axes": "ZYX"}}),
        ("a.ome.tif", {"tile": (16, 16), "metadata": {"axes": "ZYX"}}),
        ("big_endian.tif", {"byteorder": ">", "photometric": "minisblack"}),
    ],
)
def test_a_window_of_every_format_is_that_of_the_array(tmp_path, name, options):
    found = open_array(saved(tmp_path / name, **options))
    assert (found.axes, found.extents, found.num_channels) == ("zyx", (5, 40, 50), 1)
    assert_array_equal(found.read(WINDOW), VOLUME[WINDOW][None])
    floats = found.as_maps(found.read(WINDOW))
    assert_array_equal(floats, VOLUME[WINDOW][None].astype(np.float32) / np.float32(65535))
    assert floats.flags.writeable
    assert floats.flags.c_contiguous


def test_pixels_are_read_when_they_are_asked_for(tmp_path):
    path = saved(tmp_path / "a.npy")
    found = open_array(path)
    np.save(path, VOLUME + 1)
    assert_array_equal(found.read(WINDOW)[0], VOLUME[WINDOW] + 1)
    assert isinstance(open_array(path).values, np.memmap)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_is_its_full_resolution_in_micrometres(tmp_path, version):
    found = open_array(ome_zarr(tmp_path / "a.zarr", version=version))
    assert_array_equal(found.read(WINDOW)[0], VOLUME[WINDOW])
    assert found.spacing_xyz == pytest.approx((0.5, 1.0, 2.0))  # 250 nm times 2, .5 times 2, 2 times 1
    assert found.pieces == (5, 16, 16)


def test_old_axes_are_names_alone_and_have_no_unit(tmp_path):
    found = open_array(ome_zarr(tmp_path / "a.zarr", version="0.4", axes=["z", "y", "x"]))
    assert (found.axes, found.spacing_xyz) == ("zyx", None)


@pytest.mark.parametrize(
    ("name", "options", "spacing"),
    [
        ("a.ome.tif", {"metadata": {"axes": "ZYX", **OME}}, (0.5, 0.5, 2.0)),
        (
            "a.tif",
            {"imagej": True, "resolution": (4, 2), "metadata": {"axes": "ZYX", "unit": "um", "spacing": 3.0}},
            (0.25, 0.5, 3.0),
        ),
        ("b.tif", {"imagej": True, "resolution": (4, 2), "metadata": {"axes": "ZYX"}}, None),
    ],
)
def test_sizes_of_a_pixel_are_those_that_a_tiff_states(tmp_path, name, options, spacing):
    assert open_array(saved(tmp_path / name, **options)).spacing_xyz == (spacing and pytest.approx(spacing))


@pytest.mark.parametrize(("unit", "spacing"), [("CENTIMETER", (0.5, 0.25)), ("INCH", None)])
def test_dots_per_inch_are_not_the_size_of_a_specimen(tmp_path, unit, spacing):
    path = saved(tmp_path / "a.tif", VOLUME[0], resolution=(20_000, 40_000), resolutionunit=unit)
    assert open_array(path).spacing_xyz == (spacing and pytest.approx(spacing))


def test_axes_given_replace_those_of_the_file(tmp_path):
    path = saved(tmp_path / "a.npy")
    maps = open_array(path, axes="cyx")
    assert (maps.extents, maps.num_channels, maps.space) == ((40, 50), 5, "yx")
    assert_array_equal(maps.read(WINDOW[1:]), VOLUME[(slice(None), *WINDOW[1:])])
    turned = open_array(path, axes="xcy")
    assert_array_equal(turned.read((slice(2, 9), slice(1, 3))), VOLUME[1:3, :, 2:9].transpose(1, 2, 0))


def test_colours_are_channels_and_axes_of_one_are_left_out(tmp_path):
    colours = VOLUME[:3].transpose(1, 2, 0).astype(np.uint8).copy()
    found = open_array(saved(tmp_path / "a.tif", colours, photometric="rgb"))
    assert (found.axes, found.num_channels) == ("yxc", 3)
    assert_array_equal(found.read((slice(5), slice(6))), colours[:5, :6].transpose(2, 0, 1))
    names = ("t", "c", "z", "y", "x")
    found = open_array(saved(tmp_path / "a.zarr", VOLUME[None, None], dimension_names=names))
    assert_array_equal(found.read(WINDOW), VOLUME[WINDOW][None])


def test_floats_are_taken_as_they_are(tmp_path):
    found = open_array(saved(tmp_path / "a.npy", np.array([[-2.0, 1e9, np.nan]])))
    assert_array_equal(found.as_maps(found.read((slice(1), slice(3)))), [[[-2.0, 1e9, np.nan]]])
    integers = open_array(saved(tmp_path / "b.npy", np.zeros((3, 3), np.int64)))
    with pytest.raises(ImageError, match=r"b\.npy: values of type int64: maps are floats from 0 to 1, uint8 or uint16"):
        integers.check_maps()


def read_whole(path: Path, **options: Any) -> np.ndarray:
    found = open_array(path, **options)
    return found.read([slice(0, extent) for extent in found.extents])


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(ImageError) as error:
        read_whole(path, **options)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_files_of_another_kind_are_named(tmp_path):
    assert "No such file" in refused(tmp_path / "no.tif")
    (tmp_path / "a.tif").write_bytes(b"neither of them")
    assert "neither NumPy's .npy and .npz, nor TIFF, nor a zarr folder" in refused(tmp_path / "a.tif")
    refused(tmp_path)
    zarr.open_group(tmp_path / "group.zarr", mode="w").create_array("raw", data=np.zeros((2, 2)))
    assert "without OME's multiscales; give one of its arrays or images (raw)" in refused(tmp_path / "group.zarr")
    assert open_array(tmp_path / "group.zarr" / "raw").extents == (2, 2)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.tif", "a.ome.tif", "a.zarr"])
def test_damaged_files_are_one_line(tmp_path, name, capfd):
    path = saved(tmp_path / name)
    for file in [path] if path.is_file() else [path / "zarr.json"]:
        content = file.read_bytes()
        for length in (8, len(content) // 3):
            file.write_bytes(content[:length])
            refused(path)
    assert capfd.readouterr().err == ""


def test_a_chunk_that_is_damaged_is_named_when_it_is_read(tmp_path):
    path = saved(tmp_path / "a.zarr")
    (path / "c" / "0" / "1" / "0").write_bytes(b"no chunk")
    found = open_array(path)
    found.read((slice(3), slice(16), slice(50)))
    with pytest.raises(ImageError, match=r"a\.zarr: cannot be read at z 0 to 3, y 0 to 20, x 0 to 5: "):
        found.read((slice(0, 3), slice(0, 20), slice(0, 5)))


def test_objects_in_numpy_files_run_no_code(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert "Python objects" in refused(tmp_path / "a.npy")


def test_a_level_may_not_lead_out_of_its_folder(tmp_path):
    saved(tmp_path / "secret.zarr")
    for path in ("../secret.zarr", str(tmp_path / "secret.zarr")):
        assert "leads out of the folder" in refused(ome_zarr(tmp_path / "a.zarr", level=path))
    (tmp_path / "a.zarr" / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"multiscales": [{}]}}})
    )
    assert "KeyError" in refused(tmp_path / "a.zarr")


def test_pieces_larger_than_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    zarr.create_array(path, shape=(10**6, 10**6), chunks=(10**5, 10**5), dtype="uint8")
    assert "stored in pieces of 9.3 GiB, too large to read one: save it in tiles" in refused(path)
    monkeypatch.setattr(volumes, "MAX_PIECE_BYTES", 1000)
    assert "unpacked, which is read as a whole: save it as .npy" in refused(saved(tmp_path / "a.npz"))


def test_axes_that_do_not_fit_are_named(tmp_path):
    path = saved(tmp_path / "a.npy")
    for axes in ("yx", "zzx", "zyc"):
        assert "5 x 40 x 50 pixels, axes" in refused(path, axes=axes)
    assert "5 along the axis 't' of 'tyx', and one is read: save each in a file of its own" in refused(path, axes="tyx")
    assert "no names of its axes" in refused(saved(tmp_path / "b.npy", VOLUME[None, None]))
    assert "no pixels" in refused(saved(tmp_path / "c.npy", VOLUME[:0]))


def test_a_folder_of_other_files_is_named(tmp_path):
    saved(tmp_path / "a.npy")
    assert "a folder, but not of zarr" in refused(tmp_path)


def test_several_arrays_of_one_file_need_the_name_heatmaps(tmp_path):
    np.savez(tmp_path / "a.npz", a=VOLUME, b=VOLUME)
    assert "arrays a, b: expected one, or one named heatmaps" in refused(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", heatmaps=VOLUME[None] / 2**16, positives=VOLUME)
    found = open_array(tmp_path / "b.npz")
    assert (found.axes, found.num_channels, found.extents) == ("tcyx", 5, (40, 50))


@pytest.mark.parametrize(("name", "package"), [("a.tif", "tifffile"), ("a.zarr", "zarr")])
def test_a_missing_package_is_named_with_its_extra(tmp_path, name, package, monkeypatch):
    path = saved(tmp_path / name)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(
        MissingExtraError, match=rf"{name}: reading it needs {package}: pip install 'detect-heads\[slides\]'"
    ):
        open_array(path)
