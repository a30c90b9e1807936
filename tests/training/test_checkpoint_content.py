"""The content of a checkpoint: each value has its type, and each fault is named."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detect.anchors.anchor_set import AnchorSet
from detect.errors import ConfigError
from detect.loading.labels import LabelMap
from detect.training.checkpoint_content import check_content, plain_anchors

ANCHORS = AnchorSet.of([[(10, 20), (30, 20)], [(60, 60)]], strides=(8, 16), resize="letterbox:640")
LABELS = LabelMap((3, 90), ("round", "square"), ("a", "b"), {3: (0, 1)})
CONTENT = {
    "format": 1,
    "version": "0.2.0",
    "config": "task: boxes",
    "labels": asdict(LABELS),
    "anchors": plain_anchors(ANCHORS),
    "weights": {"head.bias": torch.ones(3)},
    "step": 12,
    "metrics": {"ap": float("nan")},
    "training": {"state": {}, "stepper": {}, "images": 8, "more": [1]},
}
STRANGE: list[Any] = [None, True, "text", -1, 2.5, [None], {"a": "b"}, {1: 2}, torch.ones(2)]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value inside a nested one."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return [way for key, item in inner for way in [(*path, key), *places(item, (*path, key))]]


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of the content with another value at this place."""
    if not path:
        return value
    if isinstance(content, dict):
        return {key: changed(item, path[1:], value) if key == path[0] else item for key, item in content.items()}
    return [changed(item, path[1:], value) if number == path[0] else item for number, item in enumerate(content)]


def test_what_is_written_is_read():
    checked = check_content(copy.copy(CONTENT))
    assert checked.labels == LABELS
    assert checked.anchor_set.levels == ANCHORS.levels
    assert (checked.anchor_set.resize, checked.step) == ("letterbox:640", 12)
    assert checked.training == CONTENT["training"]  # also what this version does not know
    assert check_content({**CONTENT, "anchors": None, "training": None}).anchor_set is None


@given(st.sampled_from(places(CONTENT)), st.sampled_from(STRANGE))
def test_any_value_of_another_type_is_named_or_does_no_harm(path, value):
    content = changed(CONTENT, path, value)
    with suppress(ConfigError):
        checked = check_content(content)
        assert all(isinstance(weight, torch.Tensor) for weight in checked.weights.values())
        assert all(isinstance(name, str) for name in checked.labels.category_names)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("labels", "category_names", 0), 7, r"Expected str, got int - at \$.labels.category_names\[0\]"),
        (("labels", "category_ids"), (90, 3), "category ids that rise"),
        (("labels", "category_ids"), (3,), "one name for each category"),
        (("labels", "category_types"), {3: (0, 9)}, "without a name"),
        (("labels", "category_types"), {4: (0,)}, "of other categories"),
        (("anchors", "levels"), [], "got \\[\\]"),
        (("anchors", "levels", 0, 2), [], "level P3 has no shapes"),
        (("anchors", "levels", 0, 1), 16, r"different strides, fine to coarse, got \[16, 16\]"),
        (("anchors", "levels", 0, 1), 32, r"different strides, fine to coarse, got \[32, 16\]"),
        (("anchors", "levels", 0, 2, 0), (float("nan"), 3.0), "Expected float > 0.0"),
        (("anchors", "levels", 0), ("P3", 8), "Expected array of length 3"),
        (("weights", "head.bias"), [1.0], "Expected Tensor, got list"),
        (("weights", "head.bias"), torch.eye(3).to_sparse(), "'head.bias' is not a dense tensor"),
        (("weights", "head.bias"), torch.ones(3, device="meta"), "'head.bias' is not a dense tensor"),
        (("step",), -1, "Expected int >= 0"),
        (("step",), "\ud800", "a text that is no Unicode"),
        (("metrics", "ap"), "high", "Expected float, got str"),
        (("training", "stepper"), 3, "Expected object, got int"),
    ],
)
def test_each_fault_is_named(path, value, message):
    with pytest.raises(ConfigError, match=message):
        check_content(changed(CONTENT, path, value))


@pytest.mark.parametrize("name", [name for name in CONTENT if name not in ("format", "version")])
def test_a_missing_part_is_named(name):
    with pytest.raises(ConfigError, match=f"missing required field {name}"):
        check_content({key: value for key, value in CONTENT.items() if key != name})
