"""Memory that is freed is used again, without page faults."""

from __future__ import annotations

import platform

import pytest

FAULTS = """
import resource, torch
from detect.training.devices import keep_freed_memory
kept = {keep} and keep_freed_memory()
for _ in range(3):
    torch.ones(10_000_000)
faults = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, min(faults))  # the system may take pages back in between
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc's options are those of glibc")
def test_large_tensors_fault_no_pages_once_their_memory_was_used(fresh_python):
    kept, faults = {}, {}
    for keep in (False, True):
        kept[keep], faults[keep] = fresh_python(FAULTS.format(keep=keep)).split()
    assert kept == {False: "False", True: "True"}
    assert int(faults[True]) < 100
    assert int(faults[False]) > 1000
