"""Counts and lists in sentences."""

from __future__ import annotations

from detect.wording import listed, plural


def test_nouns_follow_their_count():
    cases = ((0, "box"), (1, "box"), (1000, "size"), (2, "category"))
    assert [plural(*case) for case in cases] == ["0 boxes", "1 box", "1,000 sizes", "2 categories"]


def test_as_many_items_as_allowed_are_all_named():
    assert listed("abc", most=3) == "a, b, c"
    assert listed("abcd", most=3) == "a, b, c, and 1 more"
    assert listed(range(2000), most=1, between="; ") == "0; and 1,999 more"
    assert listed([]) == ""
