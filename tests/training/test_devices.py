"""Memory that is freed is used again, without page faults."""

from __future__ import annotations

import platform
import socket

import pytest

from detect.training.devices import interface_towards

FAULTS = """
import resource, torch
from detect.training.devices import keep_freed_memory

def least_faults():
    for _ in range(3):
        torch.ones(10_000_000)
    faults = []
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10_000_000)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(faults)  # the system may take pages back in between

print(least_faults(), keep_freed_memory(), least_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc's options are those of glibc")
def test_large_tensors_fault_no_pages_once_their_memory_was_used(fresh_python):
    before, kept, after = fresh_python(FAULTS).split()
    assert kept == "True"
    assert int(before) > 1000
    assert int(after) < 100


def test_the_interface_towards_another_host_is_one_of_this_host_s_and_none_leads_to_itself():
    towards = interface_towards("192.0.2.1")  # of RFC 5737: an address that no host has
    assert towards is None or towards in {name for _, name in socket.if_nameindex()} - {"lo"}
    assert interface_towards("127.0.0.1") is None
    assert interface_towards("no such host.invalid") is None
