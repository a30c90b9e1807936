from __future__ import annotations

import csv
import io
import itertools
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.text_formats import csv_text, parse_yaml, read_yaml, unguarded


@pytest.mark.parametrize(
    "text",
    [
        *("a: [", "!!int ", "!!int x", "!!timestamp x", "!!float x", "!!bool x", "!!binary x", "!!omap x", "!!set x"),
        *("!!python/object/apply:os.getcwd []", "[" * 1200, "\x00", "9" * 5000, "0x" + "f" * 5000, "\ud800"),
        *('"\\ud800"', "? [a]\n: b", r'a: ["b\0"]', r'{"\x00": 1}', r'!!set {"\u0000"}'),
        *("&a [*a]", "&a {b: *a}", "*a", "<<: 3", "a: &a {<<: *a}"),
        # each list is nine of the one before: four billion values
        *("\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 11))]),),
        # likewise by merging, which copies while it is read
        *(
            "\n".join(
                ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 9))]
            ),
        ),
        *(f"a: &a {'x' * 50_000}\nb: [{', '.join(['*a'] * 50_000)}]",),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_plain_yaml_raises_the_given_error_in_one_short_line(text):
    with pytest.raises(KeyError) as caught:
        parse_yaml(text, KeyError)
    assert caught.value.args[0].startswith("not YAML (")
    assert "\n" not in caught.value.args[0]
    assert len(caught.value.args[0]) < 400


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000, "0x" + "f" * 5000, "0b" + "1" * 20_000])
def test_an_integer_of_too_many_digits_in_yaml_is_an_error_with_its_line(number):
    with pytest.raises(KeyError, match=r"an integer of too many digits.* line 2, column 4"):
        parse_yaml(f"k: 9\nl: {number}", KeyError)


@pytest.mark.parametrize("text", ["to: coco\nto: yolo", "a: [{b: 1,\n b: 2}]", "? a\n? a", "{1: x,\n 1: y}"])
def test_a_key_that_is_there_twice_is_an_error_with_its_line(text):
    with pytest.raises(KeyError, match=r"is there twice.* line 2"):
        parse_yaml(text, KeyError)
    assert parse_yaml("{a: 1, b: {a: 2}, 'c': {<<: {a: 3}, a: 4}, 1: 5, '1': 6}", KeyError)["c"] == {"a": 4}


def test_plain_yaml_is_read_with_aliases_and_dates_as_they_are_written():
    assert parse_yaml("a: [1]", KeyError) == {"a": [1]}
    assert parse_yaml("", KeyError) is None
    assert parse_yaml("base: &base {k: 9}\nown: {<<: *base, x: 1}\nsame: *base", KeyError)["own"] == {"k": 9, "x": 1}
    assert parse_yaml("[2020-01-01, 2020-99-99, 1e3, ~]", KeyError) == ["2020-01-01", "2020-99-99", "1e3", None]


@given(st.text("ab:[]{}&*!<>-?|'~ \\\n1\x00\ud800\u2028" + '"', max_size=30))
def test_any_text_is_yaml_or_one_line(text):
    with suppress(KeyError):
        parse_yaml(text, KeyError)


def test_a_yaml_file_names_itself_in_its_error(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [1]")
    assert read_yaml(tmp_path / "a.yaml", KeyError) == {"a": [1]}
    (tmp_path / "a.yaml").write_text("a: [")
    for name, reason in (("a.yaml", "not YAML"), ("b.yaml", "No such file")):
        with pytest.raises(KeyError, match=rf"{name}: {reason}"):
            read_yaml(tmp_path / name, KeyError)


CELLS = st.text("=+-@ab1. '\t\n,", max_size=6) | st.floats(allow_nan=False) | st.none()


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=4))
def test_no_cell_of_a_table_is_a_formula_and_each_comes_back(rows):
    read = list(csv.reader(io.StringIO(csv_text(["a", "b"], rows), newline="")))
    for cell, text in zip(itertools.chain(*rows), itertools.chain(*read[1:]), strict=True):
        if isinstance(cell, str):
            assert unguarded(text) == cell or cell[:1] == "'"  # an apostrophe of one's own before a formula is lost
            if text.strip().startswith(("=", "+", "-", "@")) and text != "-":
                float(text)  # a number
        elif cell is not None:
            assert float(text) == cell
