"""Uncompiled functions; tests/test_head_graphs.py and tests/heads/test_criterion.py compile what calls them."""

from __future__ import annotations

PARTS = """
import sys, torch
from detect import PostProcess, RetinaNetCriterion, RetinaNetHead
from detect.ops.uncompiled import COMPILER, uncompiled

assert COMPILER not in sys.modules
seen = []
double = uncompiled(lambda values: seen.append(torch.compiler.is_compiling()) or 2 * values)
assert double(torch.ones(1)) == 2
compiled = torch.compile(lambda values: double(values + 1) + 1, backend="eager")
assert compiled(torch.ones(1)) == 5 and COMPILER in sys.modules
assert seen == [False, False], seen
"""


def test_parts_of_detectors_load_no_compiler_and_are_not_compiled(fresh_python):
    fresh_python(PARTS)
