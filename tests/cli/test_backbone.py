"""``detect backbone`` as a user types it."""

from __future__ import annotations


def test_the_group_has_help(detect):
    assert "fields of their maps" in detect("backbone", "--help").out
