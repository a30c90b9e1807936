"""Hashes of images: repeated names and images of two datasets, in any order, within bounds."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from detect.advice import image_hashes
from detect.advice.image_hashes import ImageHashes, hash_of
from detect.ops.exact_sums import add_up

NAMES = st.lists(st.sampled_from("abcdefgh"), max_size=12)


@given(NAMES, st.integers(1, 4))
def test_repeated_names_are_found_in_any_split(names, parts):
    shards = [ImageHashes.of(names[n::parts], range(n, len(names), parts)) for n in range(parts)]
    found = add_up(shards[::-1])
    again = {name for name, times in Counter(names).items() if times > 1}
    assert set(found.repeated) == {hash_of(name) for name in again}
    assert sorted(found.ids.tolist()) == list(range(len(names)))


@given(NAMES, NAMES)
def test_images_known_to_others_are_those_with_their_names(own, others):
    found = ImageHashes.of(own, range(len(own))).known_to(ImageHashes.of(others, range(len(others))))
    assert sorted(found.ids.tolist()) == [number for number, name in enumerate(own) if name in others]


def test_above_the_bound_those_of_the_lowest_hashes_stay(monkeypatch):
    monkeypatch.setattr(image_hashes, "MAX_KEPT", 5)
    names = [f"{number}.jpg" for number in range(40)]
    whole = ImageHashes.of(names, range(40))
    assert whole.hashes.tolist() == sorted(map(hash_of, names))[:5]
    assert (
        ImageHashes.of(names[7:], range(7, 40)) + ImageHashes.of(names[:7], range(7))
    ).ids.tolist() == whole.ids.tolist()


def test_an_image_without_a_key_has_no_hash():
    assert ImageHashes.of([None, "a"], [1, 2]).ids.tolist() == [2]
    assert ImageHashes.of([], []).repeated == ()


def test_a_hash_is_the_same_in_every_process():
    assert hash_of(("a.jpg", 640, 480)) == 16135502914359831977
