"""Counts and lists in sentences."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from detect.wording import MAX_NAME, listed, listed_below, plural, printable, shortened


def test_nouns_follow_their_count():
    cases = ((0, "box"), (1, "box"), (1000, "size"), (2, "category"))
    assert [plural(*case) for case in cases] == ["0 boxes", "1 box", "1,000 sizes", "2 categories"]


def test_as_many_items_as_allowed_are_all_named():
    assert listed("abc", most=3) == "a, b, c"
    assert listed("abcd", most=3) == "a, b, c, and 1 more"
    assert listed(range(2000), most=1, between="; ") == "0; and 1,999 more"
    assert listed([]) == ""


def test_a_list_below_its_number_ends_with_what_lists_the_others():
    assert listed_below("odd", [], others="--all") == []
    assert listed_below("odd", [1, 3, 5, 7, 9], others="--all") == ["5 odd:", "  1", "  3", "  5", "  7", "  9"]
    assert listed_below("odd", range(1, 4001, 2), others="--all")[-2:] == [
        "  9",
        "  and 1,995 more: --all lists them all",
    ]


@given(st.text())
def test_printed_text_holds_nothing_that_a_terminal_obeys(text):
    for shown in (printable(text), printable(text, lines=True).replace("\n", "").replace("\t", "")):
        assert not {unicodedata.category(each) for each in shown} & {"Cc", "Cs", "Zl", "Zp"}
        assert shown.encode().decode() == shown
    if text.isprintable():
        assert printable(text) == text


def test_a_long_name_keeps_its_start_and_its_end():
    name = "a" * 50 + "/" + "b" * 50 + ".png"
    assert len(shortened(name)) == MAX_NAME
    assert shortened(name).endswith("b.png")
