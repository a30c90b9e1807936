from __future__ import annotations

import ast
from pathlib import Path

import detect

ROOT = Path(detect.__file__).parent


def test_public_names_are_sorted_and_all_there():
    assert list(detect.__all__) == sorted(detect.__all__)
    stub = ast.parse((ROOT / "__init__.pyi").read_text("utf-8"))
    (declared,) = [ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign)]
    assert declared == list(detect.__all__)
    for name in detect.__all__:
        assert getattr(detect, name).__doc__


def test_no_module_is_a_drawer_for_odds_and_ends():
    names = {path.stem for path in ROOT.rglob("*.py")}
    assert names.isdisjoint({"utils", "util", "common", "core", "misc", "helpers"})
