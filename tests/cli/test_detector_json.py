"""The resize rules in ``detector.json`` say, in numbers, what the rules do."""

from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.cli.detector_json import describe_resize
from detect.data.resize import parse_resize

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_onnx.py"
RULES = ["none", "stretch:224x160", "letterbox:640", "letterbox:320x192", "shortest:800:1333", "shortest:480:640:mmdet"]


@pytest.fixture(scope="module")
def place():
    return runpy.run_path(str(EXAMPLE))["place"]


@pytest.mark.parametrize("rule", RULES)
def test_the_example_places_images_where_the_rule_does(rule, place):
    @given(st.integers(1, 5000), st.integers(1, 5000))
    def for_any_size(width, height):
        wh = np.array([width, height])
        moved = parse_resize(rule).resize_images(wh[None])
        size, canvas, offset, scale = place(describe_resize(parse_resize(rule)), wh)
        assert_allclose([size, canvas], [moved.content_wh[0], moved.canvas_wh[0]], rtol=0)
        assert_allclose([offset, scale], [moved.offset_xy[0], moved.scale_xy[0]], rtol=1e-12)

    for_any_size()


def test_numbers_are_those_of_the_rule():
    described = describe_resize(parse_resize("shortest:800:1333:mmdet"))
    assert [described[name] for name in ("short", "long", "rounding", "multiple")] == [800, 1333, 0.5, 32]
    tiles = describe_resize(parse_resize("tiles:512:64"))
    assert (tiles["kind"], tiles["width"], tiles["height"], tiles["offset"]) == ("tiles", 512, 512, "0")
    assert describe_resize(parse_resize("none"))["canvas"] == "that of the image"


def test_the_example_refuses_a_damaged_network(tmp_path, monkeypatch):
    network = bytes(range(200))
    (tmp_path / "detector.json").write_text(json.dumps({"sha256": hashlib.sha256(network).hexdigest()}))
    (tmp_path / "detector.onnx").write_bytes(network[:100] + b"\x00" + network[101:])
    monkeypatch.setattr("sys.argv", ["run_onnx.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"detector\.onnx: damaged, or of another export"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
